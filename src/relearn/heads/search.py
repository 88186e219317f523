"""The trials of heads, judged on validation or in folds of training."""

import logging
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from relearn.heads.fitted import Head
from relearn.heads.folds import FoldImages, cut_folds
from relearn.heads.kinds import KINDS, fit_heads
from relearn.heads.options import Options
from relearn.heads.scoring import compute_scores, judge_scores
from relearn.heads.selection import Trial
from relearn.heads.training_data import TrainingData
from relearn.params.heads import HeadParams

log = logging.getLogger(__name__)

Named = tuple[str, str, Options]  # the first fields of a `Trial`: its name, the kind of head, its options


def try_heads(data: TrainingData) -> list[Trial]:
    """Fit and judge every head that the parameters ask for."""
    return [trial for head, grid in data.params.grids for trial in try_head(head, grid, data)]


def try_head(head: str, grid: HeadParams, data: TrainingData) -> list[Trial]:
    """Fit one kind of head with every set of options in a grid, and judge each."""
    candidates = grid.list_candidates()
    varied = [name for name in candidates[0] if len({str(options[name]) for options in candidates}) > 1]
    started = time.monotonic()
    named = [
        (" ".join([head, *(f"{key}={candidate[key]}" for key in varied)]), head, KINDS[head].options(**candidate))
        for candidate in candidates
    ]
    in_folds = data.params.select_by == "folds"
    where = f"in {data.params.n_folds} folds" if in_folds else "on validation"
    trials = []
    for trial in _judge_in_folds(head, named, data) if in_folds else _judge_on_validation(head, named, data):
        iterations = "" if trial.n_iter is None else f", {trial.n_iter} iterations"
        log.info("%s: %.4f %s%s", trial.name, trial.accuracy, where, iterations)
        trials.append(trial)
    log.info("%s: %d tried in %.1f s", head, len(trials), time.monotonic() - started)
    return trials


def _judge_on_validation(head: str, named: Sequence[Named], data: TrainingData) -> Iterator[Trial]:
    all_fitted = fit_heads(head, [options for *_, options in named], data, data.compute_sample_weights())
    for candidate, fitted in zip(named, all_fitted, strict=True):
        scores = compute_scores(fitted, data.validation.blocks)
        right, losses = judge_scores(fitted, scores, data.validation_labels)
        accuracy = right.mean()
        standard_error = math.sqrt(accuracy * (1 - accuracy) / len(right))
        log_loss = None if losses is None else float(losses.mean())
        yield Trial(*candidate, right, log_loss, standard_error, fitted, fitted.n_iter, fitted.converged)


def _judge_in_folds(head: str, named: Sequence[Named], data: TrainingData) -> Iterator[Trial]:
    fold_of = assign_folds(data)
    weights = data.compute_sample_weights()
    candidates = [options for *_, options in named]
    fitted_by_fold = [
        fit_heads(head, candidates, data, np.where(fold_of == fold, 0, weights)) for fold in range(data.params.n_folds)
    ]
    for candidate, *heads in zip(named, *fitted_by_fold, strict=True):
        yield _judge_folds(candidate, heads, fold_of, data)


def _judge_folds(candidate: Named, heads: Sequence[Head], fold_of: np.ndarray, data: TrainingData) -> Trial:
    """Judge each image, not its views, by the head that was fitted without its fold."""
    right, losses = np.empty(data.n_images, bool), np.empty(data.n_images)
    fold_of_image = fold_of[data.is_image]
    for fold, fitted in enumerate(heads):
        rows, images = data.is_image & (fold_of == fold), fold_of_image == fold
        scores = compute_scores(fitted, data.training.blocks, rows)
        right[images], fold_losses = judge_scores(fitted, scores, data.labels[rows])
        losses[images] = math.nan if fold_losses is None else fold_losses
    accuracies = [right[fold_of_image == fold].mean() for fold in range(len(heads))]
    standard_error = float(np.std(accuracies, ddof=1) / math.sqrt(len(heads)))
    n_iter = None if heads[0].n_iter is None else max(fitted.n_iter or 0 for fitted in heads)
    log_loss = float(losses.mean()) if heads[0].has_probabilities else None
    converged = all(fitted.converged for fitted in heads)
    return Trial(*candidate, right, log_loss, standard_error, None, n_iter, converged)


def assign_folds(data: TrainingData) -> np.ndarray:
    """Return the fold of each row of training, (rows,) int64; copies, views and the group of an image are in its fold.

    It is cut by images, so that it is the same with any number of views.

    Raises
    ------
    TrainingError
        A class has fewer images or groups than there are folds.
    """
    labels = data.labels[data.is_image]
    images = FoldImages("training", data.classes, labels, data.groups, data.n_groups is not None)
    fold_of = cut_folds(images, data.params, "lower train.n_folds or set train.select_by to validation")
    return np.repeat(fold_of, 1 + data.n_views)
