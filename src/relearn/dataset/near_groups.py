"""Groups of images that are copies of the same photo, so that a cut keeps them together."""

import base64
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from relearn.dataset.assignments import Assignment, shorten_hash
from relearn.dataset.manifest import SPLITS
from relearn.dataset.near_duplicates import SURE_DISTANCE, Pairs, SecondLook, find_candidates
from relearn.dataset.splitting import SourceImage
from relearn.images.fingerprints import HASH_BYTES, N_HASHES
from relearn.params.data import RestructureParams
from relearn.runtime.progress import track_progress

MAX_DISTANCE = 48  # as validate.near_duplicates_across_splits has it
MAX_NEIGHBORS = 200  # of an image, among those after it
MAX_LOOKS = 10  # the nearest of these that need a second look: a catalog of one product may have thousands
QUIET_SECONDS = 5.0


def group_images(
    images: list[SourceImage], params: RestructureParams, known: Mapping[str, Assignment], read: Callable[[str], bytes]
) -> list[SourceImage]:
    """Return the images with their groups, if `restructure.group_by` is `near_duplicates`.

    Only images whose split is still to be chosen have one. Images that were given different splits once are not put
    into one group: the gate reports them. A new image goes with the last of these splits. The result does not depend on
    the order of the images.

    Parameters
    ----------
    known
        What was assigned before, by the digits of the image.
    read
        Returns the bytes that have a SHA-256.
    """
    if params.group_by != "near_duplicates":
        return images
    has_validation = any(image.split == "validation" for image in images)
    to_cut = {None} if has_validation else {None, "training"}
    found = {image.seen.sha256: image.seen.hashes for image in images if image.split in to_cut}
    rows = {sha256: known.get(shorten_hash(sha256)) for sha256 in found} if params.stratify else {}
    splits = {sha256: row.split for sha256, row in rows.items() if row is not None}
    names = name_near_groups(found, splits, read)
    return [
        image._replace(group=names[image.seen.sha256]) if image.split in to_cut else image._replace(group="")
        for image in images
    ]


def name_near_groups(
    images: Mapping[str, str], splits: Mapping[str, str], read: Callable[[str], bytes]
) -> dict[str, str]:
    """Return the name of the group of each image; an empty text if it has no near duplicate.

    Parameters
    ----------
    images
        The hashes in base 64 by the SHA-256.
    splits
        The splits that some of them have.

    Returns
    -------
    dict
        By the SHA-256: the first digits of the least one in the group.
    """
    contents = sorted(images)
    hashes = np.zeros((len(contents), N_HASHES, HASH_BYTES), np.uint8)
    for row, sha256 in enumerate(contents):
        if images[sha256]:
            hashes[row].flat = np.frombuffer(base64.b64decode(images[sha256]), np.uint8)
    centers = find_near_groups(hashes, SecondLook(hashes, lambda row: read(contents[row]), mirrored=True)).tolist()
    last: defaultdict[int, str] = defaultdict(str)
    for center, sha256 in zip(centers, contents, strict=True):
        last[center] = max(last[center], splits.get(sha256, ""), key=("", *SPLITS).index)
    members: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for center, sha256 in zip(centers, contents, strict=True):
        members[center, splits.get(sha256, last[center])].append(sha256)
    return {sha256: shorten_hash(group[0]) if len(group) > 1 else "" for group in members.values() for sha256 in group}


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
    far = np.flatnonzero(pairs.distance > SURE_DISTANCE)
    ranks = np.arange(len(far)) - np.searchsorted(pairs.first[far], pairs.first[far])
    pairs = Pairs(*np.delete(np.array(pairs), far[ranks >= MAX_LOOKS], axis=1))
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
