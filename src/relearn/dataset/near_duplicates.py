"""Which images are copies of the same photo: re-encoded, resized, slightly cropped or mirrored."""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from relearn.dataset.similarity import SIDE_PX, draw_gray, measure_similarity
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import WINDOWS
from relearn.runtime.threads import count_threads, map_ahead

# Candidates are searched by the 64 bits of the lowest terms, of which copies differ in at most COARSE_DISTANCE.
COARSE_BITS = 64
COARSE_DISTANCE = 8
N_BANDS = 5

# Up to this distance the hashes alone decide: nearly all pairs are copies. Farther pairs get a second look, in which
# copies have a similarity of at least MIN_SIMILARITY.
SURE_DISTANCE = 32
MIN_SIMILARITY = 0.89

# Frames of the same scene are all near each other. The nearest of the first MAX_HITS are near enough.
MAX_HITS = 1000
MAX_WAITING = 250_000  # pairs in memory, before all but the nearest are dropped
N_KEPT = 50_000  # small squares in memory, 4 kB each


class Pairs(NamedTuple):
    """Pairs of images by their rows, first < second, and their distances; three arrays of the same length."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


class SecondLook:
    """Decides by their pixels whether two images whose hashes are near each other are copies of the same photo.

    An image is decoded when it is first needed, and kept as a small gray square.

    Parameters
    ----------
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        As `compute_hashes` returns them.
    read
        Returns the bytes of the file of a row.
    mirrored
        Whether mirrored copies count.
    """

    def __init__(self, hashes: np.ndarray, read: Callable[[int], bytes], *, mirrored: bool) -> None:
        self._hashes = hashes.view("<u8")
        self._wholes = (0, len(WINDOWS)) if mirrored else (0,)
        self._draw = lru_cache(N_KEPT)(lambda row: draw_gray(decode_image(read(row), SIDE_PX).rgb))

    def measure(self, row: int, other: int) -> float:
        """Return the similarity of two images, -1 to 1, rounded to 3 decimals; see `measure_similarity`."""
        n_windows = len(WINDOWS)
        matches = []
        for one, two in ((row, other), (other, row)):
            for whole in self._wholes:
                distances = np.bitwise_count(self._hashes[one, whole] ^ self._hashes[two, :n_windows]).sum(axis=1)
                matches.append((int(distances.min()), whole > 0, one, two, int(distances.argmin())))
        _, is_mirrored, one, two, window = min(matches)
        pair = self._draw(one), self._draw(two)
        return round(measure_similarity(*pair, window, is_mirrored=is_mirrored, enough=MIN_SIMILARITY), 3)

    def confirm(self, row: int, others: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Return which of `others`, at these distances from an image, are near duplicates of it."""
        is_near = distances <= SURE_DISTANCE
        if not is_near.all():
            measured = map_ahead(lambda other: self.measure(row, other), others[~is_near].tolist(), 2 * count_threads())
            is_near[~is_near] = np.array(list(measured)) >= MIN_SIMILARITY
        return is_near


def find_candidates(
    hashes: np.ndarray, rows: np.ndarray, groups: np.ndarray, max_distance: int, n_nearest: int, *, mirrored: bool
) -> Pairs:
    """Return the pairs of images of different groups whose hashes are near each other, each pair once.

    Of each image there are the `n_nearest` nearest of the later images, the nearest first, at most `MAX_HITS` of which
    are searched. The parameters are those of `iterate_candidates`.
    """
    n_hits = np.zeros(len(rows), np.int64)
    is_done = np.zeros(len(rows), bool)
    found = [Pairs(*np.empty((3, 0), np.int64))]
    n_waiting = 0
    for pairs in iterate_candidates(hashes, rows, groups, max_distance, mirrored=mirrored, is_done=is_done):
        np.add.at(n_hits, pairs.first, 1)
        is_done[pairs.first] = n_hits[pairs.first] > MAX_HITS
        found.append(pairs)
        n_waiting += len(pairs.first)
        if n_waiting > MAX_WAITING:
            found, n_waiting = [_keep_nearest(found, n_nearest)], 0
    return _keep_nearest(found, n_nearest)


