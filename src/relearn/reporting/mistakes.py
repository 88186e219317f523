"""The images that a classifier got wrong, the worst first, each with what explains it."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import IntegrityError, RelearnError
from relearn.evaluation.predictions import Predictions
from relearn.explanation.drawing import draw_explanation
from relearn.explanation.explainer import Explainer
from relearn.features.neighbors import Neighbor, find_neighbors
from relearn.features.shards import iterate_shards
from relearn.images.thumbnails import encode_picture, open_picture

log = logging.getLogger(__name__)

N_NEIGHBORS = 3
LARGE_PX, SMALL_PX = 160, 96


class Mistake(NamedTuple):
    """An image that was predicted wrong.

    row : its number among the predictions
    loss : -ln(probability of the label), at most that of float64's epsilon
    confidence, label_probability : the probabilities of the predicted class and of the label
    """

    row: int
    path: str
    label: str
    predicted: str
    loss: float
    confidence: float
    label_probability: float


class Evidence(NamedTuple):
    """A map over a photo, as a data URI, and what it shows, in words."""

    uri: str
    text: str


class Shown(NamedTuple):
    """A mistake with its picture, evidence, and the most similar training images with theirs."""

    mistake: Mistake
    uri: str
    evidence: Evidence | None
    neighbors: list[tuple[Neighbor, str]]


def rank_mistakes(predictions: Predictions) -> list[Mistake]:
    """Return all mistakes by their loss, the largest first; those of the same loss by their paths.

    A label that the classifier does not know has a probability of 0.
    """
    mistakes = []
    columns = {name: column for column, name in enumerate(predictions.classes)}
    for row in np.flatnonzero(~predictions.right).tolist():
        label, predicted = predictions.labels[row], predictions.predicted[row]
        probabilities = predictions.probabilities[row]
        given = float(probabilities[columns[label]]) if label in columns else 0.0
        loss = -float(np.log(max(given, np.finfo(np.float64).eps)))
        mistakes.append(
            Mistake(
                row, predictions.paths[row], label, predicted, loss, float(probabilities[columns[predicted]]), given
            )
        )
    return sorted(mistakes, key=lambda mistake: (-mistake.loss, mistake.path))


def draw(path: str, side_px: int = SMALL_PX) -> str:
    """Return an image of the dataset as a small data URI, empty if it cannot be read."""
    rgb = open_picture(path, 2 * side_px)
    return "" if rgb is None else encode_picture(rgb, side_px)


def show_mistakes(predictions: Predictions, mistakes: Sequence[Mistake]) -> list[Shown]:
    """Return mistakes of the last evaluation with picture, evidence and neighbors.

    Without features there are neither evidence nor neighbors, which is logged. Out of folds there is no evidence: the
    heads that made these mistakes are not kept.

    Raises
    ------
    IntegrityError
        The features are damaged, or those of other images.
    """
    if not mistakes:
        return []
    if not paths.FEATURES.is_dir():
        log.warning("%s: no such folder, so neither similar images nor evidence maps; `dvc pull` it", paths.FEATURES)
        return [Shown(mistake, draw(mistake.path, LARGE_PX), None, []) for mistake in mistakes]
    hashes = [predictions.sha256[mistake.row] for mistake in mistakes]
    features = read_rows(hashes, find_split(predictions))
    neighbors = find_pictured_neighbors(features, N_NEIGHBORS, hashes)
    evidence: list[Evidence | None] = [None] * len(mistakes)
    if not predictions.are_out_of_fold:
        images = [mistake.path for mistake in mistakes]
        evidence = explain_images(images, [mistake.predicted for mistake in mistakes], features)
    pictures = [draw(mistake.path, LARGE_PX) for mistake in mistakes]
    return [Shown(*parts) for parts in zip(mistakes, pictures, evidence, neighbors, strict=True)]


def find_pictured_neighbors(
    features: np.ndarray, n_neighbors: int, left_out: Sequence[str]
) -> list[list[tuple[Neighbor, str]]]:
    """Return the most similar training images of each row of features, with their pictures.

    `left_out` is the SHA-256 of each row's own image, which is no neighbor of it.
    """
    manifest = read_manifest(paths.MANIFEST)
    found = find_neighbors(paths.FEATURES, manifest, features, n_neighbors, split="training", left_out=left_out)
    return [[(neighbor, draw(neighbor.image.path)) for neighbor in row] for row in found]


def find_split(predictions: Predictions) -> str | None:
    """Return the split of the predicted images, None if they are of all."""
    return None if predictions.are_out_of_fold else "evaluation"


def iterate_features(predictions: Predictions) -> Iterator[np.ndarray]:
    """Yield the features of the predicted images in their order, (rows, n_features) at a time, without views."""
    for rows, values in iterate_shards(paths.FEATURES, find_split(predictions)):
        yield values[[row.view == "0" for row in rows]]


def read_rows(hashes: Sequence[str], split: str | None = None) -> np.ndarray:
    """Return the features of images of a split, or of any, by their SHA-256, (len(hashes), n_features).

    Raises
    ------
    IntegrityError
        An image has no features there, or they are damaged.
    """
    wanted = set(hashes)
    found = {
        row.sha256: values[number].copy()  # a view would keep the whole shard in memory
        for rows, values in iterate_shards(paths.FEATURES, split)
        for number, row in enumerate(rows)
        if row.sha256 in wanted and row.view == "0"
    }
    if missing := wanted - found.keys():
        got = f"none of image {min(missing)}"
        raise IntegrityError(where=paths.FEATURES, wanted="features of the images", got=got, advice="run `dvc repro`")
    return np.stack([found[sha256] for sha256 in hashes])


def explain_images(images: Sequence[str], labels: Sequence[str], features: np.ndarray) -> list[Evidence | None]:
    """Return what speaks for a class in each image of the dataset, whose features (images, n_features) are given.

    It is None if the image cannot be read, if the map would be an estimate, for which the network would run 50 times
    per image, or if the network cannot be built here, which is logged.
    """
    evidence: list[Evidence | None] = [None] * len(images)
    rows = [row for row, image in enumerate(images) if open_picture(image, LARGE_PX) is not None]
    files = [paths.DATASET / images[row] for row in rows]
    try:
        explainer = Explainer(paths.CLASSIFIER)
        if not explainer.is_exact:
            return evidence
        explanations = explainer.explain(files, [labels[row] for row in rows], features[rows])
    except RelearnError as error:
        log.warning("no evidence maps: %s", error)
        return evidence
    for row, file, explanation in zip(rows, files, explanations, strict=True):
        evidence[row] = Evidence(draw_explanation(file, explanation, LARGE_PX), explanation.text)
    return evidence
