"""Stage `evaluate`: the one look at the evaluation split, which others call the test split."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.dataset.manifest import SPLITS, read_manifest
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
from relearn.features.shards import SplitFeatures, describe_features, read_features
from relearn.heads.out_of_fold import predict_out_of_fold
from relearn.inference.classifier import Classifier, read_classifier
from relearn.params.heads import TrainParams
from relearn.params.pipeline import EvaluateParams
from relearn.reporting.page import draw_evaluation
from relearn.storage.files import write_csv, write_file, write_json

log = logging.getLogger(__name__)

N_BINS_PLOTTED = 10
MIN_GROUPS = 10  # of a class: with fewer the bootstrap hardly varies
# More points than a plot can show would only make the files in git larger.
N_CURVE_POINTS = 500


def run(params: EvaluateParams, train: TrainParams) -> None:
    """Write the metrics, their intervals, the predictions, a report of the classes, four plots, and the page.

    With `evaluate.by: folds` all images are judged, each by a head of the classifier's kind and options that was not
    fitted on it; `train` says how such heads are fitted, and the metrics have `n_folds`.

    Raises
    ------
    TrainingError
        The evaluation split is empty, or has a class that the classifier does not know. There are to be folds, and the
        network was tuned on the images, or a class has too few of them.
    IntegrityError
        Features, classifier and manifest do not belong together.
    """
    classifier = read_classifier(paths.CLASSIFIER)
    predictions = predict_images(classifier, train if params.by == "folds" else None)
    write_predictions(paths.PREDICTIONS, predictions)
    groups = number_groups(predictions.sha256, params)
    judged = judge(predictions.classes, predictions.labels, predictions.probabilities)._replace(groups=groups)
    if groups is not None and params.resample == "groups":
        warn_of_few_groups(judged, groups)
    measured = compute_metrics(judged, params)
    metrics, intervals = measured
    if params.by == "folds":
        metrics["n_folds"] = train.n_folds
    write_json(paths.EVALUATION_METRICS, metrics)
    write_json(paths.INTERVALS, intervals)
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, report_classes(judged))
    write_plots(judged)
    with write_file(paths.EVALUATION_PAGE) as file:
        file.write(draw_evaluation(predictions, judged, measured, classifier.record, params))
    log.info(
        "%d %s%s%s: accuracy %.4f (95 %% interval %.4f to %.4f), majority baseline %.4f",
        metrics["n_images"],
        "images" if params.by == "folds" else "evaluation images",
        f" in {metrics['n_groups']:,} groups" if "n_groups" in metrics else "",
        f", out of {metrics['n_folds']} folds" if params.by == "folds" else "",
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


def predict_images(classifier: Classifier, train: TrainParams | None) -> Predictions:
    """Predict images from their features, in the order of the manifest: those of the evaluation split.

    Parameters
    ----------
    train
        If given, all images are predicted, each by a head that is fitted so on the other folds.
    """
    if (classifier.record.features, classifier.record.extractor) != describe_features(paths.FEATURES):
        raise IntegrityError(
            where=paths.CLASSIFIER,
            wanted=f"a classifier trained on {paths.FEATURES}",
            got="one trained on other features",
            advice="run `dvc repro`",
        )
    splits = SPLITS if train else SPLITS[-1:]
    parts = [read_features(paths.FEATURES, split, memory_bytes=0) for split in splits]
    sha256 = [image for part in parts for image in part.sha256[:: 1 + part.n_views]]
    labels = [label for part in parts for label in part.labels[:: 1 + part.n_views]]
    check_labels(labels, classifier.classes)
    images = [row for row in read_manifest(paths.MANIFEST) if row.split in splits]
    if [(image.sha256, image.label) for image in images] != list(zip(sha256, labels, strict=True)):
        raise IntegrityError(
            where=paths.FEATURES,
            wanted=f"the {'evaluation ' * (not train)}images of {paths.MANIFEST}",
            got="others",
            advice="run `dvc repro`",
        )
    if train:
        probabilities = predict_in_folds(parts, sha256, classifier, train)
    else:
        probabilities = np.concatenate([classifier.predict_probabilities(block) for block in parts[0].blocks])
    predicted = classifier.predict_labels(probabilities)
    return Predictions(classifier.classes, [image.path for image in images], sha256, labels, predicted, probabilities)


def predict_in_folds(
    parts: list[SplitFeatures], sha256: list[str], classifier: Classifier, train: TrainParams
) -> np.ndarray:
    """Return the probabilities (images, classes) by heads that were not fitted on the image; see `predict_out_of_fold`.

    Raises
    ------
    TrainingError
        The network itself was tuned on the images, or they cannot be cut into folds.
    """
    if (paths.FEATURES / paths.TUNED_WEIGHTS).exists():
        raise TrainingError(
            where="evaluate.by: folds",
            wanted="a network that has not seen the images",
            got="one that finetune trained on them",
            advice="set evaluate.by to split, or finetune.epochs to 0",
        )
    return predict_out_of_fold(parts, classifier.record, train, read_groups(paths.SPLITS, sha256))


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
