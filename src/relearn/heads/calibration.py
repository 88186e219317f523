"""How the scores of a head become probabilities, in numpy and as ONNX, and how that is fitted."""

from typing import Any, NamedTuple

import numpy as np

from relearn.errors import TrainingError
from relearn.heads.fitted import Head
from relearn.heads.graph import Graph
from relearn.heads.training_data import TrainingData


class Calibration(NamedTuple):
    """How scores become probabilities.

    method : none | temperature | sigmoid | isotonic
    parameters : for temperature the factor before the softmax or logistic function; for sigmoid a pair (a, b) per
        output, whose probability is 1 / (1 + exp(a score + b)); for isotonic the points (scores, probabilities) per
        output, interpolated linearly
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
        """Add np.interp of a column: the first value, plus the slope of each piece times the distance into it."""
        x, y = (np.asarray(points, np.float64) for points in self.parameters[column])
        score = graph.add("Gather", scores, np.array([column]), axis=1)
        inside = graph.add("Min", graph.add("Max", graph.add("Sub", score, x[:-1]), np.array(0.0)), np.diff(x))
        return graph.add("Add", graph.add("MatMul", inside, (np.diff(y) / np.diff(x))[:, np.newaxis]), y[:1])


UNCALIBRATED = Calibration("none", [])


def fit_calibration(method: str, scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit a calibration by scikit-learn's `CalibratedClassifierCV`.

    Parameters
    ----------
    scores : ndarray (images, outputs)
        Of images that the head was not fitted on.
    labels : ndarray (images,) int64
        The number of each image's class; every class occurs.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV

    class _Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose features are already its scores."""

        classes_ = np.unique(labels)

        def fit(self, *_: np.ndarray) -> "_Scores":
            """Do nothing."""
            return self

        def predict(self, values: np.ndarray) -> np.ndarray:
            """Do nothing; scikit-learn checks that the method exists."""
            raise NotImplementedError

        def decision_function(self, values: np.ndarray) -> np.ndarray:
            """Return the scores, without the axis of outputs for two classes."""
            return values if len(self.classes_) > 2 else values[:, 0]

    everything = np.arange(len(labels))
    fit = CalibratedClassifierCV(_Scores(), method=method, cv=[(everything, everything)], ensemble=False)
    calibrated = fit.fit(scores, labels)
    calibrators = calibrated.calibrated_classifiers_[0].calibrators
    match method:
        case "temperature":  # scikit-learn reads the score of two classes as the logits (-score, score)
            (calibrator,) = calibrators
            return Calibration(method, [float(calibrator.beta_) * (2 if scores.shape[1] == 1 else 1)])
        case "sigmoid":
            return Calibration(method, [(float(c.a_), float(c.b_)) for c in calibrators])
        case _:
            points = [(np.asarray(c.X_thresholds_), np.asarray(c.y_thresholds_)) for c in calibrators]
            return Calibration(method, points)


def choose_calibration(head: Head, scores: np.ndarray, data: TrainingData) -> Calibration:
    """Fit the calibration that the parameters ask for on the scores of the validation split."""
    method = data.params.calibration
    if method == "auto":
        method = "none" if head.has_probabilities else "temperature"
    return UNCALIBRATED if method == "none" else fit_calibration(method, scores, data.validation_labels)


def check_calibration(data: TrainingData) -> None:
    """Raise `TrainingError` if a calibration may be needed and validation lacks a class."""
    method = data.params.calibration
    may_need = (
        method != "none" if method != "auto" else not all(grid.has_probabilities for _, grid in data.params.grids)
    )
    absent = sorted(set(data.classes) - set(data.validation.labels))
    if absent and may_need:
        raise TrainingError(
            where="validation",
            wanted=f"images of every class to calibrate on (train.calibration {method})",
            got=f"none of {', '.join(absent)}",
            advice="add some",
        )
