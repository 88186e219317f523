"""`relearn suspects`: the labels to look at first, as a table and as a page that writes corrections."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.dataset.corrections import read_corrections
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import IntegrityError
from relearn.evaluation.predictions import read_predictions
from relearn.evaluation.suspects import compute_margins, rank_labels
from relearn.features.shards import SplitFeatures, describe_features, read_features
from relearn.heads.out_of_fold import predict_out_of_fold
from relearn.inference.classifier import RECORD, ClassifierRecord, read_record
from relearn.params.heads import TrainParams
from relearn.params.pipeline import Params
from relearn.reporting.suspects import Suspect, draw_suspects
from relearn.runtime.text import count_nouns
from relearn.storage.files import write_csv, write_file

LEARNED = ("training", "validation")
AGAIN = "run `dvc repro`"
HEADER = (
    *("path", "sha256", "split", "label", "suggested", "margin"),
    *("probability_label", "probability_suggested", "probability_wrong"),
)


class Findings(NamedTuple):
    """What `find_suspects` returns.

    suspects : of training and validation, the most doubtful first
    evaluation : those of evaluation, by the predictions of the classifier
    n_images : of training and validation, copies counted once, without those that a person has looked at
    expected, expected_of_all : how many labels are expected to be wrong among `suspects`, and among `n_images`
    is_tuned : whether the network was fine-tuned on these labels
    head : the head whose probabilities rank the images
    """

    classes: list[str]
    suspects: list[Suspect]
    evaluation: list[Suspect]
    n_images: int
    expected: float
    expected_of_all: float
    is_tuned: bool
    head: str


def find_suspects(n_shown: int, params: TrainParams, corrections: Path) -> Findings:
    """Find the labels to look at first, at most `n_shown` of training and validation, and as many of evaluation.

    Images of training and validation are judged by heads that were not fitted on them. An image that a person has
    looked at, as `corrections` says, is left out; copies of an image are one.

    Raises
    ------
    IntegrityError
        A file is missing or damaged, or they are not about the same images.
    TrainingError
        The images cannot be cut into `train.n_folds` folds.
    SourceError
        The corrections are damaged.
    """
    record = read_record(paths.CLASSIFIER / RECORD)
    if describe_features(paths.FEATURES).features != record.features:
        wanted = f"a classifier of {paths.FEATURES}"
        raise IntegrityError(where=paths.CLASSIFIER, wanted=wanted, got="another", advice=AGAIN)
    manifest = read_manifest(paths.MANIFEST)
    looked_at = {row.sha256 for row in read_corrections(corrections).values()}
    images = [row for split in LEARNED for row in manifest if row.split == split]
    probabilities, labels = predict_learned(images, record, params)
    found = rank_labels(probabilities, labels)
    kept = select_images(images, found.order, looked_at)
    suspects = [
        make_suspect(images[row], probabilities[row], record.classes, found.margins[row], found.p_wrong[row])
        for row in kept[:n_shown]
    ]
    return Findings(
        record.classes,
        suspects,
        find_evaluation_suspects(manifest, looked_at)[:n_shown],
        len(kept),
        float(found.p_wrong[kept[:n_shown]].sum()),
        float(found.p_wrong[kept].sum()),
        (paths.CLASSIFIER / paths.TUNED_WEIGHTS).exists(),
        record.head,
    )


def predict_learned(
    images: Sequence[ManifestRow], record: ClassifierRecord, params: TrainParams
) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-fold probabilities (images, classes) of training and validation, and the labels' numbers.

    Raises
    ------
    IntegrityError
        The features are those of other images.
    """
    splits = [read_features(paths.FEATURES, split, params.memory_limit_mb * 500_000) for split in LEARNED]
    if [image for split in splits for image in list_images(split)] != [(row.sha256, row.label) for row in images]:
        raise IntegrityError(where=paths.FEATURES, wanted="the images of the manifest", got="others", advice=AGAIN)
    groups = read_groups(paths.SPLITS, [row.sha256 for row in images])
    probabilities = predict_out_of_fold(splits, record, params, groups)
    return probabilities, np.array([record.classes.index(row.label) for row in images])


def list_images(split: SplitFeatures) -> list[tuple[str, str]]:
    """Return the SHA-256 and the label of each image of a split, without its views."""
    step = 1 + split.n_views
    return list(zip(split.sha256[::step], split.labels[::step], strict=True))


