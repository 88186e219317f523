"""The folds in which heads are judged by images that they were not fitted on."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

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
    return deal_groups(labels, images.groups, n_folds, params.seed)


def deal_groups(labels: np.ndarray, groups: Sequence[str], n_folds: int, seed: int) -> np.ndarray:
    """Return the fold of each image, (images,) int64: groups in random order, the largest first, are dealt one by one.

    A group goes to the fold that has the fewest images of its classes, and of those the fewest images. So single
    images of a class are spread as evenly as can be. scikit-learn's `StratifiedGroupKFold` cuts by the same rule of
    thumb, but takes a hundred times as long.
    """
    rng = np.random.default_rng(seed)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(sizes)[:-1])
    order = rng.permutation(len(sizes))
    n_by_class = [Counter[int]() for _ in range(n_folds)]
    n_images = [0] * n_folds
    fold_of = np.empty(len(labels), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        # A head that was fitted on an image knows its copies.
        classes = labels[members[group]].tolist()
        fold = min(range(n_folds), key=lambda f: (sum(n_by_class[f][label] for label in classes), n_images[f]))
        fold_of[members[group]] = fold
        n_by_class[fold].update(classes)
        n_images[fold] += len(classes)
    return fold_of
