"""Groups of images that are copies of the same photo, so that a cut keeps them together."""

import base64
from collections.abc import Callable, Sequence

import numpy as np

from relearn.dataset.inspections import Inspection
from relearn.dataset.near_duplicates import Pairs, SecondLook, find_candidates
from relearn.images.fingerprints import HASH_BYTES, N_HASHES
from relearn.runtime.progress import track_progress

MAX_DISTANCE = 48  # as validate.near_duplicates_across_splits has it
MAX_NEIGHBORS = 200  # of an image, among those after it
QUIET_SECONDS = 5.0


def name_near_groups(images: Sequence[Inspection], read: Callable[[str], bytes]) -> list[str]:
    """Return the SHA-256 by which the group of each image is named; an empty text if it has no near duplicate.

    It is the least one of the group. The result does not depend on the order of the images.

    Parameters
    ----------
    read
        Returns the bytes that have a SHA-256.
    """
    found = {image.sha256: image.hashes for image in images}
    contents = sorted(found)
    hashes = np.zeros((len(contents), N_HASHES, HASH_BYTES), np.uint8)
    for row, sha256 in enumerate(contents):
        if found[sha256]:
            hashes[row].flat = np.frombuffer(base64.b64decode(found[sha256]), np.uint8)
    centers = find_near_groups(hashes, SecondLook(hashes, lambda row: read(contents[row]), mirrored=True))
    _, leasts, places, counts = np.unique(centers, return_index=True, return_inverse=True, return_counts=True)
    names = [contents[least] if count > 1 else "" for least, count in zip(leasts, counts, strict=True)]
    groups = dict(zip(contents, (names[place] for place in places), strict=True))
    return [groups[image.sha256] for image in images]


def find_near_groups(hashes: np.ndarray, look: SecondLook) -> np.ndarray:
    """Return the row of the center of each image's group; an image without near duplicates is its own center.

    Every member of a group is a near duplicate of its center, so that a chain (a like b, b like c) or a film does not
    become one group. The image with the most candidates is the first center, the earlier row in a tie; it takes its
    near duplicates, and so on with the images that are left.

    Parameters
    ----------
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        All zero if an image has none. Their order decides ties: order the images by content.

    Returns
    -------
    ndarray of shape (images,), int64
    """
    centers = np.arange(len(hashes))
    compared = np.flatnonzero(hashes.any(axis=(1, 2)))
    # A picture that occurs a thousand times is searched once.
    contents = hashes[compared].reshape(len(compared), HASH_BYTES * N_HASHES)
    _, firsts, places = np.unique(contents, axis=0, return_index=True, return_inverse=True)
    rows = compared[firsts]
    alone = np.arange(len(rows))
    pairs = find_candidates(hashes, rows, alone, MAX_DISTANCE, MAX_NEIGHBORS, mirrored=True)
    centers[compared] = rows[_choose_centers(rows, pairs, look)][places]
    return centers


def _choose_centers(rows: np.ndarray, pairs: Pairs, look: SecondLook) -> np.ndarray:
    """Return the position in `rows` of the center of each of them."""
    from scipy.sparse import coo_array

    upper = coo_array((pairs.distance + 1, (pairs.first, pairs.second)), shape=(len(rows), len(rows)))
    near = (upper + upper.T).tocsr()  # distances + 1: what is 0 is not stored
    n_near = np.diff(near.indptr)
    order = np.argsort(-n_near, kind="stable")[: np.count_nonzero(n_near)]
    centers, is_free = np.arange(len(rows)), np.ones(len(rows), bool)
    for center in track_progress(order, len(order), "groups of near duplicates", quiet_seconds=QUIET_SECONDS):
        if not is_free[center]:
            continue
        is_free[center] = False
        part = slice(near.indptr[center], near.indptr[center + 1])
        free = is_free[near.indices[part]]
        others, distances = near.indices[part][free], near.data[part][free] - 1
        members = others[look.confirm(rows[center], rows[others], distances)]
        centers[members], is_free[members] = center, False
    return centers
