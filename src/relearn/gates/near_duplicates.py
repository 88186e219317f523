"""Which images have a near duplicate in another split, or under another label."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset.near_duplicates import MIN_SIMILARITY, SURE_DISTANCE, Pairs, SecondLook, find_candidates
from relearn.errors import IntegrityError
from relearn.params.data import NearDuplicates
from relearn.runtime.progress import track_progress
from relearn.runtime.threads import count_threads, map_ahead
from relearn.storage.files import hash_bytes

# An image gets a second look with the nearest of its candidates, until one is a near duplicate.
N_CANDIDATES = 10
QUIET_SECONDS = 5.0


class Twin(NamedTuple):
    """The nearest near duplicate of an image: its row, their distance, and their similarity, if that decided."""

    row: int
    distance: int
    similarity: float | None

    def __str__(self) -> str:
        looked = "" if self.similarity is None else f", similarity {self.similarity:.2f}"
        return f"distance {self.distance}{looked}"


def mark_near_duplicates(
    images: pd.DataFrame, hashes: np.ndarray, rule: NearDuplicates, group: str = "split"
) -> pd.DataFrame:
    """Return the images with a mark on each that has a near duplicate further down, in another split (or label).

    The manifest is ordered by split, so that the training image is marked if its copy is in evaluation. Added are:
    `is_compared` (the image has hashes), `has_twin_split` (0 or 1), and the path of the nearest near duplicate and how
    near it is as `twin_split` and `nearness_split`. With another `group`, the names end in its name.

    Parameters
    ----------
    images
        With the columns path and sha256, and the column of the group.
    hashes : ndarray of shape (images, N_HASHES, HASH_BYTES), uint8
        All zero if an image has none.

    Raises
    ------
    IntegrityError
        An image that needs a second look is not in `data/dataset`, or has other bytes there.
    """
    has_twin, twin, nearness = (f"{name}_{group}" for name in ("has_twin", "twin", "nearness"))
    marked = images.assign(is_compared=hashes.any(axis=(1, 2)) & images["path"].notna())
    marked = marked.assign(**{has_twin: 0, twin: "", nearness: ""})
    groups = images[group].astype("category").cat.codes.to_numpy()
    compared = np.flatnonzero(marked["is_compared"])
    # A picture that occurs a thousand times, such as "not available" on a site, is searched once per group.
    keys = pd.Series([f"{groups[row]} {hash_bytes(hashes[row].tobytes())}" for row in compared], dtype="str")
    places, firsts = keys.factorize()[0], np.flatnonzero(~keys.duplicated())
    names = images["path"].to_numpy()
    look = SecondLook(hashes, lambda row: read_image(names[row], images["sha256"][row]), mirrored=rule.mirrored)
    twins = find_twins(hashes, compared[firsts], groups, rule, look)
    rows = compared[[place in twins for place in places]]
    found = [twins[place] for place in places if place in twins]
    marked.loc[rows, has_twin] = 1
    marked.loc[rows, twin] = [names[one.row] for one in found]
    marked.loc[rows, nearness] = [str(one) for one in found]
    return marked


def find_twins(
    hashes: np.ndarray, rows: np.ndarray, groups: np.ndarray, rule: NearDuplicates, look: SecondLook
) -> dict[int, Twin]:
    """Return the nearest near duplicates, among the later rows of another group, by positions in `rows`.

    Parameters
    ----------
    rows : ndarray, integer
        The rows to compare.
    groups : ndarray, integer
        The group of each image.
    """
    mirrored = rule.mirrored
    pairs = find_candidates(hashes, rows, groups[rows], rule.max_distance, N_CANDIDATES, mirrored=mirrored)
    starts = np.flatnonzero(np.diff(pairs.first, prepend=-1))

    def _look(candidates: Pairs) -> Twin | None:
        for first, second, distance in zip(*(part.tolist() for part in candidates), strict=True):
            row, other = int(rows[first]), int(rows[second])
            similarity = look.measure(row, other) if distance > SURE_DISTANCE else None
            if similarity is None or similarity >= MIN_SIMILARITY:
                return Twin(other, distance, similarity)
        return None

    parts = map(Pairs, *(np.split(column, starts)[1:] for column in pairs))
    found = map_ahead(_look, parts, 8 * count_threads())
    tracked = track_progress(found, len(starts), "near duplicates", quiet_seconds=QUIET_SECONDS)
    return {int(place): twin for place, twin in zip(pairs.first[starts], tracked, strict=True) if twin is not None}


def read_image(path: str, sha256: str) -> bytes:
    """Return the bytes of an image of the dataset.

    Raises
    ------
    IntegrityError
        The file is missing, or has other bytes.
    """
    file = paths.DATASET / path
    try:
        content = file.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise IntegrityError(problem, where=file, advice="run `dvc repro restructure`") from None
    if hash_bytes(content) != sha256:
        advice = "remove the file and run `dvc repro restructure`"
        raise IntegrityError(where=file, wanted=f"sha256 {sha256} ({paths.MANIFEST})", got="other bytes", advice=advice)
    return content
