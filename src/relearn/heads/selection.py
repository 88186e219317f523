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
    """Return the most accurate of the trials; in a tie that with the lowest log loss, then the simplest."""
    return min(trials, key=lambda trial: (-trial.accuracy, trial.loss, trial.complexity))


def find_best(trials: list[Trial]) -> Trial:
    """Return the best of the trials of one kind of head.

    Of a kind that is fitted by its log loss it has the lowest, among the trials that are not clearly less accurate than
    the most accurate one (McNemar's exact test at 5 %): an image more decides nothing, and the log loss may be three
    times as high. Of another kind it is the most accurate. The log loss of a tree, say, is that of its purest leaves.
    """
    leader = find_leader(trials)
    if not KINDS[leader.head].minimizes_log_loss:
        return leader
    near = [trial for trial in trials if not _is_clearly_worse(trial, leader)]
    return min(near, key=lambda trial: (trial.loss, -trial.accuracy, trial.complexity))


def choose_trial(trials: list[Trial], one_standard_error: bool) -> tuple[Trial, list[str]]:
    """Choose a trial, and return it with a verdict on each.

    1. Of each kind of head the best is a candidate. With `one_standard_error` it is the simplest whose accuracy is at
       most one standard error below the highest (Breiman et al. 1984, "Classification and Regression Trees",
       section 3.4.3).
    2. Candidates of other kinds tie with the leader, the most accurate of all, unless their answers are clearly worse
       on the same images (McNemar's exact test at 5 %). The simplest of those that tie is chosen.
    """
    leader = find_leader(trials)
    candidates = []
    for kind in dict.fromkeys(trial.head for trial in trials):
        same_kind = [trial for trial in trials if trial.head == kind]
        candidate = _find_simplest(same_kind) if one_standard_error else find_best(same_kind)
        if kind == leader.head or not _is_clearly_worse(candidate, leader):
            candidates.append(candidate)
    chosen = min(candidates, key=lambda trial: trial.complexity)
    return chosen, [_describe_trial(trial, chosen, leader, one_standard_error) for trial in trials]


def _find_simplest(trials: list[Trial]) -> Trial:
    """Return the simplest of the trials that are at most one standard error less accurate than the most accurate."""
    leader = find_leader(trials)
    near = [trial for trial in trials if trial.accuracy >= leader.accuracy - leader.standard_error]
    return min(near, key=lambda trial: trial.complexity)


def _is_clearly_worse(trial: Trial, other: Trial) -> bool:
    return compare_paired(other.right, trial.right).verdict == "worse"


def _describe_trial(trial: Trial, chosen: Trial, leader: Trial, one_standard_error: bool) -> str:
    if trial is leader:
        verdict = "the best" if trial is chosen else "the most accurate"
    elif trial is not chosen:
        verdict = compare_paired(leader.right, trial.right).verdict
    elif trial.head != leader.head:
        verdict = f"simpler than {leader.name}, no clear difference"
    elif one_standard_error:
        verdict = f"simpler than {leader.name}, within one standard error"
    else:
        verdict = f"lower log loss than {leader.name}, no clear difference"
    if not trial.converged:
        verdict += ", not converged"
    return f"chosen: {verdict}" if trial is chosen else verdict
