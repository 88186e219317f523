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

    features : (images, features) float32 or float16, as `extract` stored them
    labels, paths, sha256 : (images,) str; paths are relative to `data/dataset`
    """

    features: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray


def read_arrays(folder: Path, split: str | None = None) -> Features:
    """Read the features of one split, or of all; the manifest is the one beside the folder.

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
    shards = list(iterate_shards(folder, split))
    index = [row for rows, _ in shards for row in rows]
    manifest = folder.parent / paths.MANIFEST.name
    images = [row for row in read_manifest(manifest) if split in (None, row.split)]
    if [(row.sha256, row.split, row.label) for row in index] != [(row.sha256, row.split, row.label) for row in images]:
        raise IntegrityError(where=folder, wanted=f"the images of {manifest}", got="others", advice="run `dvc repro`")
    features = np.concatenate([values for _, values in shards]) if shards else np.empty((0, 0), np.float32)
    columns = [[row.label for row in images], [row.path for row in images], [row.sha256 for row in images]]
    return Features(features, *(np.array(column, str) for column in columns))
