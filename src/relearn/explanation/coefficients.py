"""The coefficients of a linear head, read from its ONNX graph."""

from typing import NamedTuple

import numpy as np

# What `LayeredHead.add_nodes` writes for one layer: (features - mean) / scale, times the weights, plus the biases.
CHAIN = ("Cast", "Sub", "Div", "MatMul", "Add")


class Coefficients(NamedTuple):
    """A linear score of the features: sum((features - mean) * weights) + bias.

    mean, weights : (n_features,) float64
    bias : float
    """

    mean: np.ndarray
    weights: np.ndarray
    bias: float


class LinearHead(NamedTuple):
    """Standardized features times weights plus biases, before the calibration.

    mean, scale : (n_features,) float64
    weights, biases : (n_features, outputs) and (outputs,) float64; two classes have one output, which is larger where
        the second class is likelier
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    biases: np.ndarray

    def find_coefficients(self, number: int) -> Coefficients:
        """Return the score of a class, by its number.

        With two classes it is the score against the other one. With more it is the score against the mean of all
        classes, because softmax ignores what is added to all scores.
        """
        if self.weights.shape[1] == 1:
            sign = 1.0 if number else -1.0
            weights, bias = sign * self.weights[:, 0], sign * self.biases[0]
        else:
            weights = self.weights[:, number] - self.weights.mean(axis=1)
            bias = self.biases[number] - self.biases.mean()
        return Coefficients(self.mean, weights / self.scale, float(bias))


def read_linear_head(content: bytes, n_classes: int) -> LinearHead | None:
    """Read the coefficients of a head that `check_head` accepts; None if it is not linear in the features.

    That is so if its graph begins in another way than `CHAIN`, or goes on with a ReLU.
    """
    from onnx import load_model_from_string, numpy_helper

    graph = load_model_from_string(content).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    value, found = "features", []
    for operator in CHAIN:
        users = [node for node in graph.node if value in node.input]
        if [node.op_type for node in users] != [operator] or users[0].input[0] != value:
            return None
        found += [numpy_helper.to_array(constants[name]) for name in users[0].input[1:] if name in constants]
        value = users[0].output[0]
    n_outputs = 1 if n_classes == 2 else n_classes
    n_features = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    shapes = [(n_features,), (n_features,), (n_features, n_outputs), (n_outputs,)]
    if [array.shape for array in found] != shapes or any(node.op_type == "Relu" for node in graph.node):
        return None
    return LinearHead(*found)
