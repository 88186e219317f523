"""Probabilities of images by heads that were not fitted on them."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.blas import hold_blas
from relearn.heads.calibration import UNCALIBRATED, fit_calibration
from relearn.heads.fitted import Head
from relearn.heads.folds import FoldImages, cut_folds
from relearn.heads.kinds import KINDS, check_memory, fit_heads
from relearn.heads.training_data import TrainingData
from relearn.inference.classifier import HeadRecord
from relearn.params.heads import TrainParams

log = logging.getLogger(__name__)


def predict_out_of_fold(
    splits: Sequence[SplitFeatures], record: HeadRecord, params: TrainParams, groups: Sequence[str] | None = None
) -> np.ndarray:
    """Return the probabilities of each image by a head of the recorded kind and options that was not fitted on it.

    1. The images of all splits are cut into `train.n_folds` folds, as `train.select_by: folds` cuts training. Copies
       of an image, its views, and the images of a group are in one fold.
    2. For each fold a head is fitted on the other folds, the means and standard deviations of a standardization
       included. A head that needs images to tell when to stop leaves out the next fold for that.
    3. If a calibration is recorded, the scores of a fold become probabilities by one that is fitted on the
       out-of-fold scores of the others.

    The same input gives the same bytes.

    Parameters
    ----------
    splits
        Features of one split or of several, with or without augmented views.
    groups
        Of each image, in the order of the splits; None without groups.

    Returns
    -------
    ndarray (images, classes) float64
        In the order of the splits and of `record.classes`.

    Raises
    ------
    TrainingError
        The classes are not those of the record, a class has fewer images or groups than there are folds, or the
        features do not fit into memory.
    """
    found = sorted({label for split in splits for label in split.labels})
    if found != record.classes:
        raise TrainingError(
            where="images in folds",
            wanted=f"the classes {', '.join(record.classes)}",
            got=", ".join(found) or "none",
            advice="run `dvc repro train`",
        )
    rows = join_splits(splits, params.memory_limit_mb * 500_000)
    step = 1 + rows.n_views
    labels = np.searchsorted(record.classes, rows.labels[::step])
    images = FoldImages("images in folds", record.classes, labels, groups or rows.sha256[::step], groups is not None)
    fold_of = cut_folds(images, params, "lower train.n_folds, or add images of it")
    with hold_blas():
        scores = _compute_scores(rows, fold_of, record, params)
    probabilities = np.empty((len(labels), len(record.classes)))
    for fold in range(params.n_folds):
        held_out, calibration = fold_of == fold, UNCALIBRATED
        if record.calibration != "none":
            calibration = fit_calibration(record.calibration, scores[~held_out], labels[~held_out])
        probabilities[held_out] = calibration.compute_probabilities(scores[held_out])
    return probabilities


def join_splits(splits: Sequence[SplitFeatures], memory_bytes: int) -> SplitFeatures:
    """Return the rows of several splits as one block in memory.

    Where images of one split have views and those of another have none, the row of an image stands for its views too.
    All rows of an image together have the weight of one image, so that this changes no head.

    Raises
    ------
    TrainingError
        The features, and a copy of them for a fold, need more than `memory_bytes`.
    """
    splits = [split for split in splits if split.labels]
    n_views = max(split.n_views for split in splits)
    parts = [(split, (1 + n_views) // (1 + split.n_views)) for split in splits]
    n_rows = sum(len(split.labels) * n for split, n in parts)
    n_bytes = 2 * 4 * n_rows * splits[0].blocks[0].shape[1]
    if n_bytes > memory_bytes:
        raise TrainingError(
            where="images in folds",
            wanted=f"train.memory_limit_mb of at least {math.ceil(n_bytes / 5e5):,} for the features",
            got=f"{memory_bytes / 5e5:,.0f}",
            advice="raise it; folds are for small sets",
        )
    return SplitFeatures(
        [np.concatenate([np.repeat(split.features, n, axis=0) for split, n in parts])],
        [sha256 for split, n in parts for sha256 in np.repeat(split.sha256, n).tolist()],
        [label for split, n in parts for label in np.repeat(split.labels, n).tolist()],
        n_views,
    )


def _compute_scores(rows: SplitFeatures, fold_of: np.ndarray, record: HeadRecord, params: TrainParams) -> np.ndarray:
    """Return the scores of each image by the head that was fitted without its fold, (images, outputs) float64."""
    features = rows.blocks[0][:: 1 + rows.n_views]
    scores = np.empty((len(fold_of), 1 if len(record.classes) == 2 else len(record.classes)))
    n_converged = 0
    for fold in range(params.n_folds):
        head = _fit_without(fold, rows, fold_of, record, params)
        scores[fold_of == fold] = head.compute_scores(features[fold_of == fold])
        n_converged += head.converged
    if n_converged < params.n_folds:
        n_others = params.n_folds - n_converged
        log.warning("%s: %d of the heads of %d folds did not converge", record.head, n_others, params.n_folds)
    return scores


def _fit_without(fold: int, rows: SplitFeatures, fold_of: np.ndarray, record: HeadRecord, params: TrainParams) -> Head:
    """Fit the recorded head on the images of the other folds."""
    kind = KINDS[record.head]
    step = 1 + rows.n_views
    stopping = (fold_of == (fold + 1) % params.n_folds) & kind.stops_by_validation
    training = _take_rows(rows, np.repeat((fold_of != fold) & ~stopping, step))
    if missing := sorted(set(record.classes) - set(training.labels)):
        raise TrainingError(
            where="images in folds",
            wanted="every class in more than one fold",
            got=f"{', '.join(missing)} in one",
            advice="lower train.n_folds, or add images of other groups",
        )
    data = TrainingData(
        training,
        _take_rows(rows, np.repeat(stopping, step) & (np.arange(len(rows.labels)) % step == 0))._replace(n_views=0),
        params.model_copy(update={"scale": record.scale}),
        n_linear_fits=None if kind.columns == "uncorrelated" else 1,
    )
    check_memory(record.head, data)
    (head,) = fit_heads(record.head, [kind.options(**record.options)], data, data.compute_sample_weights())
    return head


def _take_rows(rows: SplitFeatures, chosen: np.ndarray) -> SplitFeatures:
    """Return the rows that are chosen by `chosen` (rows,) bool."""
    numbers = np.flatnonzero(chosen)
    sha256, labels = ([column[number] for number in numbers] for column in (rows.sha256, rows.labels))
    return SplitFeatures([rows.blocks[0][numbers]] if len(numbers) else [], sha256, labels, rows.n_views)
