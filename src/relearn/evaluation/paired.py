"""McNemar's exact test: whether one classifier is better than another on the same images."""

from typing import NamedTuple

import numpy as np

from relearn.evaluation.intervals import CONFIDENCE


class Paired(NamedTuple):
    """Two classifiers on the same images: how many each alone predicted right, and McNemar's exact test of that."""

    n_images: int
    n_only_first: int
    n_only_second: int
    p_value: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no clear difference`: the second, compared with the first."""
        if self.p_value >= 1 - CONFIDENCE:
            return "no clear difference"
        return "better" if self.n_only_second > self.n_only_first else "worse"


def compare_paired(first_right: np.ndarray, second_right: np.ndarray) -> Paired:
    """Compare which images two classifiers predicted right, (images,) bool each.

    Images that both predicted right, or both wrong, carry no information on which is better. Equally good classifiers
    share the others half and half; the p-value is that of a binomial test of one half (McNemar 1947, exact).
    """
    from scipy.stats import binomtest

    n_first = int(np.count_nonzero(first_right & ~second_right))
    n_second = int(np.count_nonzero(second_right & ~first_right))
    p_value = float(binomtest(n_first, n_first + n_second).pvalue) if n_first + n_second else 1.0
    return Paired(len(first_right), n_first, n_second, p_value)
