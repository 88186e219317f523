"""A network that is not clearly better is not kept, unless somebody says so."""

import numpy as np
import pytest

from relearn.evaluation.paired import compare_paired
from relearn.finetuning.decision import decide


def pair(n_only_first, n_only_second, n_images=1000):
    first, second = np.zeros(n_images, bool), np.zeros(n_images, bool)
    first[:n_only_first] = True
    second[n_only_first : n_only_first + n_only_second] = True
    return compare_paired(first, second)


@pytest.mark.parametrize(
    ("counts", "keeps", "reason"),
    [
        ((20, 120), True, "fine-tuning paid: +10.0 points on 1,000 validation images, p = 1.4e-18"),
        ((20, 23), False, "fine-tuning did not pay: +0.3 points on 1,000 validation images, p = 0.76"),
        ((120, 20), False, "fine-tuning did not pay: -10.0 points on 1,000 validation images, p = 1.4e-18"),
    ],
)
def test_it_has_to_be_better(counts, keeps, reason):
    decision = decide(pair(*counts), "if_better")
    assert decision.keeps is keeps
    assert decision.reason == reason
    for keep in ("always", "never"):
        forced = decide(pair(*counts), keep)
        assert forced.keeps is (keep == "always")
        assert forced.reason == f"{decision.reason}; finetune.keep is {keep}"
