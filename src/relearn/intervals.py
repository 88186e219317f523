"""How sure a share of right answers is."""

CONFIDENCE = 0.95


def compute_wilson_interval(n_right: int, n_images: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, by scipy); also right where all or none are."""
    from scipy.stats import binomtest

    interval = binomtest(n_right, n_images).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)
