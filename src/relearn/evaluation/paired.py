"""Whether one classifier is better than another on the same images: McNemar's exact test, and Tango's interval."""

from typing import NamedTuple

import numpy as np

from relearn.evaluation.intervals import CONFIDENCE

LARGE = 1e9


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


def compute_paired_interval(
    n_images: int, n_only_first: int, n_only_second: int, confidence: float
) -> tuple[float, float]:
    """Return the score interval of the difference of two shares on the same images, second - first.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design": all differences D that the score test does not reject. It inverts
    z(D) = (b - c - n D) / sqrt(n (2 q + D (1 - D))) with b = n_only_second, c = n_only_first, n = n_images, where q,
    the likeliest share that the first alone gets right given D, is the larger root of
    2n q^2 + (D (2n - b + c) - b - c) q - c D (1 - D) = 0. It keeps its level with few images, and if no two answers
    differ.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    n, b, c = n_images, n_only_second, n_only_first
    z = float(norm.isf((1 - confidence) / 2))

    def _compute_score(difference: float) -> float:
        middle = difference * (2 * n - b + c) - b - c
        root = np.sqrt(middle**2 + 8 * n * c * difference * (1 - difference))
        variance = n * (2 * (root - middle) / (4 * n) + difference * (1 - difference))
        distance = b - c - n * difference
        if distance == 0:
            return 0.0
        return float(distance / np.sqrt(variance)) if variance > 0 else float(np.copysign(LARGE, distance))

    estimate, edge = (b - c) / n, 1 - 1e-12
    low = -1.0 if estimate == -1 else brentq(lambda d: _compute_score(d) - z, -edge, estimate)
    high = 1.0 if estimate == 1 else brentq(lambda d: _compute_score(d) + z, estimate, edge)
    return float(low), float(high)