def _keep_nearest(found: list[Pairs], n_nearest: int) -> Pairs:
    """Return each pair once, with its least distance, and of each image the nearest ones, the nearest first."""
    first, second, distance = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((distance, second, first))
    first, second, distance = first[order], second[order], distance[order]
    is_new = np.ones(len(first), bool)
    is_new[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    first, second, distance = first[is_new], second[is_new], distance[is_new]
    order = np.lexsort((second, distance, first))
    first, second, distance = first[order], second[order], distance[order]
    is_near = np.arange(len(first)) - np.searchsorted(first, first) < n_nearest
    return Pairs(first[is_near], second[is_near], distance[is_near])


def iterate_candidates(
    hashes: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray,
    max_distance: int,
    *,
    mirrored: bool,
    is_done: np.ndarray | None = None,
) -> Iterator[Pairs]:
    """Yield pairs of images of different groups whose hashes are near each other; some pairs more than once.

    Two images are near if the whole of one is near a window of the other: by the bits of the lowest terms, and within
    `max_distance` by all bits.

    Parameters
    ----------
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        As `compute_hashes` returns them.
    rows : ndarray, integer
        The rows of `hashes` to compare. The pairs are positions in this array.
    groups : ndarray, integer
        The group of each of `rows`.
    mirrored
        Whether to look for mirrored copies as well.
    is_done : ndarray, bool, optional
        For each of `rows`, whether to leave it out as `first`. The caller may change it between two pairs.
    """
    # The first byte of each of the first eight rows: the 8 x 8 lowest of the 16 x 16 terms.
    coarse = np.ascontiguousarray(hashes[:, :, 0:16:2][rows]).view("<u8")[:, :, 0]
    fine = hashes.view("<u8")
    n_windows = len(WINDOWS)
    table = np.ascontiguousarray(coarse[:, :n_windows]).ravel()
    for whole in (0, n_windows) if mirrored else (0,):
        for query, place in search(np.ascontiguousarray(coarse[:, whole]), table, COARSE_DISTANCE):
            image = place // n_windows
            first = np.minimum(query, image)
            wanted = groups[query] != groups[image]
            if is_done is not None:
                wanted &= ~is_done[first]
            one, two = fine[rows[query[wanted]], whole], fine[rows[image[wanted]], place[wanted] % n_windows]
            distance = np.bitwise_count(one ^ two).sum(axis=1, dtype=np.int64)
            near = distance <= max_distance
            yield Pairs(first[wanted][near], np.maximum(query, image)[wanted][near], distance[near])


def search(queries: np.ndarray, table: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all (query, row of the table) whose 64-bit hashes differ in at most `most` bits; some of them twice.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012, doi 10.1109/CVPR.2012.6248043): if two hashes are cut into m
    bands and differ in fewer than 2 m bits, they differ in at most one bit of some band. So each bucket of a band is
    compared only with the buckets of its own key and of the keys one bit off.
    """
    if most >= 2 * N_BANDS:
        raise ValueError(f"wanted a distance below {2 * N_BANDS}, got {most}")
    edges = np.linspace(0, COARSE_BITS, N_BANDS + 1).round().astype(int)
    for low, high in itertools.pairwise(edges.tolist()):
        n_keys = 1 << (high - low)
        query_order, query_starts = _sort_into_buckets(queries, low, n_keys)
        table_order, table_starts = _sort_into_buckets(table, low, n_keys)
        ordered_queries, ordered_table = queries[query_order], table[table_order]
        one_bit_off = np.concatenate([[0], 1 << np.arange(high - low)])
        for key in np.flatnonzero(np.diff(query_starts)):
            buckets = [slice(table_starts[other], table_starts[other + 1]) for other in key ^ one_bit_off]
            near = np.concatenate([ordered_table[bucket] for bucket in buckets])
            if not len(near):
                continue
            rows = np.concatenate([table_order[bucket] for bucket in buckets])
            step = max(1, (1 << 18) // len(near))  # a block that fits in the processor's cache
            for start in range(query_starts[key], query_starts[key + 1], step):
                stop = min(start + step, query_starts[key + 1])
                distances = np.bitwise_count(ordered_queries[start:stop, None] ^ near)
                query, row = np.nonzero(distances <= most)
                if len(query):
                    yield query_order[start + query], rows[row]


def _sort_into_buckets(hashes: np.ndarray, low: int, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts hashes by the band of bits from `low` on, and the start of each key's bucket."""
    keys = ((hashes >> np.uint64(low)) & np.uint64(n_keys - 1)).astype(np.int64)
    return np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=n_keys))])
