"""Whether a tuned network is kept."""

from typing import NamedTuple

from relearn.evaluation.paired import Paired


class Decision(NamedTuple):
    """Whether the tuned network goes on, and why."""

    keeps: bool
    reason: str


def decide(paired: Paired, keep: str) -> Decision:
    """Decide by `finetune.keep`; `if_better` needs a difference that McNemar's exact test finds at 5 %.

    Parameters
    ----------
    paired
        The pretrained network and the tuned one on the validation split. It chose the best epoch too, so the tuned one
        looks a little better there than it is.
    """
    points = 100 * (paired.n_only_second - paired.n_only_first) / paired.n_images
    pays = paired.verdict == "better"
    reason = (
        f"fine-tuning {'paid' if pays else 'did not pay'}: {points:+.1f} points on {paired.n_images:,} validation "
        f"images, p = {paired.p_value:.2g}"
    )
    if keep == "if_better":
        return Decision(pays, reason)
    return Decision(keep == "always", f"{reason}; finetune.keep is {keep}")
