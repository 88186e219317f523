"""Which images are copies of the same photo: re-encoded, resized, slightly cropped or mirrored."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from relearn.images.fingerprints import WINDOWS
from relearn.params.data import NearDuplicates
from relearn.storage.files import hash_bytes

# Candidates are searched by the 64 bits of the lowest terms, of which copies differ in at most COARSE_DISTANCE.
COARSE_BITS = 64
COARSE_DISTANCE = 8
N_BANDS = 5

# Frames of the same scene are all near each other. The nearest of the first MAX_HITS is near enough.
MAX_HITS = 1000


class Pairs(NamedTuple):
    """Pairs of images by their rows, first < second, and their distances; three arrays of the same length."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def mark_near_duplicates(
    images: pd.DataFrame, hashes: np.ndarray, rule: NearDuplicates, group: str = "split"
) -> pd.DataFrame:
    """Return the images with a mark on each that has a near duplicate further down, in another split (or label).

    The manifest is ordered by split, so that the training image is marked if its copy is in evaluation. Added are:
    `is_compared` (the image has hashes), `has_twin_split` (0 or 1), and the path and the distance of the nearest near
    duplicate as `twin_split` and `distance_split`. With another `group`, the names end in its name.

    Parameters
    ----------
    images
        With the column path and the column of the group.
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        All zero if an image has none.
    """
    has_twin, twin, nearness = (f"{name}_{group}" for name in ("has_twin", "twin", "distance"))
    marked = images.assign(is_compared=hashes.any(axis=(1, 2))).assign(**{has_twin: 0, twin: "", nearness: np.nan})
    groups = images[group].astype("category").cat.codes.to_numpy()
    compared = np.flatnonzero(marked["is_compared"])
    # A picture that occurs a thousand times, such as "not available" on a site, is searched once per group.
    keys = pd.Series([f"{groups[row]} {hash_bytes(hashes[row].tobytes())}" for row in compared], dtype="str")
    places, firsts = keys.factorize()[0], np.flatnonzero(~keys.duplicated())
    rows = compared[firsts]
    other, distance = find_nearest(hashes, rows, groups[rows], rule)
    twice = other[places] >= 0
    marked.loc[compared[twice], has_twin] = 1
    marked.loc[compared[twice], twin] = images["path"].to_numpy()[rows[other[places[twice]]]]
    marked.loc[compared[twice], nearness] = distance[places[twice]].astype(float)
    return marked


def find_nearest(
    hashes: np.ndarray, rows: np.ndarray, groups: np.ndarray, rule: NearDuplicates
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of `rows` the nearest near duplicate among the later rows of another group.

    Returns
    -------
    ndarray of shape (rows,), ndarray of shape (rows,)
        The position in `rows`, -1 if there is none, and the distance.
    """
    n_images = len(rows)
    # Distance and position as one number: the smallest is the nearest image, and the first of equally near ones.
    none = np.iinfo(np.int64).max
    best = np.full(n_images, none)
    n_hits = np.zeros(n_images, np.int64)
    is_done = np.zeros(n_images, bool)
    for pairs in iterate_near_duplicates(hashes, rows, groups, rule, is_done):
        np.minimum.at(best, pairs.first, pairs.distance * n_images + pairs.second)
        np.add.at(n_hits, pairs.first, 1)
        is_done[pairs.first] = n_hits[pairs.first] > MAX_HITS
    distance, place = np.divmod(best, max(n_images, 1))
    return np.where(best == none, -1, place), distance


def iterate_near_duplicates(
    hashes: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray,
    rule: NearDuplicates,
    is_done: np.ndarray | None = None,
) -> Iterator[Pairs]:
    """Yield pairs of images of different groups whose hashes are near each other; some pairs more than once.

    Two images are near if the whole of one is near a window of the other: by the bits of the lowest terms, and within
    `rule.max_distance` by all bits.

    Parameters
    ----------
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        As `compute_hashes` returns them.
    rows : ndarray, integer
        The rows of `hashes` to compare. The pairs are positions in this array.
    groups : ndarray, integer
        The group of each of `rows`.
    is_done : ndarray, bool, optional
        For each of `rows`, whether to leave it out as `first`. The caller may change it between two pairs.
    """
    # The first byte of each of the first eight rows: the 8 x 8 lowest of the 16 x 16 terms.
    coarse = np.ascontiguousarray(hashes[:, :, 0:16:2][rows]).view("<u8")[:, :, 0]
    fine = hashes.view("<u8")
    n_windows = len(WINDOWS)
    table = np.ascontiguousarray(coarse[:, :n_windows]).ravel()
    for whole in (0, n_windows) if rule.mirrored else (0,):
        for query, place in search(np.ascontiguousarray(coarse[:, whole]), table, COARSE_DISTANCE):
            image = place // n_windows
            first = np.minimum(query, image)
            wanted = groups[query] != groups[image]
            if is_done is not None:
                wanted &= ~is_done[first]
            one, two = fine[rows[query[wanted]], whole], fine[rows[image[wanted]], place[wanted] % n_windows]
            distance = np.bitwise_count(one ^ two).sum(axis=1, dtype=np.int64)
            near = distance <= rule.max_distance
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
