"""Metrics of a classifier, their bootstrap intervals, and the points of its curves.

The bootstrap computes a metric for thousands of resamples, so its metrics take many resamples at once; a test holds
them equal to scikit-learn's, which take one at a time. What is computed once is scikit-learn's own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from relearn.errors import IntegrityError
from relearn.evaluation.intervals import bootstrap, compute_wilson_interval
from relearn.params.pipeline import EvaluateParams
from relearn.storage.files import WRITE_AGAIN

LEAST_PROBABILITY = 5e-7  # below it reports/predictions.csv has 0, and `relearn compare` could not find the same loss
CLASS_HEADER = ("class", "n_images", "precision", "recall", "f1")


class Judged(NamedTuple):
    """Labeled images and a classifier's predictions for them.

    labels, predicted : (images,) int64, columns of `probabilities`
    probabilities : (images, classes) float64, each row sums to 1
    groups : (images,) int64, the number of each image's group; None without groups
    """

    classes: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None = None


class Measured(NamedTuple):
    """Metrics, fractions from 0 to 1, and the ends of the 95 % interval of each headline one; at most 6 decimals.

    They are the content of `metrics/evaluation.json` and of `reports/intervals.json`.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def check_intervals(
    intervals: Mapping[str, Any], metrics: Mapping[str, Any], where: object
) -> dict[str, tuple[float, float]]:
    """Return intervals that were read from `where` with their metrics, the low end before the high end.

    Raises
    ------
    IntegrityError
        An interval is not two numbers in order, or is that of no metric.
    """
    found: dict[str, tuple[float, float]] = {}
    for key, ends in intervals.items():
        if not _are_numbers([metrics.get(key)]):
            got = f"{key}: {metrics.get(key)!r:.80}"
            raise IntegrityError(where=where, wanted="intervals of metrics", got=got, advice=WRITE_AGAIN)
        if not (isinstance(ends, list) and len(ends) == 2 and _are_numbers(ends) and ends[0] <= ends[1]):
            wanted, got = f"the low and the high end of {key}", f"{ends!r:.80}"
            raise IntegrityError(where=where, wanted=wanted, got=got, advice=WRITE_AGAIN)
        found[key] = (ends[0], ends[1])
    return found


def _are_numbers(values: Sequence[object]) -> bool:
    return all(type(value) in (int, float) for value in values)


# Takes resamples (resamples, images), each the numbers of as many images of every class as there are; returns the value
# for each, (resamples,) float64.
Metric = Callable[[np.ndarray], np.ndarray]


class Curves(NamedTuple):
    """The points of the curves, x before y: false and true positive rates, recall and precision."""

    roc: tuple[np.ndarray, np.ndarray]
    precision_recall: tuple[np.ndarray, np.ndarray]


def judge(
    classes: list[str], labels: Sequence[str], probabilities: np.ndarray, predicted: Sequence[str] | None = None
) -> Judged:
    """Put labels and probabilities (images, classes) into the form that the metrics take.

    Parameters
    ----------
    predicted
        The predicted class of each image; by default the most probable one, the first of them in a tie.
    """
    column = {name: number for number, name in enumerate(classes)}
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 rows sum to 1 up to 1e-7; scikit-learn requires less
    columns = probabilities.argmax(axis=1) if predicted is None else np.array([column[name] for name in predicted])
    return Judged(classes, np.array([column[label] for label in labels]), columns, exact)


def compute_metrics(judged: Judged, params: EvaluateParams) -> Measured:
    """Compute the metrics of judged images, and the intervals of the headline ones.

    The baseline always predicts the most frequent class of these images. If a class has no image, balanced accuracy, F1
    and ROC AUC are means over the others. The interval of the accuracy is Wilson's, that of the others the percentiles
    of a bootstrap stratified by class, which draws images or groups. If it draws groups, accuracy has percentiles too,
    or, where all images or none are right, Wilson's interval of as many images as there are groups.
    """
    n_images = len(judged.labels)
    n_right = int((judged.labels == judged.predicted).sum())
    headlines = prepare_metrics(judged, params.n_bins)
    intervals = {"accuracy_score": compute_accuracy_interval(judged, params)}
    intervals |= bootstrap_intervals(judged, headlines, params)
    _, recalls, _, n_per_class = score_classes(judged)
    metrics: dict[str, float] = {
        "n_images": n_images,
        **({} if judged.groups is None else {"n_groups": len(np.unique(judged.groups))}),
        "n_classes": len(judged.classes),
        "accuracy_score": n_right / n_images,
        **{name: compute_value(metric, judged) for name, metric in headlines.items()},
        "lowest_recall_score": float(recalls[n_per_class > 0].min()),
        "majority_baseline_score": float(n_per_class.max() / n_images),
    }
    return Measured(
        {name: round(value, 6) for name, value in metrics.items()},
        {name: (round(low, 6), round(high, 6)) for name, (low, high) in intervals.items()},
    )


