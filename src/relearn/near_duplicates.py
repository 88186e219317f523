"""Which images are copies of one photo, re-encoded, resized, slightly cropped or mirrored."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from relearn.files import hash_bytes
from relearn.fingerprints import WINDOWS
from relearn.params import NearDuplicates

# Copies differ in at most so many of the 64 bits of the lowest terms, by which candidates are searched.
COARSE_BITS = 64
COARSE_DISTANCE = 8
N_BANDS = 5


class Pairs(NamedTuple):
    """Pairs of images by their rows, and the distance between them; three arrays of one length."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def mark_near_duplicates(
    images: pd.DataFrame, hashes: np.ndarray, rule: NearDuplicates, group: str = "split"
) -> pd.DataFrame:
    """Return the images with a mark on each that has a near duplicate further down, in another split (or label).

    The manifest is ordered by split, so that of a photo in training and evaluation the one in training is marked.
    Added are: `is_compared` (it has hashes), `n_twins_split` (0 or more), and of the nearest one `twin_split`, its
    path, and `distance_split`; or the same with another `group`.

    Parameters
    ----------
    images
        With the column path, and that of the group.
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        All zero where an image has none.
    """
    count, twin, nearness = (f"{name}_{group}" for name in ("n_twins", "twin", "distance"))
    marked = images.assign(is_compared=hashes.any(axis=(1, 2))).assign(**{count: 0, twin: "", nearness: np.nan})
    # A picture that is there a thousand times, such as a site's "not available", is searched for once a group.
    groups = images[group].astype("category").cat.codes.to_numpy()
    compared = np.flatnonzero(marked["is_compared"])
    keys = pd.Series([f"{groups[row]} {hash_bytes(hashes[row].tobytes())}" for row in compared], compared, "str")
    rows = keys.index[~keys.duplicated()].to_numpy()
    first, second, distance = find_near_duplicates(hashes[rows], groups[rows], rule.max_distance, rule.mirrored)
    pairs = pd.DataFrame({"key": keys[rows[first]].array, "other": rows[second], "distance": distance})
    nearest = pairs.sort_values(["key", "distance", "other"]).drop_duplicates("key").set_index("key")
    twice = keys[keys.isin(nearest.index)]
    marked.loc[twice.index, count] = pairs.groupby("key").size().loc[twice].array
    marked.loc[twice.index, twin] = images["path"].iloc[nearest.loc[twice, "other"]].array
    marked.loc[twice.index, nearness] = nearest.loc[twice, "distance"].array
    return marked


def find_near_duplicates(hashes: np.ndarray, groups: np.ndarray, max_distance: int, mirrored: bool) -> Pairs:
    """Return the pairs of images of different groups whose hashes are near each other.

    Two images are near if the whole of the one is near a window of the other: by the bits of the lowest terms, and
    within `max_distance` by all of them.

    Parameters
    ----------
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        As `compute_hashes` returns them.
    groups : ndarray of shape (images,), integer
        An image's split.
    mirrored
        Whether the mirrored whole counts too.

    Returns
    -------
    Pairs
        Of rows first < second, each once, ordered, with the least distance of their hashes.
    """
    # The first byte of each of the first eight rows: the 8 x 8 lowest of the 16 x 16 terms.
    coarse = np.ascontiguousarray(hashes[:, :, 0:16:2]).view("<u8")[:, :, 0]
    fine = np.ascontiguousarray(hashes).view("<u8")
    n_windows = len(WINDOWS)
    table = np.ascontiguousarray(coarse[:, :n_windows]).ravel()
    parts = []
    for whole in (0, n_windows) if mirrored else (0,):
        for query, place in search(np.ascontiguousarray(coarse[:, whole]), table, COARSE_DISTANCE):
            image, window = np.divmod(place, n_windows)
            distance = np.bitwise_count(fine[query, whole] ^ fine[image, window]).sum(axis=1, dtype=np.int64)
            near = (distance <= max_distance) & (groups[query] != groups[image])
            ends = np.sort(np.stack([query[near], image[near]]), axis=0)
            parts.append(np.vstack([ends, distance[near]]))
    found = np.concatenate(parts, axis=1) if parts else np.empty((3, 0), np.int64)
    found = found[:, np.lexsort(found[::-1])]  # by first, second, distance
    is_new = np.ones(found.shape[1], bool)
    is_new[1:] = (found[:2, 1:] != found[:2, :-1]).any(axis=0)
    return Pairs(*found[:, is_new])


def search(queries: np.ndarray, table: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all (query, row of the table) whose 64-bit hashes differ in at most `most` bits; some of them twice.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012, doi 10.1109/CVPR.2012.6248043): where two hashes are cut into
    m bands and differ in less than 2 m bits, they differ in at most one bit of some band. So each band's bucket is
    compared with the buckets of its own key and of the keys one bit off, and with no others.
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
            step = max(1, (1 << 18) // len(near))  # a block that stays in the processor's cache
            for start in range(query_starts[key], query_starts[key + 1], step):
                stop = min(start + step, query_starts[key + 1])
                distances = np.bitwise_count(ordered_queries[start:stop, None] ^ near)
                query, row = np.nonzero(distances <= most)
                if len(query):
                    yield query_order[start + query], rows[row]


def _sort_into_buckets(hashes: np.ndarray, low: int, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts hashes by the band of bits from `low` on, and where each key's bucket starts."""
    keys = ((hashes >> np.uint64(low)) & np.uint64(n_keys - 1)).astype(np.int64)
    return np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=n_keys))])
