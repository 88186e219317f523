"""The folds in which heads are judged by images that they were not fitted on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from relearn.errors import TrainingError
from relearn.params.heads import TrainParams


class FoldImages(NamedTuple):
    """The images that are cut into folds.

    where : what they are called in an error
    classes, labels : the names of the classes; the number of each image's class, (images,) int64
    groups : of each image; by default its hash, so that copies are a group
    has_groups : whether groups were given
    """

    where: str
    classes: Sequence[str]
    labels: np.ndarray
    groups: Sequence[str]
    has_groups: bool


def cut_folds(images: FoldImages, params: TrainParams, advice: str) -> np.ndarray:
    """Return the fold of each image, (images,) int64, stratified by class; the images of a group are in one fold.

    Raises
    ------
    TrainingError
        A class has fewer images or groups than there are folds; the advice is added.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels, n_folds = images.labels, params.n_folds
    unit = "groups" if images.has_groups else "images"
    units = [label for label, _ in set(zip(labels, images.groups, strict=True))] if images.has_groups else labels
    n_units = np.bincount(units)
    rarest = int(n_units.argmin())
    if n_units[rarest] < n_folds:
        raise TrainingError(
            where=images.where,
            wanted=f"at least {n_folds} {unit} of every class (train.n_folds)",
            got=f"{n_units[rarest]} of class {images.classes[rarest]}",
            advice=advice,
        )
    fold_of = np.empty(len(labels), np.int64)
    # A head that was fitted on an image knows its copies.
    folds: Any = StratifiedGroupKFold(n_folds, shuffle=True, random_state=params.seed)
    for fold, (_, held_out) in enumerate(folds.split(fold_of, labels, images.groups)):
        fold_of[held_out] = fold
    return fold_of
