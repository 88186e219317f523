"""Stage `evaluate`: the one look at the evaluation split."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import IntegrityError, TrainingError
from relearn.evaluation.intervals import compute_wilson_interval, draw_resamples, find_percentiles
from relearn.features.shards import describe_features, read_features
from relearn.inference.classifier import read_classifier
from relearn.params import EvaluateParams
from relearn.runtime.progress import track_progress
from relearn.storage.files import write_csv, write_json

log = logging.getLogger(__name__)

CLASS_HEADER = ("class", "n_images", "precision", "recall", "f1")

N_BINS_PLOTTED = 10
QUIET_SECONDS = 3.0  # that resampling may take before it shows how far it is
# More points than a plot can show would only make the files in git larger.
N_CURVE_POINTS = 500


class Judged(NamedTuple):
    """The evaluation split and what the classifier made of it.

    truth, predicted : (images,) int64, columns of `probabilities`
    probabilities : (images, classes) float64, each row sums to 1
    """

    classes: list[str]
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


# Takes resamples (resamples, images), each the numbers of as many images of every class as the split has; returns the
# value for each, (resamples,) float64.
Metric = Callable[[np.ndarray], np.ndarray]


def run(params: EvaluateParams) -> None:
    """Write `metrics/evaluation.json`, `reports/predictions.csv`, `reports/classes.csv` and four plots.

    Raises
    ------
    TrainingError
        The evaluation split is empty, or has a class that the classifier does not know.
    IntegrityError
        Features, classifier and manifest do not belong together.
    """
    classifier = read_classifier(paths.CLASSIFIER)
    trained_on = {key: classifier.record[key] for key in ("features", "extractor")}
    if trained_on != describe_features(paths.FEATURES):
        raise IntegrityError(f"{paths.CLASSIFIER} was trained on other features than {paths.FEATURES}; run `dvc repro`")
    evaluation = read_features(paths.FEATURES, "evaluation", memory_bytes=0)
    check_labels(evaluation.labels, classifier.classes)
    images = [row for row in read_manifest(paths.MANIFEST) if row.split == "evaluation"]
    if [(image.sha256, image.label) for image in images] != list(
        zip(evaluation.sha256, evaluation.labels, strict=True)
    ):
        raise IntegrityError(f"{paths.FEATURES} and {paths.MANIFEST} list other evaluation images; run `dvc repro`")

    probabilities = np.concatenate([classifier.predict_probabilities(block) for block in evaluation.blocks])
    predicted = classifier.predict_labels(probabilities)
    rows = [
        (image.path, image.sha256, image.label, label, *(f"{p:.6f}" for p in row))
        for image, label, row in zip(images, predicted, probabilities, strict=True)
    ]
    header = ("path", "sha256", "label", "predicted", *(f"probability_{name}" for name in classifier.classes))
    write_csv(paths.PREDICTIONS, header, rows)

    judged = judge(classifier.classes, evaluation.labels, probabilities)
    metrics = compute_metrics(judged, params)
    write_json(paths.EVALUATION_METRICS, metrics)
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, report_classes(judged))
    write_plots(judged)
    log.info(
        "%d evaluation images: accuracy %.4f (95 %% interval %.4f to %.4f), majority baseline %.4f",
        metrics["n_images"],
        metrics["accuracy_score"],
        metrics["accuracy_score_ci95_low"],
        metrics["accuracy_score_ci95_high"],
        metrics["majority_baseline_score"],
    )


def check_labels(labels: list[str], classes: list[str]) -> None:
    """Raise `TrainingError` unless there are images, all of classes that the classifier knows."""
    if not labels:
        raise TrainingError("evaluation: wanted images, got none; raise restructure.fractions.evaluation")
    if unknown := sorted(set(labels) - set(classes)):
        raise TrainingError(f"evaluation: wanted the classes of training, got also {unknown}; add them to training")


def judge(classes: list[str], labels: Sequence[str], probabilities: np.ndarray) -> Judged:
    """Put labels and float32 probabilities into the form that the metrics take."""
    column = {name: number for number, name in enumerate(classes)}
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 rows sum to 1 up to 1e-7; scikit-learn wants closer
    truth = np.array([column[label] for label in labels])
    return Judged(classes, truth, probabilities.argmax(axis=1), exact)


def compute_metrics(judged: Judged, params: EvaluateParams) -> dict[str, float]:
    """Compute the content of `metrics/evaluation.json`: fractions from 0 to 1, at most 6 decimals.

    Each headline number has a 95 % interval: Wilson's for accuracy, for the others the
    percentiles of a bootstrap stratified by class. The baseline always says the most frequent class of this split.
    Where a class of the classifier has no evaluation image, balanced accuracy, F1 and ROC AUC are means over those
    that have.
    """
    n_images = len(judged.truth)
    n_right = int((judged.truth == judged.predicted).sum())
    low, high = compute_wilson_interval(n_right, n_images)
    metrics: dict[str, float] = {
        "n_images": n_images,
        "n_classes": len(judged.classes),
        "accuracy_score": n_right / n_images,
        "accuracy_score_ci95_low": low,
        "accuracy_score_ci95_high": high,
    }
    headlines = prepare_metrics(judged, params.n_bins)
    intervals = bootstrap_intervals(judged.truth, headlines, params)
    for name, compute in headlines.items():
        metrics[name] = _compute_once(compute, judged)
        metrics[f"{name}_ci95_low"], metrics[f"{name}_ci95_high"] = intervals[name]
    metrics["lowest_recall_score"] = float(compute_recalls(judged)[np.unique(judged.truth)].min())
    metrics["majority_baseline_score"] = float(np.bincount(judged.truth).max() / n_images)
    return {key: round(value, 6) for key, value in metrics.items()}


def prepare_metrics(judged: Judged, n_bins: int) -> dict[str, Metric]:
    """Return the headline metrics but accuracy, each with what all resamples have in common computed before."""
    return {
        "balanced_accuracy_score": prepare_balanced_accuracy(judged),
        "macro_f1_score": prepare_macro_f1(judged),
        "roc_auc_score": prepare_roc_auc(judged),
        "log_loss": prepare_log_loss(judged),
        "calibration_error": prepare_calibration_error(judged, n_bins),
    }


def bootstrap_intervals(
    truth: np.ndarray, metrics: dict[str, Metric], params: EvaluateParams
) -> dict[str, tuple[float, float]]:
    """Return the 2.5th and 97.5th percentile of each metric over the same resamples of the images."""
    resamples = draw_resamples(truth, params.n_resamples, params.seed)
    shown = track_progress(
        resamples, params.n_resamples, "evaluate", "resamples", count=len, quiet_seconds=QUIET_SECONDS
    )
    values = np.concatenate([np.column_stack([compute(drawn) for compute in metrics.values()]) for drawn in shown])
    low, high = find_percentiles(values)
    return {name: (float(low[column]), float(high[column])) for column, name in enumerate(metrics)}


def _compute_once(compute: Metric, judged: Judged) -> float:
    """Return the value of a metric for the images as they are."""
    return float(compute(np.arange(len(judged.truth))[np.newaxis])[0])


def _sum_by(codes: np.ndarray, drawn: np.ndarray, n_codes: int, values: np.ndarray | None = None) -> np.ndarray:
    """Count the images of each code in each resample, or sum up values (images,) of them: (resamples, n_codes)."""
    numbered = codes[drawn] + n_codes * np.arange(len(drawn))[:, np.newaxis]
    drawn_values = None if values is None else values[drawn].ravel()
    return np.bincount(numbered.ravel(), drawn_values, n_codes * len(drawn)).reshape(len(drawn), n_codes)


def count_confusion(judged: Judged) -> np.ndarray:
    """Count (classes, classes) int64: row the truth, column the prediction."""
    n_classes = len(judged.classes)
    counts = np.bincount(judged.truth * n_classes + judged.predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def compute_recalls(judged: Judged) -> np.ndarray:
    """Return the recall of each class (classes,); 0 where it has no image."""
    confusion = count_confusion(judged)
    scores: np.ndarray = np.divide(np.diag(confusion), np.maximum(confusion.sum(axis=1), 1))
    return scores


def compute_precisions(judged: Judged) -> np.ndarray:
    """Return the precision of each class (classes,); 0 where it was never predicted."""
    confusion = count_confusion(judged)
    scores: np.ndarray = np.divide(np.diag(confusion), np.maximum(confusion.sum(axis=0), 1))
    return scores


def compute_f1_scores(judged: Judged) -> np.ndarray:
    """Return the F1 of each class (classes,): 2 TP / (images of the class + predictions of the class)."""
    confusion = count_confusion(judged)
    scores: np.ndarray = np.divide(2 * np.diag(confusion), np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1))
    return scores


def _number_right(judged: Judged) -> np.ndarray:
    """Return the class of each image that is right, and for the others the number of classes."""
    return np.where(judged.truth == judged.predicted, judged.truth, len(judged.classes))


def prepare_balanced_accuracy(judged: Judged) -> Metric:
    """Return the mean recall of the classes that have images, as a metric."""
    right, n_classes = _number_right(judged), len(judged.classes)
    present, sizes = np.unique(judged.truth, return_counts=True)
    return lambda drawn: np.asarray((_sum_by(right, drawn, n_classes + 1)[:, present] / sizes).mean(axis=1))


def prepare_macro_f1(judged: Judged) -> Metric:
    """Return the mean F1 of the classes that have images, as a metric."""
    right, n_classes = _number_right(judged), len(judged.classes)
    present, sizes = np.unique(judged.truth, return_counts=True)

    def compute(drawn: np.ndarray) -> np.ndarray:
        n_right = _sum_by(right, drawn, n_classes + 1)[:, present]
        n_predicted = _sum_by(judged.predicted, drawn, n_classes)[:, present]
        return np.asarray((2 * n_right / (n_predicted + sizes)).mean(axis=1))

    return compute


def prepare_roc_auc(judged: Judged) -> Metric:
    """Return the area under the ROC curve: of the second class for two, else the mean of each class against the rest.

    The share of pairs of an image of the class and another in which the first has the larger probability (Mann and
    Whitney 1947), ties counted half. Classes without images, or with all of them, are left out; with one class in all
    there is no curve, and the area is 0.5 by convention.
    """
    columns = [1] if len(judged.classes) == 2 else range(len(judged.classes))
    sizes = np.bincount(judged.truth, minlength=len(judged.classes))
    columns = [column for column in columns if 0 < sizes[column] < len(judged.truth)]
    if not columns:
        return lambda drawn: np.full(len(drawn), 0.5)
    n_pairs = sizes[columns] * (len(judged.truth) - sizes[columns])
    levels, others, first_levels = _rank_images(judged, columns)

    def compute(drawn: np.ndarray) -> np.ndarray:
        n_copies = np.ascontiguousarray(_sum_by(np.arange(len(judged.truth)), drawn, len(judged.truth)).T, np.int32)
        above = np.cumsum(others @ n_copies, axis=0, dtype=np.int64)
        before = np.vstack([np.zeros_like(above[:1]), above])[2 * first_levels]  # of the classes before
        n_levels = np.diff(np.append(first_levels, levels.shape[0]))
        twice = above[0::2] + above[1::2] - 2 * np.repeat(before, n_levels, axis=0)
        n_wrong = np.add.reduceat((levels @ n_copies) * twice, first_levels, axis=0).T / 2
        return np.asarray(np.ascontiguousarray((n_pairs - n_wrong) / n_pairs).mean(axis=1))

    return compute


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
        positive = judged.truth == column
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
    n_images = len(judged.truth)
    levels = csr_array((np.ones(len(level), np.int32), (level, positive)), (n_levels, n_images))
    others = csr_array((np.ones(len(place), np.int32), (place, negative)), (2 * n_levels, n_images))
    return levels, others, np.array(first_levels)


def prepare_log_loss(judged: Judged) -> Metric:
    """Return the mean of -ln(probability of the true class); probabilities are held above float64's epsilon."""
    given = judged.probabilities[np.arange(len(judged.truth)), judged.truth]
    losses = -np.log(np.maximum(given, np.finfo(np.float64).eps))
    return lambda drawn: np.asarray(losses[drawn].mean(axis=1))


