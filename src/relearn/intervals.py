"""How sure a share of right answers is."""

CONFIDENCE = 0.95


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
