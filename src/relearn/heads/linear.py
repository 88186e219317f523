"""Linear heads: logistic regression, and a linear support vector machine."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relearn.errors import TrainingError
from relearn.heads.coordinates import plan_memory
from relearn.heads.fitted import LayeredHead
from relearn.heads.logistic import LogisticRegressionProblem
from relearn.heads.options import Options
from relearn.heads.training_data import TrainingData

SVM_TOLERANCE = 1e-6  # of the scores, relative to scikit-learn's
ROUNDING = 3e-8  # of a score, by the rounding of the coefficients; about the rounding of a probability as float32


@dataclass(frozen=True)
class LogisticRegressionOptions(Options):
    """Those of `relearn.params.heads.LogisticRegressionParams`."""

    C: float
    tol: float
    max_iter: int


@dataclass(frozen=True)
class LinearSVMOptions(Options):
    """Those of `relearn.params.heads.LinearSVMParams`."""

    C: float
    tol: float
    max_iter: int


def fit_logistic_regressions(
    candidates: Sequence[LogisticRegressionOptions],
    data: TrainingData,
    sample_weights: np.ndarray,
    track: Callable[..., Iterator[Any]],
) -> list[LayeredHead]:
    """Fit a logistic regression for each of the options, which differ in C alone, ascending.

    Parameters
    ----------
    track
        Shows how far the fits are; see `track_progress`.
    """
    values = [options.C for options in candidates]
    with LogisticRegressionProblem(data.coordinates, data.labels, len(data.classes)) as problem:
        steps: Iterable[Any] = problem.iterate_path(values, sample_weights, candidates[0].tol, candidates[0].max_iter)
        steps = track(steps, len(values), unit="values of C", count=lambda step: step.n_values)
        solutions = {step.solution.C: step.solution for step in steps if step.solution is not None}
    ordered = [solutions[C] for C in values]
    restored = data.coordinates.restore(np.hstack([solution.weights for solution in ordered]))
    step = choose_rounding_step(data)
    return [
        LayeredHead(
            data.mean, data.scale, [(_round(weights, step), _round(s.intercepts, step))], True, s.n_iter, s.converged
        )
        for s, weights in zip(ordered, np.split(restored, len(ordered), axis=1), strict=True)
    ]


def choose_rounding_step(data: TrainingData) -> float:
    """Return a power of two; coefficients are rounded to its multiples, so that all processors write the same bits.

    What differs between processors is far less than this step, and changes a multiple only where a coefficient lies
    next to the middle of two. By a step h the score z w of standardized features z moves by about h |z| / sqrt(12),
    which is at most `ROUNDING` where |z|^2 is its mean over the images. The intercept is a weight of a feature of 1.
    """
    mean_square = 1 + float(np.sum(data.variance / data.scale**2))
    return 2.0 ** math.floor(math.log2(ROUNDING * math.sqrt(12 / mean_square)))


def _round(values: np.ndarray, step: float) -> np.ndarray:
    return np.round(values / step) * step + 0.0  # not -0.0


def fit_linear_svm(options: LinearSVMOptions, data: TrainingData, sample_weights: np.ndarray) -> LayeredHead:
    """Fit scikit-learn's `LinearSVC` on the coordinates, and check that the restored head has its scores."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    present = sample_weights > 0
    rows = data.coordinates.load_rows()
    svm = LinearSVC(C=options.C, tol=options.tol, max_iter=options.max_iter, dual=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svm.fit(rows[present], data.labels[present], sample_weights[present])
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    weights = data.coordinates.restore(svm.coef_.T)
    head = LayeredHead(data.mean, data.scale, [(weights, svm.intercept_)], False, int(svm.n_iter_), converged)
    first = data.training.blocks[0]
    _check_scores(head.compute_scores(first), svm.decision_function(rows[: len(first)]))
    return head


def _check_scores(scores: np.ndarray, wanted: np.ndarray) -> None:
    """Raise `TrainingError` if the scores of the head are not those of scikit-learn's estimator."""
    difference = np.abs(scores - wanted.reshape(scores.shape)).max()
    if not difference <= SVM_TOLERANCE * max(1, np.abs(wanted).max()):
        raise TrainingError(
            where="train.linear_svm",
            wanted="the scores of scikit-learn's estimator",
            got=f"some that differ by {difference:.2g}",
            advice="set train.scale: true, because the features may be too large or too different in scale",
        )


def count_svm_bytes(data: TrainingData) -> int:
    """Return the memory that `fit_linear_svm` needs beyond what `find_coordinates` plans for."""
    n_rows, n_features = len(data.labels), len(data.mean)
    plan = plan_memory(n_rows, n_features, data.memory_bytes, len(data.classes))
    return 0 if plan.hold else 2 * 8 * n_rows * n_features
