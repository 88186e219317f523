"""Whether a newly trained classifier may take the place of the one in use."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from relearn.evaluation.intervals import compute_difference_interval
from relearn.evaluation.paired import Paired
from relearn.params import RetrainParams

LARGE = 1e9
SAME = "the candidate is the classifier in use, to the last bit"
Verdict = Literal["first", "not compared", "better", "no clear difference", "the same", "worse", "blocked by data"]


class Surprise(NamedTuple):
    """How many of the older and of the new evaluation images the candidate gets wrong."""

    n_older: int
    n_older_wrong: int
    n_new: int
    n_new_wrong: int


class Sameness(NamedTuple):
    """Whether the candidate answers as the one in use does, to the last bit, and whether its images are others.

    incomparable : why the one in use gives no answers here; empty if it does.
    """

    is_same: bool
    has_other_images: bool
    incomparable: str = ""


class Decision(NamedTuple):
    """What was decided, and why in words."""

    promoted: bool
    verdict: Verdict
    reason: str


def decide_promotion(
    params: RetrainParams,
    failed_checks: Sequence[str],
    paired: Paired | None,
    surprise: Surprise | None = None,
    sameness: Sameness | None = None,
) -> Decision:
    """Decide whether a candidate takes the place of the classifier in use.

    The protocol. Both are judged on the same images: the evaluation split of the candidate's data, old images and new
    ones, without those that the classifier in use was trained or chosen on. No candidate is chosen on them. The
    difference in accuracy, candidate - in use, has a score interval of `retrain.confidence`; see
    `compute_paired_interval`.

    1. A check of the gate with severity error that failed: blocked by data, whatever the accuracy.
    2. Nothing is in use yet: promoted as the first, however few images there are.
    3. The candidate is the one in use, made of the same images: the same, and nothing to promote.
    4. Fewer than `retrain.min_images` common images: blocked by data.
    5. The candidate is clearly wrong more often on the new evaluation images than on the older ones, by more than
       `retrain.max_surprise`: blocked by data. It has learned from images like the new ones, so they are not merely of
       another kind: their labels are to be doubted. The comparison above cannot see that, for both classifiers are
       wrong where the label is.
    6. The one in use cannot be compared, for another relearn made it: not compared, and promoted as a first one would
       be, under the rules 1, 4 and 5.
    7. The candidate is the one in use to the last bit, but its images are others: the same, promoted as their record.
    8. The whole interval is above 0: better, promoted. The whole interval is below 0: worse.
    9. Else there is no clear difference. The candidate knows the newer images, so it is promoted, provided that it is
       shown not to be worse by more than `retrain.margin`: the lower end of the interval is above -margin (a test of
       non-inferiority). A candidate that is clearly worse is promoted by none of this, however small the difference.

    Each is compared with the one before it, so what is lost within the margin can add up over many promotions;
    `relearn compare classifier@v1.0.0 classifier@v9.0.0` tells.

    Parameters
    ----------
    failed_checks
        What the gate found, a line each; only what is an error.
    paired
        The classifier in use first, the candidate second; None if nothing is in use. Where the two cannot be compared,
        the number of images is all that counts.
    surprise, sameness
        None if nothing is in use.
    """
    if failed_checks:
        return Decision(False, "blocked by data", f"{len(failed_checks)} failed: {'; '.join(failed_checks)}")
    if paired is None:
        return Decision(True, "first", "no classifier was in use")
    if sameness and sameness.is_same and not sameness.has_other_images:
        return Decision(False, "the same", SAME)
    if doubt := describe_doubt(params, paired, surprise):
        return Decision(False, "blocked by data", doubt)
    return promote_unseen(sameness) or compare_accuracy(params, paired)


def promote_unseen(sameness: Sameness | None) -> Decision | None:
    """Promote where the answers of both need no comparison, or allow none: points 6 and 7 of the protocol."""
    if sameness and sameness.incomparable:
        return Decision(True, "not compared", sameness.incomparable)
    if sameness and sameness.is_same:
        return Decision(True, "the same", f"{SAME}, of other images")
    return None


def compare_accuracy(params: RetrainParams, paired: Paired) -> Decision:
    """Decide by the accuracy alone: the last two points of the protocol."""
    n, first, second = paired.n_images, paired.n_only_first, paired.n_only_second
    low, high = compute_paired_interval(n, first, second, params.confidence)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
    reason = (
        f"of {n:,} evaluation images {second:,} are right with the candidate alone, {first:,} with the one in use "
        f"alone: accuracy {(second - first) / n:+.2%} ({params.confidence:.0%} interval {low:+.2%} to {high:+.2%})"
    )
    promoted = verdict == "better"
    if verdict == "no clear difference":
        promoted = low > -params.margin
        shown = "not worse" if promoted else "it may be worse"
        reason += f"; {shown} by {params.margin:.2%} or more (retrain.margin)"
    return Decision(promoted, verdict, reason)


def describe_doubt(params: RetrainParams, paired: Paired, surprise: Surprise | None) -> str:
    """Say why nothing can be told from the evaluation images: too few, or labels to be doubted; nothing if it can."""
    if paired.n_images < params.min_images:
        return (
            f"wanted at least {params.min_images:,} evaluation images in common (retrain.min_images), got "
            f"{paired.n_images:,}; add evaluation images, or lower retrain.min_images"
        )
    if surprise is None or not surprise.n_older or not surprise.n_new:
        return ""
    n_older, n_older_wrong, n_new, n_new_wrong = surprise
    low, high = compute_difference_interval((n_older_wrong, n_older), (n_new_wrong, n_new), params.confidence)
    if low <= params.max_surprise:
        return ""
    return (
        f"the labels of the new images are to be doubted: the candidate gets {n_new_wrong / n_new:.1%} of {n_new:,} "
        f"new evaluation images wrong, and {n_older_wrong / n_older:.1%} of {n_older:,} older ones, which is more by "
        f"{low:.1%} to {high:.1%} ({params.confidence:.0%} interval; retrain.max_surprise: {params.max_surprise:.1%})"
    )


def compute_paired_interval(
    n_images: int, n_only_first: int, n_only_second: int, confidence: float
) -> tuple[float, float]:
    """Return the score interval of the difference of two shares on the same images, second - first.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design": all differences D that the score test does not reject. It inverts
    z(D) = (b - c - n D) / sqrt(n (2 q + D (1 - D))) with b = n_only_second, c = n_only_first, n = n_images, where q,
    the likeliest share that the first alone gets right given D, is the larger root of
    2n q^2 + (D (2n - b + c) - b - c) q - c D (1 - D) = 0. It holds its level with few images, and where no two answers
    differ.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    n, b, c = n_images, n_only_second, n_only_first
    z = float(norm.isf((1 - confidence) / 2))

    def compute_score(difference: float) -> float:
        middle = difference * (2 * n - b + c) - b - c
        root = np.sqrt(middle**2 + 8 * n * c * difference * (1 - difference))
        variance = n * (2 * (root - middle) / (4 * n) + difference * (1 - difference))
        distance = b - c - n * difference
        if distance == 0:
            return 0.0
        return float(distance / np.sqrt(variance)) if variance > 0 else float(np.copysign(LARGE, distance))

    estimate, edge = (b - c) / n, 1 - 1e-12
    low = -1.0 if estimate == -1 else brentq(lambda d: compute_score(d) - z, -edge, estimate)
    high = 1.0 if estimate == 1 else brentq(lambda d: compute_score(d) + z, estimate, edge)
    return float(low), float(high)
