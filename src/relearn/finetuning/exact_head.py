"""The head that the features of a network get in the end: a logistic regression at its optimum."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from relearn.heads.coordinates import find_coordinates
from relearn.heads.fitted import LayeredHead
from relearn.heads.logistic import LogisticRegressionProblem
from relearn.heads.scoring import judge_scores
from relearn.heads.training_data import find_standard

VALUES_OF_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MIDDLE_C = 1e-2
TOLERANCE = 1e-4
MAX_PRODUCTS = 10_000
MEMORY_BYTES = 2_000_000_000  # about what the coordinates may take, beside the features


class Labeled(NamedTuple):
    """The images of a split: features (images, n_features) float32, and the numbers of their classes (images,)."""

    features: np.ndarray
    labels: np.ndarray


class ExactHead(NamedTuple):
    """A logistic regression on standardized features, and its answers on the validation split.

    right : (images,) bool
    log_loss : their mean
    """

    C: float
    fitted: LayeredHead
    right: np.ndarray
    log_loss: float

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right.mean())


def search_exact_head(training: Labeled, validation: Labeled, n_classes: int, C: float = MIDDLE_C) -> ExactHead:
    """Fit a logistic regression as stage `train` does, with the C of the lowest validation loss, looked for around `C`.

    The loss has one valley, so the search goes on only while its best C is the lowest or the highest that was tried.
    """
    tried: dict[float, ExactHead] = {}
    place = VALUES_OF_C.index(C)
    while True:
        near = VALUES_OF_C[max(0, place - 1) : place + 2]
        if not (missing := [value for value in near if value not in tried]):
            return tried[VALUES_OF_C[place]]
        tried |= {head.C: head for head in fit_exact_heads(training, validation, n_classes, missing)}
        place = VALUES_OF_C.index(min(tried, key=lambda value: tried[value].log_loss))


def fit_exact_head_below(training: Labeled, validation: Labeled, n_classes: int, C: float) -> ExactHead:
    """Return the better of the heads with `C`, the best one of an epoch before, and with the next lower value.

    The longer a network is trained, the better its features separate the training images, and the lower the best C is.
    """
    place = VALUES_OF_C.index(C)
    heads = fit_exact_heads(training, validation, n_classes, VALUES_OF_C[max(0, place - 1) : place + 1])
    return min(heads, key=lambda head: head.log_loss)


def fit_exact_heads(
    training: Labeled, validation: Labeled, n_classes: int, values_of_C: Sequence[float]
) -> list[ExactHead]:
    """Fit a logistic regression for each C, ascending."""
    # It brings a BLAS of its own, and only what is loaded can be held to one thread.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        standard = find_standard([training.features])
        n_rows, n_fits = len(training.labels), len(values_of_C)
        blocks = [training.features]
        coordinates = find_coordinates(blocks, standard, n_rows, MEMORY_BYTES, n_classes, n_fits=n_fits)
        heads = []
        with LogisticRegressionProblem(coordinates, training.labels, n_classes) as problem:
            for solution in problem.solve_path(values_of_C, np.ones(n_rows), TOLERANCE, MAX_PRODUCTS):
                layer = coordinates.restore(solution.weights), solution.intercepts
                fitted = LayeredHead(standard.mean, standard.scale, [layer], True, solution.n_iter, solution.converged)
                heads.append(judge_head(fitted, solution.C, validation))
    return heads


def judge_head(fitted: LayeredHead, C: float, validation: Labeled) -> ExactHead:
    """Return a head with its answers on the validation split."""
    right, losses = judge_scores(fitted, fitted.compute_scores(validation.features), validation.labels)
    return ExactHead(C, fitted, right, float(np.mean(losses)))  # type: ignore[arg-type]


def fold_standardization(fitted: LayeredHead) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (n_features, n_classes) and biases (n_classes,) that give the head's logits of plain features.

    ((x - mean) / scale) W + b = x (W / scale) + b - mean (W / scale). For two classes the head has one output, the log
    odds of the second: half of it is the logit of that, and minus half that of the first.
    """
    ((weights, biases),) = fitted.layers
    weights = weights / fitted.scale[:, np.newaxis]
    biases = biases - fitted.mean @ weights
    if len(biases) == 1:
        return np.hstack([-weights / 2, weights / 2]), np.concatenate([-biases / 2, biases / 2])
    return weights, biases
