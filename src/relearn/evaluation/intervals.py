"""How sure a share of right answers is, or another number that images give."""

from collections.abc import Iterator

import numpy as np

CONFIDENCE = 0.95
CHUNK_NUMBERS = 2**19  # so that what is computed of resamples together stays in a core's cache


def compute_wilson_interval(n_right: int, n_images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927, by scipy); also right where all or none are."""
    from scipy.stats import binomtest

    interval = binomtest(n_right, n_images).proportion_ci(confidence, "wilson")
    return float(interval.low), float(interval.high)


def compute_difference_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float
) -> tuple[float, float]:
    """Return the interval of the difference of two shares of different things, second - first, each as (k, n).

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10: each end has the
    distances of the two shares to the ends of their Wilson intervals, added in squares.
    """
    (a, n), (b, m) = first, second
    p, q = a / n, b / m
    p_low, p_high = compute_wilson_interval(a, n, confidence)
    q_low, q_high = compute_wilson_interval(b, m, confidence)
    low = q - p - ((q - q_low) ** 2 + (p_high - p) ** 2) ** 0.5
    return low, q - p + ((q_high - q) ** 2 + (p - p_low) ** 2) ** 0.5


def draw_resamples(truth: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield resamples of images, several at a time: (resamples, images) int64, the numbers of the images drawn.

    Stratified: each class is drawn with replacement from its own images, as many as it has, so that none can vanish
    from a sample (Efron and Tibshirani 1993, chapter 8). The same seed draws the same samples.

    Parameters
    ----------
    truth : ndarray (images,) int64
        The class of each image.
    """
    rng = np.random.default_rng(seed)
    ordered = np.argsort(truth, kind="stable")
    _, first, sizes = np.unique(truth[ordered], return_index=True, return_counts=True)
    first, sizes = np.repeat(first, sizes), np.repeat(sizes, sizes)
    n_together = max(1, CHUNK_NUMBERS // len(truth))
    for start in range(0, n_resamples, n_together):
        shape = (min(n_together, n_resamples - start), len(truth))
        yield ordered[first + rng.integers(0, sizes, shape)]


def find_percentiles(values: np.ndarray) -> np.ndarray:
    """Return the ends of the interval that has `CONFIDENCE` of the resamples: (2, ...) of values (resamples, ...)."""
    tail = 50 * (1 - CONFIDENCE)
    return np.asarray(np.percentile(values, [tail, 100 - tail], axis=0))
