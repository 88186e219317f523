"""`data/features/` as plain arrays, for notebooks and classifiers of one's own."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn import paths
from relearn.dataset.manifest import SPLITS, read_manifest
from relearn.errors import IntegrityError, ParamsError
from relearn.features.shards import hash_features, iterate_shards


class Features(NamedTuple):
    """Images in the order of the manifest: by split, then by hash.

    features : (rows, features) float32 or float16, as `extract` stored them
    labels, paths, sha256 : (rows,) str; paths are relative to `data/dataset`
    """

    features: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray


def read_arrays(folder: Path, split: str | None = None, views: bool = False) -> Features:
    """Read the features of one split, or of all; the manifest is the one beside the folder.

    There is one row per image, or, with `views`, also one per augmented view: those of an image come after it.

    Raises
    ------
    ParamsError
        There is no split of that name.
    IntegrityError
        A file is missing or damaged, or features and manifest do not belong together.
    """
    if split not in (None, *SPLITS):
        wanted = f"one of {', '.join(SPLITS)}, or None for all"
        raise ParamsError(where="split", wanted=wanted, got=repr(split), advice="evaluation is the test split")
    hash_features(folder)
    index, parts = [], []
    for rows, values in iterate_shards(folder, split):
        chosen = [number for number, row in enumerate(rows) if views or row.view == "0"]
        index += [rows[number] for number in chosen]
        parts.append(values[chosen])
    manifest = folder.parent / paths.MANIFEST.name
    images = [row for row in read_manifest(manifest) if split in (None, row.split)]
    found = [(row.sha256, row.split, row.label) for row in index if row.view == "0"]
    if found != [(row.sha256, row.split, row.label) for row in images]:
        raise IntegrityError(where=folder, wanted=f"the images of {manifest}", got="others", advice="run `dvc repro`")
    features = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    # The number of the image that a row belongs to.
    numbers = np.cumsum([row.view == "0" for row in index], dtype=int) - 1
    rows_of_manifest = [images[number] for number in numbers]
    columns = [[getattr(row, name) for row in rows_of_manifest] for name in ("label", "path", "sha256")]
    return Features(features, *(np.array(column, str) for column in columns))
