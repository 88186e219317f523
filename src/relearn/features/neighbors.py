"""The most similar images by their features: exact, with one shard in memory at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn.dataset.manifest import ManifestRow
from relearn.errors import IntegrityError
from relearn.features.shards import RECOMPUTE, iterate_shards

# A product of matrices adds in an order that depends on their shapes. So it only proposes candidates, with a margin far
# above its error, and their similarities are computed one by one.
MARGIN = 1e-9
MAX_NUMBERS = 2**22  # of candidates in memory at once


class Neighbor(NamedTuple):
    """An image of the dataset, and the cosine of the angle between its features and those asked for."""

    image: ManifestRow
    similarity: float


def find_neighbors(
    folder: Path,
    manifest: Sequence[ManifestRow],
    queries: np.ndarray,
    n_neighbors: int,
    *,
    split: str | None = None,
    left_out: Sequence[str | None] | None = None,
) -> list[list[Neighbor]]:
    """Return the most similar images of each query, the most similar first.

    Images of the same similarity come in the order of the manifest. The similarities are float64, and have the same
    bits however the features are divided into shards. Besides the index, one shard is in memory, and a number for each
    query and row of it. Augmented views do not count.

    Parameters
    ----------
    folder
        What `extract` wrote.
    manifest
        All images that were extracted.
    queries : ndarray (queries, n_features)
        A row of zeros has a similarity of 0 to all images.
    split
        `training`, `validation`, `evaluation`, or None for all images.
    left_out
        A SHA-256 for each query: images with it are no neighbors of the query.

    Raises
    ------
    IntegrityError
        A file is missing or damaged, or the features are those of other images.
    """
    images = [row for row in manifest if split in (None, row.split)]
    units = _scale(queries)
    hidden = np.array([sha256 or "" for sha256 in left_out or [""] * len(units)], str)
    found = _Best(len(units), n_neighbors)
    start = 0
    for rows, values in iterate_shards(folder, split):
        numbers = [number for number, row in enumerate(rows) if row.view == "0"]
        hashes = [rows[number].sha256 for number in numbers]
        if hashes != [image.sha256 for image in images[start : start + len(hashes)]]:
            raise IntegrityError(where=folder, wanted="the images of the manifest", got="others", advice=RECOMPUTE)
        found.add(units, _scale(values[numbers]), start, hidden[:, np.newaxis] != np.array(hashes))
        start += len(hashes)
    return [
        [Neighbor(images[place], float(similarity)) for place, similarity in pairs if np.isfinite(similarity)]
        for pairs in (zip(*row, strict=True) for row in zip(found.places, found.similarities, strict=True))
    ]


class _Best:
    """The best places of each query so far, in their order.

    places, similarities : ndarray (queries, n_neighbors); -inf where there are fewer
    """

    def __init__(self, n_queries: int, n_neighbors: int) -> None:
        self.similarities = np.full((n_queries, n_neighbors), -np.inf)
        self.places = np.full((n_queries, n_neighbors), -1)

    def add(self, queries: np.ndarray, rows: np.ndarray, start: int, may_count: np.ndarray) -> None:
        """Take note of the rows of a shard, the first of which has the place `start`.

        may_count : ndarray (queries, rows) bool
        """
        proposed = np.where(may_count, queries @ rows.T, -np.inf)
        n_neighbors = self.places.shape[1]
        worst = self.similarities[:, -1]
        if len(rows) > n_neighbors:
            worst = np.maximum(worst, np.partition(proposed, -n_neighbors, axis=1)[:, -n_neighbors])
        numbers, columns = np.nonzero((proposed >= worst[:, np.newaxis] - MARGIN) & may_count)
        n_at_once = max(1, MAX_NUMBERS // rows.shape[1])
        parts = [slice(first, first + n_at_once) for first in range(0, len(numbers), n_at_once)]
        exact = [(queries[numbers[part]] * rows[columns[part]]).sum(axis=1) for part in parts]
        self._merge(numbers, np.concatenate([*exact, []]), start + columns)

    def _merge(self, numbers: np.ndarray, similarities: np.ndarray, places: np.ndarray) -> None:
        concerned = np.unique(numbers)
        n_neighbors = self.places.shape[1]
        numbers = np.concatenate([np.repeat(concerned, n_neighbors), numbers])
        similarities = np.concatenate([self.similarities[concerned].ravel(), similarities])
        places = np.concatenate([self.places[concerned].ravel(), places])
        order = np.lexsort((places, -similarities, numbers))
        ranks = np.arange(len(order)) - np.searchsorted(numbers[order], numbers[order])
        kept = order[ranks < n_neighbors]
        self.similarities[concerned] = similarities[kept].reshape(-1, n_neighbors)
        self.places[concerned] = places[kept].reshape(-1, n_neighbors)


def _scale(rows: np.ndarray) -> np.ndarray:
    """Return rows (images, n_features) of length 1, in float64; a row of zeros stays as it is."""
    values = np.ascontiguousarray(rows, np.float64)
    lengths = np.sqrt((values * values).sum(axis=1, keepdims=True))
    scaled: np.ndarray = values / np.where(lengths > 0, lengths, 1)
    return scaled
