"""What a fitted head is, whatever fitted it: scores of features, in numpy and as ONNX.

The scores are (images, outputs): one output per class, or for two classes a single one, larger where the second class
is likelier.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from relearn.heads.graph import Graph
from relearn.inference.screening import DOUBLE, OPSETS

MIN_PROBABILITY = 1e-9  # of a tree's leaf, so that it has a logarithm


@dataclass(frozen=True)
class LayeredHead:
    """Standardized features through affine layers with ReLU between them; a linear model has one layer.

    mean, scale : (n_features,)
    layers : weights (inputs, outputs) and biases (outputs,) of each
    has_probabilities : whether the logistic function or softmax of the scores are probabilities
    n_iter : of the solver, or the best epoch; None if the fit has none
    converged : whether the solver reached its tolerance
    """

    mean: np.ndarray
    scale: np.ndarray
    layers: list[tuple[np.ndarray, np.ndarray]]
    has_probabilities: bool
    n_iter: int | None = None
    converged: bool = True

    def compute_scores(self, features: np.ndarray) -> np.ndarray:
        """Return the scores of features (images, n_features), (images, outputs) float64."""
        values: np.ndarray = (features - self.mean) / self.scale
        for number, (weights, biases) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ weights + biases
        return values

    def add_nodes(self, graph: Graph) -> str:
        """Add the nodes from `features` on, in float64; return the name of the scores."""
        values = graph.add("Cast", "features", to=DOUBLE)
        values = graph.add("Div", graph.add("Sub", values, self.mean), self.scale)
        for number, (weights, biases) in enumerate(self.layers):
            values = graph.add("Relu", values) if number else values
            values = graph.add("Add", graph.add("MatMul", values, np.asarray(weights, np.float64)), biases)
        return values


@dataclass(frozen=True)
class TreeHead:
    """A decision tree or a forest of scikit-learn; its scores are the logarithms of the probabilities."""

    estimator: Any
    has_probabilities: bool = True
    n_iter: int | None = None
    converged: bool = True

    def compute_scores(self, features: np.ndarray) -> np.ndarray:
        """Return the scores of features (images, n_features), (images, outputs) float64."""
        logs: np.ndarray = np.log(np.maximum(self.estimator.predict_proba(features), MIN_PROBABILITY))
        return logs[:, 1:] - logs[:, :1] if logs.shape[1] == 2 else logs

    def add_nodes(self, graph: Graph) -> str:
        """Add scikit-learn's trees as skl2onnx writes them; return the name of the scores."""
        from onnx.compose import add_prefix
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        model = to_onnx(
            self.estimator,
            initial_types=[("features", FloatTensorType([None, self.estimator.n_features_in_]))],
            options={id(self.estimator): {"zipmap": False}},
            target_opset=OPSETS,
        )
        # Each tree adds its share, a fraction of 1, in float32; whole shares add up without rounding.
        n_trees = len(getattr(self.estimator, "estimators_", [0]))
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "class_weights":
                    attribute.floats[:] = [weight * n_trees for weight in attribute.floats]
        model = add_prefix(model, "tree_", rename_inputs=False)
        graph.nodes += model.graph.node
        graph.constants += model.graph.initializer
        values = graph.add("Cast", "tree_probabilities", to=DOUBLE)
        values = graph.add("Div", values, np.array(float(n_trees)))

        def _add_logarithm(shares: str) -> str:
            return graph.add("Log", graph.add("Max", shares, np.array(MIN_PROBABILITY)))

        if self.estimator.n_classes_ > 2:
            return _add_logarithm(values)
        # The trees vote for the second class alone; the first column is 1 - that, which is wrong for many votes.
        second = graph.add("Gather", values, np.array([1]), axis=1)
        return graph.add("Sub", _add_logarithm(second), _add_logarithm(graph.add("Sub", np.array(1.0), second)))


Head = LayeredHead | TreeHead
