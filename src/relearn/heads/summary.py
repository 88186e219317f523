"""The metrics of a training, and the tables of its search."""

import json
import math
from collections import Counter

import numpy as np

from relearn.evaluation.intervals import compute_wilson_interval
from relearn.evaluation.paired import compare_paired
from relearn.heads.fitted import Head
from relearn.heads.scoring import judge_scores
from relearn.heads.selection import Trial, find_leader
from relearn.heads.training_data import TrainingData

SCORE_HEADER = ("C", "log10_C", "accuracy", "accuracy_ci95_low", "accuracy_ci95_high", "log_loss")
SEARCH_HEADER = (
    "head",
    "options",
    "accuracy",
    "accuracy_ci95_low",
    "accuracy_ci95_high",
    "log_loss",
    "n_iter",
    "converged",
    "p_value",
    "verdict",
)


def summarize_training(
    chosen: Trial, head: Head, trials: list[Trial], scores: np.ndarray, data: TrainingData
) -> dict[str, object]:
    """Return the content of `metrics/training.json`; `n_images` counts the training split without views.

    The scores are those of the chosen head on validation before any calibration, which is fitted there.
    """
    right, losses = judge_scores(head, scores, data.validation_labels)
    metrics: dict[str, object] = {
        "head": chosen.head,
        "n_images": data.n_images,
        "n_validation_images": len(right),
        "n_features": len(data.mean),
        **_measure_accuracy("validation", right),
        "validation_baseline_score": round(max(Counter(data.validation.labels).values()) / len(right), 6),
        "converged": head.converged,
        "n_trials": len(trials),
        "n_trials_converged": sum(trial.converged for trial in trials),
    }
    if data.n_groups is not None:
        metrics["n_groups"] = data.n_groups
    if data.n_views:
        metrics["n_views"] = data.n_views
    if losses is not None:
        metrics["validation_log_loss"] = round(float(losses.mean()), 6)
    if (C := getattr(chosen.options, "C", None)) is not None:
        metrics["C"] = C
    if chosen.fitted is None:
        metrics |= _measure_accuracy("folds", chosen.right)
    return metrics


def _measure_accuracy(name: str, right: np.ndarray) -> dict[str, float]:
    return {f"{name}_accuracy_score": round(float(right.mean()), 6)}


def tabulate_search(trials: list[Trial], verdicts: list[str]) -> list[tuple[object, ...]]:
    """Return one row per trial, with the columns of `SEARCH_HEADER`; the p-value is against the best."""
    leader = find_leader(trials)
    return [
        (
            trial.head,
            json.dumps(trial.options.to_dict()),
            *_tabulate_score(trial),
            "" if trial.n_iter is None else trial.n_iter,
            f"{trial.converged}".lower(),
            f"{compare_paired(leader.right, trial.right).p_value:.6f}",
            verdict,
        )
        for trial, verdict in zip(trials, verdicts, strict=True)
    ]


def tabulate_scores(trials: list[Trial], head: str) -> list[tuple[object, ...]]:
    """Return one row per C of a kind of head, if it has C; the logarithm is the axis of a plot."""
    return [
        (f"{C:g}", f"{math.log10(C):.4f}", *_tabulate_score(trial))
        for trial in trials
        if trial.head == head and (C := getattr(trial.options, "C", None)) is not None
    ]


def _tabulate_score(trial: Trial) -> tuple[str, ...]:
    low, high = compute_wilson_interval(int(trial.right.sum()), len(trial.right))
    log_loss = "" if trial.log_loss is None else f"{trial.log_loss:.6f}"
    return f"{trial.accuracy:.6f}", f"{low:.6f}", f"{high:.6f}", log_loss
