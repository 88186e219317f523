"""Whether a challenger, just trained, is promoted in place of the champion, the production model."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from relearn.evaluation.intervals import compute_difference_interval
from relearn.evaluation.paired import Paired, compute_paired_interval
from relearn.params.pipeline import RetrainParams
from relearn.runtime.text import count_nouns

SAME = "the challenger is the champion, to the last bit"
Verdict = Literal[
    "first", "not compared", "better", "no clear difference", "the same", "worse", "too few images", "blocked by data"
]


class ErrorCounts(NamedTuple):
    """How many of the older and of the new evaluation images the challenger gets wrong."""

    n_older: int
    n_older_wrong: int
    n_new: int
    n_new_wrong: int


class Sameness(NamedTuple):
    """Whether the challenger equals the champion to the last bit, and whether its images differ.

    incomparable : why the champion gives no answers here; empty if it does
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
    errors: ErrorCounts | None = None,
    sameness: Sameness | None = None,
) -> Decision:
    """Decide whether the challenger is promoted.

    The protocol. Both are judged on the same images: the evaluation split of the challenger's data, old images and new
    ones, without those that the champion was trained or chosen on. No challenger is chosen on them. The difference in
    accuracy, challenger - champion, has a score interval of `retrain.confidence`; see `compute_paired_interval`.

    1. A check of the gate with severity error failed: blocked by data, whatever the accuracy.
    2. There is no champion: promoted as the first, however few images there are.
    3. The challenger is the champion, trained on the same images: the same, and nothing to promote.
    4. Fewer than `retrain.min_images` common images: too few to decide, whatever the accuracy.
    5. The error rate of the challenger is clearly higher on the new evaluation images than on the older ones, by more
       than `retrain.max_new_error_increase`: blocked by data. It has learned from images like the new ones, so they are
       not merely of another kind: their labels look wrong. The accuracies cannot show that, because both classifiers
       are wrong if the label is.
    6. The champion cannot be compared, because another relearn made it: not compared, and promoted as a first one,
       under rules 1, 4 and 5.
    7. The challenger is the champion to the last bit, but its images are others: the same, promoted as their record.
    8. The whole interval is above 0: better, promoted. The whole interval is below 0: worse.
    9. Otherwise there is no clear difference. The challenger knows the newer images, so it is promoted if it is shown
       not to be worse by more than the margin: the lower end of the interval is not below -margin (a test of
       non-inferiority). The margin is `retrain.margin`, or what so few images can show at best, which is the interval
       of two classifiers whose answers never differ. No rule promotes a challenger that is clearly worse, however
       small the difference.

    Each champion is compared with the one before it, so losses within the margin can add up over many promotions;
    `relearn compare classifier@v1.0.0 classifier@v9.0.0` shows the sum.

    Parameters
    ----------
    failed_checks
        What the gate found, one line each; errors only.
    paired
        Champion first, challenger second; None without a champion. If the two cannot be compared, only the number of
        images counts.
    errors, sameness
        None without a champion.
    """
    if failed_checks:
        return Decision(
            False, "blocked by data", f"{count_nouns(len(failed_checks), 'check')} failed: {'; '.join(failed_checks)}"
        )
    if paired is None:
        return Decision(True, "first", "there was no production model")
    if sameness and sameness.is_same and not sameness.has_other_images:
        return Decision(False, "the same", SAME)
    if paired.n_images < params.min_images:
        return Decision(False, "too few images", describe_shortage(params, paired.n_images))
    if doubt := describe_doubt(params, errors):
        return Decision(False, "blocked by data", doubt)
    return promote_unseen(sameness) or compare_accuracy(params, paired)


def promote_unseen(sameness: Sameness | None) -> Decision | None:
    """Promote if the answers of both need no comparison, or allow none: rules 6 and 7 of the protocol."""
    if sameness and sameness.incomparable:
        return Decision(True, "not compared", sameness.incomparable)
    if sameness and sameness.is_same:
        return Decision(True, "the same", f"{SAME}, trained on other images")
    return None


def compare_accuracy(params: RetrainParams, paired: Paired) -> Decision:
    """Decide by the accuracy alone: rules 8 and 9 of the protocol."""
    n, first, second = paired.n_images, paired.n_only_first, paired.n_only_second
    low, high = compute_paired_interval(n, first, second, params.confidence)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
    reason = (
        f"of {count_nouns(n, 'evaluation image')} {second:,} right with the challenger alone, {first:,} with the "
        f"champion alone: accuracy {(second - first) / n:+.2%} ({params.confidence:.0%} interval {low:+.2%} to "
        f"{high:+.2%})"
    )
    promoted = verdict == "better"
    if verdict == "no clear difference":
        least = -compute_paired_interval(n, 0, 0, params.confidence)[0]
        margin = max(params.margin, least)
        promoted = low >= -margin
        shown = "not worse" if promoted else "it may be worse"
        reason += f"; {shown} by {margin:.2%} or more ({_name_margin(params, n, least)})"
    return Decision(promoted, verdict, reason)


def _name_margin(params: RetrainParams, n_images: int, least: float) -> str:
    """Return where the margin comes from; `least` is the smallest that the images can show."""
    if least <= params.margin:
        return "retrain.margin"
    # The interval of answers that never differ is z^2 / (n + z^2).
    n_needed = math.ceil(n_images * least / (1 - least) * (1 - params.margin) / params.margin)
    return (
        f"the least that {count_nouns(n_images, 'image')} can show; retrain.margin, {params.margin:.2%}, needs "
        f"{count_nouns(n_needed, 'evaluation image')}"
    )


def describe_shortage(params: RetrainParams, n_images: int) -> str:
    """Return how many evaluation images are missing, and what helps."""
    return (
        f"wanted at least {count_nouns(params.min_images, 'evaluation image')} in common (retrain.min_images), got "
        f"{n_images:,}; "
        "add images, of which restructure.fractions go to evaluation, or lower retrain.min_images"
    )


def describe_doubt(params: RetrainParams, errors: ErrorCounts | None) -> str:
    """Return why the labels of the new images look wrong; empty if they do not."""
    if errors is None or not errors.n_older or not errors.n_new:
        return ""
    n_older, n_older_wrong, n_new, n_new_wrong = errors
    low, high = compute_difference_interval((n_older_wrong, n_older), (n_new_wrong, n_new), params.confidence)
    if low <= params.max_new_error_increase:
        return ""
    return (
        f"the labels of the new images look wrong: the error rate of the challenger is {n_new_wrong / n_new:.1%} on "
        f"{count_nouns(n_new, 'new evaluation image')} and {n_older_wrong / n_older:.1%} on {n_older:,} older, higher "
        f"by {low:.1%} to {high:.1%} ({params.confidence:.0%} interval; retrain.max_new_error_increase: "
        f"{params.max_new_error_increase:.1%})"
    )
