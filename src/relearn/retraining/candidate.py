"""`relearn decide`: the champion (the production model) against the challenger (just trained), on the same images."""

import json
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn import paths
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import DataError, IntegrityError
from relearn.evaluation.comparison import Comparison, compare_predictions
from relearn.evaluation.paired import Paired
from relearn.evaluation.predictions import Predictions, read_predictions
from relearn.features.shards import describe_features, iterate_shards
from relearn.inference.classifier import RECORD, Classifier, read_classifier
from relearn.params.pipeline import RetrainParams
from relearn.retraining.lineage import parse_images
from relearn.retraining.promotion import Decision, ErrorCounts, Sameness, decide_promotion
from relearn.retraining.release import IMAGES, IMAGES_HEADER
from relearn.storage.files import read_csv, read_json

N_ROWS_SHOWN = 5


class Outcome(NamedTuple):
    """What was decided, and why; no comparison if nothing could be compared.

    n_judged : evaluation images on which both were judged, or the challenger alone if they cannot be compared
    n_new : how many of them the champion was never evaluated on
    """

    decision: Decision
    comparison: Comparison | None = None
    n_judged: int = 0
    n_new: int = 0
    failed_checks: Sequence[str] = ()


def judge_challenger(champion: Path | None, params: RetrainParams) -> Outcome:
    """Decide whether the classifier of this workspace is promoted; see `decide_promotion`.

    Parameters
    ----------
    champion
        The folder of a kept version, with the list of its images; None if there is none.
    """
    if failed := list_failed_checks():
        return Outcome(decide_promotion(params, failed, None), failed_checks=failed)
    challenger = read_classifier(paths.CLASSIFIER)
    manifest = read_manifest(paths.MANIFEST)
    if champion is None:
        n_images = sum(row.split == "evaluation" for row in manifest)
        return Outcome(decide_promotion(params, [], None), n_judged=n_images, n_new=n_images)
    splits = dict(read_csv(champion / IMAGES, IMAGES_HEADER))
    classifier = read_classifier(champion)
    incomparable = explain_format(champion.name, classifier, challenger)
    has_other_images = splits != parse_images(paths.MANIFEST.read_bytes())
    sameness = Sameness(is_same(classifier, challenger), has_other_images, incomparable)
    images = [row for row in manifest if row.split == "evaluation" and splits.get(row.sha256) in (None, "evaluation")]
    judged = {row.sha256 for row in images}
    predictions = read_predictions(paths.PREDICTIONS)
    if images and predictions.are_out_of_fold:  # by other heads than the challenger's
        predictions = predict_evaluation(paths.CLASSIFIER, challenger, images)
    predictions = predictions.select(row for row, sha256 in enumerate(predictions.sha256) if sha256 in judged)
    comparison = None
    paired = Paired(len(images), 0, 0, 1.0)
    errors = count_errors(predictions, splits.keys())
    if images and not incomparable:
        answers = predict_evaluation(champion, classifier, images)
        comparison = compare_predictions("champion", "challenger", answers, predictions)
        paired = comparison.paired
    decision = decide_promotion(params, [], paired, errors, sameness)
    return Outcome(decision, comparison, len(images), errors.n_new)


def count_errors(predictions: Predictions, older: Container[str]) -> ErrorCounts:
    """Count the wrong answers on the images whose hashes are in `older`, and on the others."""
    wrong = Counter[bool]()
    n = Counter[bool]()
    for sha256, is_right in zip(predictions.sha256, predictions.right, strict=True):
        is_new = sha256 not in older
        n[is_new] += 1
        wrong[is_new] += not is_right
    return ErrorCounts(n[False], wrong[False], n[True], wrong[True])


