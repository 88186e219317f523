"""Stage `evaluate`: the one look at the evaluation split, which others call the test split."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.dataset.manifest import read_manifest
from relearn.errors import IntegrityError, TrainingError
from relearn.evaluation.metrics import (
    CLASS_HEADER,
    Judged,
    bin_confidences,
    compute_curves,
    compute_metrics,
    judge,
    report_classes,
)
from relearn.evaluation.predictions import Predictions, write_predictions
from relearn.features.shards import describe_features, read_features
from relearn.inference.classifier import Classifier, read_classifier
from relearn.params.pipeline import EvaluateParams
from relearn.reporting.page import draw_evaluation
from relearn.storage.files import write_csv, write_file, write_json

log = logging.getLogger(__name__)

N_BINS_PLOTTED = 10
MIN_GROUPS = 10  # of a class: with fewer the bootstrap hardly varies
# More points than a plot can show would only make the files in git larger.
N_CURVE_POINTS = 500


def run(params: EvaluateParams) -> None:
    """Write the metrics, their intervals, the predictions, a report of the classes, four plots, and the page.

    Raises
    ------
    TrainingError
        The evaluation split is empty, or has a class that the classifier does not know.
    IntegrityError
        Features, classifier and manifest do not belong together.
    """
    classifier = read_classifier(paths.CLASSIFIER)
    predictions = predict_evaluation(classifier)
    write_predictions(paths.PREDICTIONS, predictions)
    groups = number_groups(predictions.sha256, params)
    judged = judge(predictions.classes, predictions.labels, predictions.probabilities)._replace(groups=groups)
    if groups is not None and params.resample == "groups":
        warn_of_few_groups(judged, groups)
    measured = compute_metrics(judged, params)
    metrics, intervals = measured
    write_json(paths.EVALUATION_METRICS, metrics)
    write_json(paths.INTERVALS, intervals)
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, report_classes(judged))
    write_plots(judged)
    with write_file(paths.EVALUATION_PAGE) as file:
        file.write(draw_evaluation(predictions, judged, measured, classifier.record, params))
    log.info(
        "%d evaluation images%s: accuracy %.4f (95 %% interval %.4f to %.4f), majority baseline %.4f",
        metrics["n_images"],
        f" in {metrics['n_groups']:,} groups" if "n_groups" in metrics else "",
        metrics["accuracy_score"],
        *intervals["accuracy_score"],
        metrics["majority_baseline_score"],
    )


def number_groups(sha256: list[str], params: EvaluateParams) -> np.ndarray | None:
    """Return the number of each image's group, (images,) int64; None if no image has a group.

    Raises
    ------
    TrainingError
        Groups are to be drawn, and there are none.
    """
    groups = read_groups(paths.SPLITS, sha256)
    if groups is not None:
        return np.unique(groups, return_inverse=True)[1]
    if params.resample == "groups":
        raise TrainingError(
            where="evaluate.resample", wanted="images with groups", got="none", advice="set restructure.group_by"
        )
    return None


def warn_of_few_groups(judged: Judged, groups: np.ndarray) -> None:
    """Log the class with the fewest groups if the bootstrap has too few to draw from."""
    pairs = np.unique(np.column_stack([judged.labels, groups]), axis=0)
    label, n_groups = min(Counter(pairs[:, 0].tolist()).items(), key=lambda item: item[1])
    if n_groups < MIN_GROUPS:
        name = judged.classes[label]
        log.warning("evaluate.resample: class %s has %d groups; of so few the intervals are too narrow", name, n_groups)


def predict_evaluation(classifier: Classifier) -> Predictions:
    """Predict the images of the evaluation split from their features, in the order of the manifest."""
    if (classifier.record.features, classifier.record.extractor) != describe_features(paths.FEATURES):
        raise IntegrityError(
            where=paths.CLASSIFIER,
            wanted=f"a classifier trained on {paths.FEATURES}",
            got="one trained on other features",
            advice="run `dvc repro`",
        )
    evaluation = read_features(paths.FEATURES, "evaluation", memory_bytes=0)
    check_labels(evaluation.labels, classifier.classes)
    images = [row for row in read_manifest(paths.MANIFEST) if row.split == "evaluation"]
    features_of = list(zip(evaluation.sha256, evaluation.labels, strict=True))
    if [(image.sha256, image.label) for image in images] != features_of:
        raise IntegrityError(
            where=paths.FEATURES,
            wanted=f"the evaluation images of {paths.MANIFEST}",
            got="others",
            advice="run `dvc repro`",
        )
    probabilities = np.concatenate([classifier.predict_probabilities(block) for block in evaluation.blocks])
    predicted = classifier.predict_labels(probabilities)
    image_paths = [image.path for image in images]
    return Predictions(classifier.classes, image_paths, evaluation.sha256, evaluation.labels, predicted, probabilities)


def check_labels(labels: list[str], classes: list[str]) -> None:
    """Raise `TrainingError` unless there are images, all of classes that the classifier knows."""
    if not labels:
        raise TrainingError(
            where="evaluation", wanted="images", got="none", advice="raise restructure.fractions.evaluation"
        )
    if unknown := sorted(set(labels) - set(classes)):
        raise TrainingError(
            where="evaluation",
            wanted="the classes of training",
            got=f"also {unknown}",
            advice="add images of them to training",
        )


def write_plots(judged: Judged) -> None:
    """Write the files that `dvc plots` draws."""
    labels = np.array(judged.classes)[judged.labels]
    predicted = np.array(judged.classes)[judged.predicted]
    write_csv(paths.CONFUSION, ("label", "predicted"), sorted(zip(labels, predicted, strict=True)))
    curves = compute_curves(judged)
    write_curve(paths.ROC, ("false_positive_rate", "true_positive_rate"), *curves.roc)
    write_curve(paths.PRECISION_RECALL, ("recall", "precision"), *curves.precision_recall)
    rows = [(f"{c:.6f}", f"{a:.6f}", n) for c, a, n in bin_confidences(judged, N_BINS_PLOTTED)]
    write_csv(paths.CALIBRATION, ("confidence", "accuracy", "n_images"), rows)


def write_curve(path: Path, header: tuple[str, str], x: np.ndarray, y: np.ndarray) -> None:
    """Write the points of a curve, at most `N_CURVE_POINTS` of them, both ends included."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), N_CURVE_POINTS)).round().astype(np.int64))
    write_csv(path, header, [(f"{x[point]:.6f}", f"{y[point]:.6f}") for point in kept])
