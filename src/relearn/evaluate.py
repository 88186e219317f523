"""Stage `evaluate`: the one look at the evaluation split."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn import paths
from relearn.classifier import read_classifier
from relearn.errors import IntegrityError, TrainingError
from relearn.features import describe_features, read_features
from relearn.files import write_csv, write_json
from relearn.intervals import CONFIDENCE, compute_wilson_interval
from relearn.manifest import read_manifest
from relearn.params import EvaluateParams

log = logging.getLogger(__name__)

CLASS_HEADER = ("class", "n_images", "precision", "recall", "f1")

N_BINS_PLOTTED = 10
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
    from threadpoolctl import threadpool_limits

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
    headlines: dict[str, Callable[[Judged], float]] = {
        "balanced_accuracy_score": compute_balanced_accuracy,
        "macro_f1_score": compute_macro_f1,
        "roc_auc_score": compute_roc_auc,
        "log_loss": compute_log_loss,
        "calibration_error": lambda sample: compute_calibration_error(sample, params.n_bins),
    }
    with threadpool_limits(1):
        for name, compute in headlines.items():
            metrics[name] = compute(judged)
            metrics[f"{name}_ci95_low"], metrics[f"{name}_ci95_high"] = bootstrap_interval(judged, compute, params)
    metrics["lowest_recall_score"] = float(compute_recalls(judged)[np.unique(judged.truth)].min())
    metrics["majority_baseline_score"] = float(np.bincount(judged.truth).max() / n_images)
    return {key: round(value, 6) for key, value in metrics.items()}


def bootstrap_interval(
    judged: Judged, compute: Callable[[Judged], float], params: EvaluateParams
) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of a metric over resamples of the images.

    Stratified: each class is drawn with replacement from its own images, as many as it has, so that none can vanish
    from a sample (Efron and Tibshirani 1993, chapter 8). The same seed draws the same samples for every metric.
    """
    rng = np.random.default_rng(params.seed)
    strata = [np.flatnonzero(judged.truth == label) for label in np.unique(judged.truth)]
    values = []
    for _ in range(params.n_resamples):
        drawn = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        sample = (judged.truth[drawn], judged.predicted[drawn], judged.probabilities[drawn])
        values.append(compute(Judged(judged.classes, *sample)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


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


def compute_balanced_accuracy(judged: Judged) -> float:
    """Return the mean recall of the classes that have images."""
    return float(compute_recalls(judged)[np.unique(judged.truth)].mean())


def compute_macro_f1(judged: Judged) -> float:
    """Return the mean F1 of the classes that have images."""
    return float(compute_f1_scores(judged)[np.unique(judged.truth)].mean())


def compute_roc_auc(judged: Judged) -> float:
    """Return the area under the ROC curve: of the second class for two, else the mean of each class against the rest.

    By the ranks of the probabilities (Mann and Whitney 1947), ties counted half. Classes without images, or with all
    of them, are left out; with one class in all there is no curve, and the area is 0.5 by convention.
    """
    from scipy.stats import rankdata

    columns = [1] if len(judged.classes) == 2 else range(len(judged.classes))
    areas = []
    for column in columns:
        positive = judged.truth == column
        n_positive = int(positive.sum())
        n_negative = len(positive) - n_positive
        if n_positive and n_negative:
            ranks = rankdata(judged.probabilities[:, column])
            above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
            areas.append(above / (n_positive * n_negative))
    return float(np.mean(areas)) if areas else 0.5


def compute_log_loss(judged: Judged) -> float:
    """Return the mean of -ln(probability of the true class); probabilities are held above float64's epsilon."""
    given = judged.probabilities[np.arange(len(judged.truth)), judged.truth]
    return float(-np.log(np.maximum(given, np.finfo(np.float64).eps)).mean())


def compute_calibration_error(judged: Judged, n_bins: int) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017, equation 3).

    The confidence is the probability of the predicted class; the error of a bin is the distance of its mean confidence
    from its accuracy, weighted with its share of the images.
    """
    n_images, confidence, right = bin_confidences(judged, n_bins)
    return float(np.abs(confidence - right).sum() / n_images.sum())


def bin_confidences(judged: Judged, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum up bins ((b - 1) / n_bins, b / n_bins]: number of images, sum of confidence, number right, each (n_bins,)."""
    confidence = judged.probabilities[np.arange(len(judged.truth)), judged.predicted]
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    right = (judged.truth == judged.predicted).astype(np.float64)
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