def list_failed_checks() -> list[str]:
    """Return one line per check of severity error that the images or the features failed.

    Raises
    ------
    IntegrityError
        A report is missing: the gate did not end.
    """
    failed = []
    validation = read_json(paths.VALIDATION_REPORT, ["passed", "findings"])
    reports = [validation]
    if validation["passed"]:  # otherwise there are no features to verify
        reports.append(read_json(paths.VERIFICATION_REPORT, ["passed", "findings"]))
    for report in reports:
        for finding in report["findings"]:
            if finding["severity"] == "error" and not finding["passed"]:
                rows = finding["rows"][:N_ROWS_SHOWN]
                named = f": {', '.join(rows)}" if rows else ""
                failed.append(f"{finding['name']}: wanted {finding['wanted']}, got {finding['observed']}{named}")
    return failed


def is_same(first: Classifier, second: Classifier) -> bool:
    """Return whether two classifiers answer every image alike: all that decides the answers has the same hashes."""
    one, other = first.record, second.record
    return (one.head_sha256, one.classes, one.extractor) == (other.head_sha256, other.classes, other.extractor)


def explain_format(name: str, champion: Classifier, challenger: Classifier) -> str:
    """Return why the champion gives no answers here: the recipe of its extractor has other keys; empty if it does.

    The hash of the network may then be computed differently, so nothing can prove that the network is the same.
    """
    missing, unknown = (
        sorted(f"extractor.{key}" for key in first.record.extractor.keys() - second.record.extractor.keys())
        for first, second in ((challenger, champion), (champion, challenger))
    )
    if not missing and not unknown:
        return ""
    lacks = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
    return (
        f"the production model {name} was made by {'an earlier' if missing else 'another'} relearn and cannot be "
        f"compared: its {RECORD} {lacks}"
    )


def predict_evaluation(folder: Path, classifier: Classifier, images: list[ManifestRow]) -> Predictions:
    """Predict evaluation images with a classifier: from the features here, if they have the recipe of its own.

    Raises
    ------
    RelearnError
        An image cannot be read, or the network cannot be rebuilt as it was.
    """
    probabilities: dict[str, Any] = {}
    if classifier.record.extractor == describe_features(paths.FEATURES).extractor:
        for index, features in iterate_shards(paths.FEATURES, "evaluation"):
            rows = classifier.predict_probabilities(features)
            probabilities.update((row.sha256, answer) for row, answer in zip(index, rows, strict=True))
    else:
        from relearn.inference.predictor import predict_files

        evaluation = paths.DATASET / "evaluation"
        found = predict_files([str(evaluation)], folder)
        if found.failures:
            path, reason = found.failures[0]
            raise DataError(f"{reason}, so the champion cannot be judged on it", where=path)
        by_path = {answer.path: answer.probabilities for answer in found.answers}
        probabilities = {image.sha256: by_path[str(paths.DATASET / image.path)] for image in images}
    missing = [image.path for image in images if image.sha256 not in probabilities]
    if missing:
        raise IntegrityError(
            where=paths.FEATURES, wanted=f"features of {missing[0]}", got="none", advice="run `dvc repro`"
        )

    answers = np.array([probabilities[image.sha256] for image in images], np.float64)
    return Predictions(
        classifier.classes,
        [image.path for image in images],
        [image.sha256 for image in images],
        [image.label for image in images],
        classifier.predict_labels(answers),
        answers,
    )


def describe_outcome(outcome: Outcome) -> str:
    """Return the decision in one line."""
    promoted, verdict, reason = outcome.decision
    return f"{'promoted' if promoted else 'not promoted'}, {verdict}: {reason}"


def describe_json(outcome: Outcome) -> str:
    """Return the whole outcome as JSON."""
    comparison = outcome.comparison
    value = outcome.decision._asdict() | {
        "failed_checks": outcome.failed_checks,
        "n_judged": outcome.n_judged,
        "n_new": outcome.n_new,
        "differences": [difference._asdict() for difference in comparison.differences] if comparison else [],
        "only_champion": comparison.only_first if comparison else [],
        "only_challenger": comparison.only_second if comparison else [],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
