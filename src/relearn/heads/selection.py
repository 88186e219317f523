"""Which of the heads that were tried is chosen."""

import math
from typing import NamedTuple

import numpy as np

from relearn.evaluation.paired import compare_paired
from relearn.heads.fitted import Head
from relearn.heads.kinds import KINDS
from relearn.heads.options import Options


class Trial(NamedTuple):
    """One head with one set of options, and its answers for the images that it is chosen by.

    name : the head, and those of its options that vary
    right : (images,) bool, which of them it got right
    log_loss : of its own probabilities, or None if it has none
    standard_error : of the accuracy
    fitted : on all of training, or None if it was tried in folds
    """

    name: str
    head: str
    options: Options
    right: np.ndarray
    log_loss: float | None
    standard_error: float
    fitted: Head | None
    n_iter: int | None
    converged: bool

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right.mean())

    @property
    def complexity(self) -> tuple[float, ...]:
        """The least is the simplest: the kind of head in the order of `KINDS`, then the options by capacity."""
        sizes = []
        for name, sign in KINDS[self.head].capacity.items():
            value = getattr(self.options, name)
            if value is None:  # no limit of a tree's depth, but no shrinkage either
                value = math.inf if sign > 0 else 0
            sizes.append(sign * float(value))
        return (list(KINDS).index(self.head), *sizes)

    @property
    def loss(self) -> float:
        """The log loss, infinite without probabilities."""
        return math.inf if self.log_loss is None else self.log_loss


def find_leader(trials: list[Trial]) -> Trial:
    """Return the best of the trials.

    Of those that are of the same kind as the most accurate one, and not clearly less accurate (McNemar's exact test at
    5 %), it has the lowest log loss. One image decides nothing, but the log loss can be twice as high.
    """
    first = _find_most_accurate(trials)
    near = [trial for trial in trials if trial.head == first.head and not _is_clearly_worse(trial, first)]
    return min(near, key=lambda trial: (trial.loss, -trial.accuracy, trial.complexity))


def _find_most_accurate(trials: list[Trial]) -> Trial:
    return min(trials, key=lambda trial: (-trial.accuracy, trial.loss, trial.complexity))


def _is_clearly_worse(trial: Trial, other: Trial) -> bool:
    return compare_paired(other.right, trial.right).verdict == "worse"


def choose_trial(trials: list[Trial], one_standard_error: bool) -> tuple[Trial, list[str]]:
    """Choose a trial, and return it with a verdict on each.

    1. Of each kind of head the best is a candidate. With `one_standard_error` it is the simplest whose accuracy is at
       most one standard error below the highest (Breiman et al. 1984, "Classification and Regression Trees",
       section 3.4.3).
    2. Candidates of other kinds tie with the leader, the best of all, unless their answers are clearly worse on the
       same images (McNemar's exact test at 5 %). The simplest of those that tie is chosen.
    """
    leader = find_leader(trials)
    candidates = []
    for kind in dict.fromkeys(trial.head for trial in trials):
        same_kind = [trial for trial in trials if trial.head == kind]
        candidate = find_leader(same_kind)
        if one_standard_error:
            first = _find_most_accurate(same_kind)
            near = [trial for trial in same_kind if trial.accuracy >= first.accuracy - first.standard_error]
            candidate = min(near, key=lambda trial: trial.complexity)
        if kind == leader.head or not _is_clearly_worse(candidate, leader):
            candidates.append(candidate)
    chosen = min(candidates, key=lambda trial: trial.complexity)
    return chosen, [_describe_trial(trial, chosen, leader) for trial in trials]


def _describe_trial(trial: Trial, chosen: Trial, leader: Trial) -> str:
    verdict = "the best" if trial is leader else compare_paired(leader.right, trial.right).verdict
    if trial is chosen and trial is not leader:
        reason = "within one standard error" if trial.head == leader.head else "no clear difference"
        verdict = f"simpler than {leader.name}, {reason}"
    if not trial.converged:
        verdict += ", not converged"
    return f"chosen: {verdict}" if trial is chosen else verdict