def prepare_calibration_error(judged: Judged, n_bins: int) -> Metric:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017, equation 3).

    The confidence is the probability of the predicted class; the error of a bin is the distance of its mean confidence
    from its accuracy, weighted with its share of the images.
    """
    bins, confidence, right = number_bins(judged, n_bins)

    def compute(drawn: np.ndarray) -> np.ndarray:
        errors = np.abs(_sum_by(bins, drawn, n_bins, confidence) - _sum_by(bins, drawn, n_bins, right))
        return np.asarray(errors.sum(axis=1) / len(bins))

    return compute


def compute_balanced_accuracy(judged: Judged) -> float:
    """Return the mean recall of the classes that have images."""
    return _compute_once(prepare_balanced_accuracy(judged), judged)


def compute_macro_f1(judged: Judged) -> float:
    """Return the mean F1 of the classes that have images."""
    return _compute_once(prepare_macro_f1(judged), judged)


def compute_roc_auc(judged: Judged) -> float:
    """Return the area under the ROC curve, as `prepare_roc_auc` says."""
    return _compute_once(prepare_roc_auc(judged), judged)


def compute_log_loss(judged: Judged) -> float:
    """Return the mean log loss, as `prepare_log_loss` says."""
    return _compute_once(prepare_log_loss(judged), judged)


def compute_calibration_error(judged: Judged, n_bins: int) -> float:
    """Return the expected calibration error, as `prepare_calibration_error` says."""
    return _compute_once(prepare_calibration_error(judged, n_bins), judged)


def number_bins(judged: Judged, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bin ((b - 1) / n_bins, b / n_bins] of each image's confidence, from 0; that; 1.0 if it is right."""
    confidence = judged.probabilities[np.arange(len(judged.truth)), judged.predicted]
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return bins, confidence, (judged.truth == judged.predicted).astype(np.float64)