def select_images(images: Sequence[ManifestRow], order: Iterable[int], left_out: Collection[str]) -> list[int]:
    """Return the numbers of the images in this order, the first of each content, without those of these hashes."""
    firsts: dict[str, int] = {}
    for row in order:
        firsts.setdefault(images[row].sha256, int(row))
    return [row for sha256, row in firsts.items() if sha256 not in left_out]


def make_suspect(
    image: ManifestRow, probabilities: np.ndarray, classes: Sequence[str], margin: float, p_wrong: float | None
) -> Suspect:
    """Return an image with what its probabilities (classes,) say of its label."""
    p_label = float(probabilities[classes.index(image.label)])
    others = {name: float(p) for name, p in zip(classes, probabilities, strict=True) if name != image.label}
    suggested = max(others, key=others.__getitem__)
    return Suspect(image, suggested, float(margin), p_label, others[suggested], p_wrong)


def find_evaluation_suspects(manifest: Sequence[ManifestRow], looked_at: Collection[str]) -> list[Suspect]:
    """Return the evaluation images for which the classifier predicts another class, those of the least margin first.

    Raises
    ------
    IntegrityError
        The predictions are missing, or are not those of the manifest.
    """
    images = [row for row in manifest if row.split == "evaluation"]
    predictions = read_predictions(paths.PREDICTIONS)
    places = {path: row for row, path in enumerate(predictions.paths)}
    if any(row.path not in places or predictions.labels[places[row.path]] != row.label for row in images):
        raise IntegrityError(where=paths.PREDICTIONS, wanted="the images of the manifest", got="others", advice=AGAIN)
    known = [row for row in images if row.label in predictions.classes]
    probabilities = predictions.probabilities[[places[row.path] for row in known]]
    labels = np.array([predictions.classes.index(row.label) for row in known], np.int64)
    margins = compute_margins(probabilities, labels)
    chosen = select_images(known, np.argsort(margins, kind="stable"), looked_at)
    return [
        make_suspect(known[row], probabilities[row], predictions.classes, margins[row], None)
        for row in chosen
        if margins[row] < 0
    ]


def write_suspects(n_shown: int, params: Params) -> list[str]:
    """Write `reports/suspects.csv` and `reports/suspects.html`, which needs no other file; return lines for a person.

    `find_suspects` has the rules and the errors.
    """
    found = find_suspects(n_shown, params.train, Path(params.restructure.corrections))
    rows = [
        (image.path, image.sha256, image.split, image.label, suggested, *map(format_number, numbers))
        for image, suggested, *numbers in (*found.suspects, *found.evaluation)
    ]
    write_csv(paths.SUSPECTS, HEADER, rows)
    texts = describe_suspects(found)
    with write_file(paths.SUSPECTS_PAGE) as file:
        file.write(draw_suspects(found.classes, found.suspects, found.evaluation, texts))
    apart = [f"evaluation images, apart: {len(found.evaluation):,}"] if found.evaluation else []
    return [*texts, *apart, f"{paths.SUSPECTS_PAGE}, {paths.SUSPECTS}"]


def format_number(number: float | None) -> str:
    """Return a number with six decimals, or an empty cell."""
    return "" if number is None else f"{number:.6f}"


def describe_number(expected: float) -> str:
    """Return an expected number of labels in words."""
    return f"about {expected:,.0f}" if expected >= 1 else "fewer than 1"


def describe_suspects(found: Findings) -> list[str]:
    """Return in sentences how many labels are expected to be wrong."""
    n_shown = len(found.suspects)
    texts = [
        f"Look at these first: {n_shown:,} of the {count_nouns(found.n_images, 'training and validation image')}.",
        f"Labels that are expected to be wrong: {describe_number(found.expected)} of these, "
        f"{describe_number(found.expected_of_all)} of all. This is an estimate, and each of them may be right.",
    ]
    n_margins = len({suspect.margin for suspect in found.suspects})
    if 2 * n_margins < n_shown:
        texts.append(
            f"Take care: {found.head} gives only {n_margins:,} different margins to these images, so their order and "
            "the numbers of wrong labels say little; a linear `train.head` ranks them better."
        )
    if found.is_tuned:
        texts.append(
            "The network was fine-tuned on these labels, so wrong ones may look right; finetune.epochs=0 shows more."
        )
    return texts