def compute_accuracy_interval(judged: Judged, params: EvaluateParams) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy; see `compute_metrics`."""
    right = judged.labels == judged.predicted
    n_right, n_images = int(right.sum()), len(right)
    if judged.groups is None or params.resample == "images":
        return compute_wilson_interval(n_right, n_images)
    if n_right in (0, n_images):
        n_groups = len(np.unique(judged.groups))
        return compute_wilson_interval(n_groups if n_right else 0, n_groups)
    return bootstrap_intervals(judged, {"": lambda drawn: right[drawn].mean(axis=1)}, params)[""]


def prepare_metrics(judged: Judged, n_bins: int) -> dict[str, Metric]:
    """Return the headline metrics except accuracy; what all resamples have in common is computed here, once."""
    return {
        "balanced_accuracy_score": prepare_balanced_accuracy(judged),
        "macro_f1_score": prepare_macro_f1(judged),
        "roc_auc_score": prepare_roc_auc(judged),
        "log_loss": prepare_log_loss(judged),
        "calibration_error": prepare_calibration_error(judged, n_bins),
    }


def bootstrap_intervals(
    judged: Judged, metrics: dict[str, Metric], params: EvaluateParams
) -> dict[str, tuple[float, float]]:
    """Return the 2.5th and 97.5th percentile of each metric over the same resamples of the images or groups."""

    def _compute(drawn: np.ndarray) -> np.ndarray:
        return np.column_stack([metric(drawn) for metric in metrics.values()])

    groups = judged.groups if params.resample == "groups" else None
    low, high = bootstrap(judged.labels, _compute, params.n_resamples, params.seed, "evaluate", groups=groups)
    return {name: (float(low[column]), float(high[column])) for column, name in enumerate(metrics)}


def compute_value(metric: Metric, judged: Judged) -> float:
    """Return the value of a metric for the images themselves."""
    return float(metric(np.arange(len(judged.labels))[np.newaxis])[0])


def score_classes(judged: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall, F1 and number of images of each class, each (classes,); a score of 0 / 0 is 0."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = np.arange(len(judged.classes))
    precisions, recalls, f1, n_images = precision_recall_fscore_support(
        judged.labels, judged.predicted, labels=columns, zero_division=0
    )
    return precisions, recalls, f1, n_images


def report_classes(judged: Judged) -> list[tuple[object, ...]]:
    """Return one row per class: name, number of images, precision, recall, F1."""
    *scores, n_images = score_classes(judged)
    return [
        (name, int(n_images[column]), *(f"{score[column]:.6f}" for score in scores))
        for column, name in enumerate(judged.classes)
    ]


def _sum_by(codes: np.ndarray, drawn: np.ndarray, n_codes: int, values: np.ndarray | None = None) -> np.ndarray:
    """Count the images of each code in each resample, or sum up values (images,) of them: (resamples, n_codes)."""
    numbered = codes[drawn] + n_codes * np.arange(len(drawn))[:, np.newaxis]
    drawn_values = None if values is None else values[drawn].ravel()
    return np.bincount(numbered.ravel(), drawn_values, n_codes * len(drawn)).reshape(len(drawn), n_codes)


def _number_right(judged: Judged) -> np.ndarray:
    """Return the class of each image that is predicted right, and for the others the number of classes."""
    return np.where(judged.labels == judged.predicted, judged.labels, len(judged.classes))


def prepare_balanced_accuracy(judged: Judged) -> Metric:
    """Return the mean recall of the classes that have images, as a metric."""
    right, n_classes = _number_right(judged), len(judged.classes)
    present, sizes = np.unique(judged.labels, return_counts=True)
    return lambda drawn: np.asarray((_sum_by(right, drawn, n_classes + 1)[:, present] / sizes).mean(axis=1))


def prepare_macro_f1(judged: Judged) -> Metric:
    """Return the mean F1 of the classes that have images, as a metric."""
    right, n_classes = _number_right(judged), len(judged.classes)
    present, sizes = np.unique(judged.labels, return_counts=True)

    def _compute(drawn: np.ndarray) -> np.ndarray:
        n_right = _sum_by(right, drawn, n_classes + 1)[:, present]
        n_predicted = _sum_by(judged.predicted, drawn, n_classes)[:, present]
        return np.asarray((2 * n_right / (n_predicted + sizes)).mean(axis=1))

    return _compute


def prepare_roc_auc(judged: Judged) -> Metric:
    """Return the area under the ROC curve as a metric: of the second of two classes, else the mean of one-vs-rest.

    The share of pairs of an image of the class and another in which the first has the larger probability (Mann and
    Whitney 1947), ties counted half. Classes with no image, or with all of them, are left out; if only one class has
    images, there is no curve, and the area is 0.5 by convention.
    """
    columns = [1] if len(judged.classes) == 2 else range(len(judged.classes))
    sizes = np.bincount(judged.labels, minlength=len(judged.classes))
    columns = [column for column in columns if 0 < sizes[column] < len(judged.labels)]
    if not columns:
        return lambda drawn: np.full(len(drawn), 0.5)
    n_pairs = sizes[columns] * (len(judged.labels) - sizes[columns])
    levels, others, first_levels = _rank_images(judged, columns)

    def _compute(drawn: np.ndarray) -> np.ndarray:
        n_copies = np.ascontiguousarray(_sum_by(np.arange(len(judged.labels)), drawn, len(judged.labels)).T, np.int32)
        above = np.cumsum(others @ n_copies, axis=0, dtype=np.int64)
        before = np.vstack([np.zeros_like(above[:1]), above])[2 * first_levels]  # of the classes before
        n_levels = np.diff(np.append(first_levels, levels.shape[0]))
        twice = above[0::2] + above[1::2] - 2 * np.repeat(before, n_levels, axis=0)
        n_wrong = np.add.reduceat((levels @ n_copies) * twice, first_levels, axis=0).T / 2
        return np.asarray(np.ascontiguousarray((n_pairs - n_wrong) / n_pairs).mean(axis=1))

    return _compute


def _rank_images(judged: Judged, columns: Sequence[int]) -> tuple[Any, Any, np.ndarray]:
    """Sort images by the probability of each class of `columns`.

    Returns
    -------
    levels : sparse (levels, images)
        Which images of the class have that probability; the levels of a class from high to low, class after class.
    others : sparse (2 levels, images)
        Which images of other classes lie above that level and not above the next higher one, and which are on it.
    first_levels : ndarray (columns,)
        The first level of each class.
    """
    from scipy.sparse import csr_array

    found: list[list[np.ndarray]] = [[], [], [], []]
    first_levels, n_levels = [], 0
    for column in columns:
        scores = judged.probabilities[:, column]
        positive = judged.labels == column
        steps = np.unique(scores[positive])
        negatives = np.flatnonzero(~positive & (scores >= steps[0]))
        passed = np.searchsorted(steps, scores[negatives]) + np.searchsorted(steps, scores[negatives], "right")
        positives = np.flatnonzero(positive)
        level = n_levels + len(steps) - 1 - np.searchsorted(steps, scores[positives])
        place = 2 * (n_levels + len(steps)) - passed
        for together, part in zip(found, (level, positives, place, negatives), strict=True):
            together.append(part.astype(np.int32))
        first_levels.append(n_levels)
        n_levels += len(steps)
    level, positive, place, negative = (np.concatenate(parts) for parts in found)
    n_images = len(judged.labels)
    levels = csr_array((np.ones(len(level), np.int32), (level, positive)), (n_levels, n_images))
    others = csr_array((np.ones(len(place), np.int32), (place, negative)), (2 * n_levels, n_images))
    return levels, others, np.array(first_levels)


def prepare_log_loss(judged: Judged) -> Metric:
    """Return the mean of -ln(probability of the label) as a metric; probabilities are at least `LEAST_PROBABILITY`."""
    given = judged.probabilities[np.arange(len(judged.labels)), judged.labels]
    losses = -np.log(np.maximum(given, LEAST_PROBABILITY))
    return lambda drawn: np.asarray(losses[drawn].mean(axis=1))


def prepare_calibration_error(judged: Judged, n_bins: int) -> Metric:
    """Return the expected calibration error over equal-width bins as a metric (Guo et al. 2017, equation 3).

    The confidence is the probability of the predicted class; the error of a bin is the distance of its mean confidence
    from its accuracy, weighted with its share of the images.
    """
    bins, confidence, right = _number_bins(judged, n_bins)

    def _compute(drawn: np.ndarray) -> np.ndarray:
        errors = np.abs(_sum_by(bins, drawn, n_bins, confidence) - _sum_by(bins, drawn, n_bins, right))
        return np.asarray(errors.sum(axis=1) / len(bins))

    return _compute


def _number_bins(judged: Judged, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bin ((b - 1) / n_bins, b / n_bins] of each image's confidence, from 0; that; 1.0 if it is right."""
    confidence = judged.probabilities[np.arange(len(judged.labels)), judged.predicted]
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return bins, confidence, (judged.labels == judged.predicted).astype(np.float64)


def bin_confidences(judged: Judged, n_bins: int) -> list[tuple[float, float, int]]:
    """Return mean confidence, accuracy and number of images of each bin ((b - 1) / n_bins, b / n_bins] with images."""
    bins, confidence, right = _number_bins(judged, n_bins)
    n_images = np.bincount(bins, minlength=n_bins)
    sums = zip(n_images, np.bincount(bins, confidence, n_bins), np.bincount(bins, right, n_bins), strict=True)
    return [(float(c / n), float(r / n), int(n)) for n, c, r in sums if n > 0]


def compute_curves(judged: Judged) -> Curves:
    """Return the ROC and precision-recall curves.

    They are those of the second of two classes; for more classes all one-vs-rest decisions are pooled (micro-average).
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    columns = slice(1, 2) if len(judged.classes) == 2 else slice(None)
    decisions = np.eye(len(judged.classes), dtype=np.int64)[judged.labels][:, columns].ravel()
    scores = judged.probabilities[:, columns].ravel()
    false_positive_rate, true_positive_rate, _ = roc_curve(decisions, scores)
    precision, recall, _ = precision_recall_curve(decisions, scores, drop_intermediate=True)
    return Curves((false_positive_rate, true_positive_rate), (recall[::-1], precision[::-1]))