def bin_confidences(judged: Judged, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum up bins ((b - 1) / n_bins, b / n_bins]: number of images, sum of confidence, number right, each (n_bins,)."""
    bins, confidence, right = number_bins(judged, n_bins)
    n_images = np.bincount(bins, minlength=n_bins)
    return n_images, np.bincount(bins, confidence, n_bins), np.bincount(bins, right, n_bins)


def report_classes(judged: Judged) -> list[tuple[object, ...]]:
    """Return a row a class: name, number of images, precision, recall, F1."""
    n_images = np.bincount(judged.truth, minlength=len(judged.classes))
    scores = (compute_precisions(judged), compute_recalls(judged), compute_f1_scores(judged))
    return [
        (name, int(n_images[column]), *(f"{score[column]:.6f}" for score in scores))
        for column, name in enumerate(judged.classes)
    ]


def write_plots(judged: Judged) -> None:
    """Write the files that `dvc plots` draws.

    The ROC and precision-recall curves are those of the second class for two classes; for more, all decisions of each
    class against the rest are pooled (micro-average).
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    truth = np.array(judged.classes)[judged.truth]
    predicted = np.array(judged.classes)[judged.predicted]
    write_csv(paths.CONFUSION, ("label", "predicted"), sorted(zip(truth, predicted, strict=True)))

    columns = slice(1, 2) if len(judged.classes) == 2 else slice(None)
    decisions = np.eye(len(judged.classes), dtype=np.int64)[judged.truth][:, columns].ravel()
    scores = judged.probabilities[:, columns].ravel()
    false_positive_rate, true_positive_rate, _ = roc_curve(decisions, scores)
    write_curve(paths.ROC, ("false_positive_rate", "true_positive_rate"), false_positive_rate, true_positive_rate)
    precision, recall, _ = precision_recall_curve(decisions, scores, drop_intermediate=True)
    write_curve(paths.PRECISION_RECALL, ("recall", "precision"), recall[::-1], precision[::-1])

    n_images, confidence, right = bin_confidences(judged, N_BINS_PLOTTED)
    filled = n_images > 0
    write_csv(
        paths.CALIBRATION,
        ("confidence", "accuracy", "n_images"),
        [
            (f"{c / n:.6f}", f"{r / n:.6f}", n)
            for n, c, r in zip(n_images[filled], confidence[filled], right[filled], strict=True)
        ],
    )


def write_curve(path: Path, header: tuple[str, str], x: np.ndarray, y: np.ndarray) -> None:
    """Write the points of a curve, at most `N_CURVE_POINTS` of them, its ends included."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), N_CURVE_POINTS)).round().astype(np.int64))
    write_csv(path, header, [(f"{x[point]:.6f}", f"{y[point]:.6f}") for point in kept])
