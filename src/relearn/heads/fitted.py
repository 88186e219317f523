"""What a trained head is: scores of features, probabilities of scores, and both as ONNX.

The scores of a head are (images, outputs): one output a class, or for two classes a single one, larger where the second
class is likelier. A calibration turns them into the probability of each class, (images, classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from relearn.errors import TrainingError
from relearn.inference.classifier import open_head
from relearn.inference.screening import DOUBLE, FLOAT, IR_VERSION, OPSETS, STRING

# float32 probabilities of the head against float64 ones here; onnxruntime also adds up the trees' answers in float32.
HEAD_TOLERANCE = 1e-6
TREE_TOLERANCE = 1e-5
LEAST_PROBABILITY = 1e-9  # of a tree's leaf, so that it has a logarithm


class Graph:
    """The nodes and constants of an ONNX graph, as they come."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Add a node whose inputs are names, or arrays that become constants; return the name of its output."""
        from onnx import helper, numpy_helper

        names = []
        for value in inputs:
            if isinstance(value, str):
                names.append(value)
                continue
            names.append(f"constant_{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(value, names[-1]))
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output


@dataclass(frozen=True)
class LayeredHead:
    """Standardised features through affine layers with ReLU between them; a linear model has one layer.

    mean, scale : (n_features,)
    layers : of each the weights (inputs, outputs) and the biases (outputs,)
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
        logs: np.ndarray = np.log(np.maximum(self.estimator.predict_proba(features), LEAST_PROBABILITY))
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
        # Each tree's share of the answer is a fraction of 1, and float32 would add up hundreds of roundings of it.
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

        def add_logarithm(shares: str) -> str:
            return graph.add("Log", graph.add("Max", shares, np.array(LEAST_PROBABILITY)))

        if self.estimator.n_classes_ > 2:
            return add_logarithm(values)
        # The trees vote for the second class alone; the first column is 1 - that, which is wrong for many votes.
        second = graph.add("Gather", values, np.array([1]), axis=1)
        return graph.add("Sub", add_logarithm(second), add_logarithm(graph.add("Sub", np.array(1.0), second)))


Head = LayeredHead | TreeHead


class Calibration(NamedTuple):
    """How scores become probabilities.

    method : none | temperature | sigmoid | isotonic
    parameters : of temperature the factor before the softmax or logistic function; of sigmoid a pair (a, b) each
        output, whose probability is 1 / (1 + exp(a score + b)); of isotonic the points (scores, probabilities) each
        output, between which lines are drawn
    """

    method: str
    parameters: list[Any]

    def compute_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each class: scores (images, outputs) to (images, classes), float64."""
        from scipy.special import expit, softmax

        if self.method in ("none", "temperature"):
            scores = scores * (self.parameters[0] if self.parameters else 1.0)
            if scores.shape[1] > 1:
                return np.asarray(softmax(scores, axis=1))
            shares = expit(scores)
        elif self.method == "sigmoid":
            shares = np.column_stack([expit(-(a * s + b)) for s, (a, b) in zip(scores.T, self.parameters, strict=True)])
        else:
            shares = np.column_stack([np.interp(s, x, y) for s, (x, y) in zip(scores.T, self.parameters, strict=True)])
        if shares.shape[1] == 1:
            return np.hstack([1 - shares, shares])
        total = shares.sum(axis=1, keepdims=True)
        return np.asarray(np.where(total > 0, shares / np.where(total > 0, total, 1), 1 / shares.shape[1]))

    def add_nodes(self, graph: Graph, scores: str, n_classes: int) -> str:
        """Add the nodes from the scores on; return the name of the probabilities."""
        if self.method in ("none", "temperature"):
            if self.parameters:
                scores = graph.add("Mul", scores, np.array(self.parameters[0], np.float64))
            if n_classes > 2:
                return graph.add("Softmax", scores, axis=1)
            shares = graph.add("Sigmoid", scores)
        elif self.method == "sigmoid":
            a, b = (np.array(values, np.float64) for values in zip(*self.parameters, strict=True))
            shares = graph.add("Sigmoid", graph.add("Sub", graph.add("Mul", scores, -a), b))
        else:
            columns = [self._interpolate(graph, scores, column) for column in range(len(self.parameters))]
            shares = graph.add("Concat", *columns, axis=1)
        if n_classes == 2:
            return graph.add("Concat", graph.add("Sub", np.array(1.0), shares), shares, axis=1)
        total = graph.add("ReduceSum", shares, np.array([1]), keepdims=1)
        nothing = graph.add("Equal", total, np.array(0.0))
        divided = graph.add("Div", shares, graph.add("Where", nothing, np.array(1.0), total))
        return graph.add("Where", nothing, np.array(1 / n_classes), divided)

    def _interpolate(self, graph: Graph, scores: str, column: int) -> str:
        """Add np.interp of a column: the first value, and of each piece its slope times the way into it."""
        x, y = (np.asarray(points, np.float64) for points in self.parameters[column])
        score = graph.add("Gather", scores, np.array([column]), axis=1)
        inside = graph.add("Min", graph.add("Max", graph.add("Sub", score, x[:-1]), np.array(0.0)), np.diff(x))
        return graph.add("Add", graph.add("MatMul", inside, (np.diff(y) / np.diff(x))[:, np.newaxis]), y[:1])


def calibrate(method: str, scores: np.ndarray, truth: np.ndarray) -> Calibration:
    """Fit a calibration by scikit-learn's `CalibratedClassifierCV`.

    Parameters
    ----------
    scores : ndarray (images, outputs)
        Of images that the head was not fitted on.
    truth : ndarray (images,) int64
        The number of each image's class; every class is there.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV

    class Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose features are its scores already."""

        classes_ = np.unique(truth)

        def fit(self, *_: np.ndarray) -> "Scores":
            return self

        def predict(self, values: np.ndarray) -> np.ndarray:  # scikit-learn asks whether there is one
            raise NotImplementedError

        def decision_function(self, values: np.ndarray) -> np.ndarray:
            return values if len(self.classes_) > 2 else values[:, 0]

    everything = np.arange(len(truth))
    fit = CalibratedClassifierCV(Scores(), method=method, cv=[(everything, everything)], ensemble=False)
    calibrated = fit.fit(scores, truth)
    calibrators = calibrated.calibrated_classifiers_[0].calibrators
    match method:
        case "temperature":  # scikit-learn takes the score of two classes for the logits (-score, score)
            (calibrator,) = calibrators
            return Calibration(method, [float(calibrator.beta_) * (2 if scores.shape[1] == 1 else 1)])
        case "sigmoid":
            return Calibration(method, [(float(c.a_), float(c.b_)) for c in calibrators])
        case _:
            points = [(np.asarray(c.X_thresholds_), np.asarray(c.y_thresholds_)) for c in calibrators]
            return Calibration(method, points)


def export_head(head: Head, calibration: Calibration, classes: list[str], blocks: Sequence[np.ndarray]) -> bytes:
    """Return a head as ONNX: input `features` float32; outputs `label` text, `probabilities` float32.

    Raises
    ------
    TrainingError
        For a row of `blocks` the ONNX head has other probabilities than `head`, or another label than they say.
    IntegrityError
        It could not be opened again: it is larger than `read_classifier` takes, or a tree is too deep.
    """
    from onnx import helper

    graph = Graph()
    values = calibration.add_nodes(graph, head.add_nodes(graph), len(classes))
    probabilities = graph.add("Cast", values, to=FLOAT, output="probabilities")
    number = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    graph.add("Gather", np.array(classes, object), number, output="label")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "head",
            [helper.make_tensor_value_info("features", FLOAT, [None, blocks[0].shape[1]])],
            [
                helper.make_tensor_value_info("label", STRING, [None]),
                helper.make_tensor_value_info("probabilities", FLOAT, [None, len(classes)]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid(*pair) for pair in OPSETS.items()],
        ir_version=IR_VERSION,
    )
    content: bytes = model.SerializeToString(deterministic=True)
    session = open_head(content, blocks[0].shape[1], classes)
    tolerance = TREE_TOLERANCE if isinstance(head, TreeHead) else HEAD_TOLERANCE
    for block in blocks:
        features = np.asarray(block, np.float32)
        answered, labels = session.run(["probabilities", "label"], {"features": features})
        difference = float(np.abs(answered - calibration.compute_probabilities(head.compute_scores(features))).max())
        if not difference <= tolerance:
            raise TrainingError(
                f"head.onnx: wanted the probabilities of the fitted model, got some that differ by {difference:.2g} "
                f"(at most {tolerance:g})"
            )
        if list(labels) != [classes[column] for column in answered.argmax(axis=1)]:
            raise TrainingError("head.onnx: wanted the label of the largest probability, got another")
    return content
