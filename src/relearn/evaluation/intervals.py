"""Confidence intervals of shares, and of metrics by a bootstrap."""

from collections.abc import Callable, Iterator

import numpy as np

from relearn.runtime.progress import track_progress

CONFIDENCE = 0.95
CHUNK_NUMBERS = 2**19  # so that what is computed of resamples together stays in a core's cache
QUIET_SECONDS = 3.0  # a bootstrap shows its progress after these


def compute_wilson_interval(n_right: int, n_images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927, by scipy); it also holds for shares of 0 and 1."""
    from scipy.stats import binomtest

    interval = binomtest(n_right, n_images).proportion_ci(confidence, "wilson")
    return float(interval.low), float(interval.high)


def compute_recall_margin(n_images: int) -> float:
    """Return how many percentage points the recall of a class may be off, by its number of images.

    It is half of Wilson's interval for a recall of one half, where that is widest.
    """
    low, high = compute_wilson_interval(n_images // 2, n_images)
    return 50 * (high - low)


def compute_difference_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float
) -> tuple[float, float]:
    """Return the interval of the difference of two independent shares, second - first, each as (k, n).

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10: each end has the
    distances of the two shares to the ends of their Wilson intervals, added in squares.
    """
    (a, n), (b, m) = first, second
    p, q = a / n, b / m
    p_low, p_high = compute_wilson_interval(a, n, confidence)
    q_low, q_high = compute_wilson_interval(b, m, confidence)
    low = q - p - ((q - q_low) ** 2 + (p_high - p) ** 2) ** 0.5
    return low, q - p + ((q_high - q) ** 2 + (p - p_low) ** 2) ** 0.5


def bootstrap(
    labels: np.ndarray,
    compute: Callable[[np.ndarray], np.ndarray],
    n_resamples: int,
    seed: int,
    name: str,
    *,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the ends of the percentile intervals of some metrics, (2, metrics), and show the progress.

    Parameters
    ----------
    labels : ndarray (images,) int64
        The class of each image; see `draw_resamples`.
    compute : callable
        Takes resamples (resamples, images), and returns the metrics of each, (resamples, metrics).
    name : str
        What the progress is called.
    groups : ndarray (images,) int64, optional
        The group of each image, if groups are drawn.
    """
    resamples = (
        draw_resamples(labels, n_resamples, seed) if groups is None else draw_groups(labels, groups, n_resamples, seed)
    )
    shown = track_progress(resamples, n_resamples, name, "resamples", count=len, quiet_seconds=QUIET_SECONDS)
    return find_percentiles(np.concatenate([compute(drawn) for drawn in shown]))


def draw_resamples(labels: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield resamples of images, several at a time: (resamples, images) int64, the numbers of the images drawn.

    Stratified: each class is drawn with replacement from its own images, as many as it has, so that no class vanishes
    from a resample (Efron and Tibshirani 1993, chapter 8). The same seed draws the same resamples.

    Parameters
    ----------
    labels : ndarray (images,) int64
        The class of each image.
    """
    rng = np.random.default_rng(seed)
    ordered = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[ordered], return_index=True, return_counts=True)
    first, sizes = np.repeat(first, sizes), np.repeat(sizes, sizes)
    n_together = max(1, CHUNK_NUMBERS // len(labels))
    for start in range(0, n_resamples, n_together):
        shape = (min(n_together, n_resamples - start), len(labels))
        yield ordered[first + rng.integers(0, sizes, shape)]


def draw_groups(labels: np.ndarray, groups: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield resamples as `draw_resamples` does, but of groups: images of a group are drawn together.

    Within each class its groups are drawn with replacement, one after the other, until they have as many images as the
    class; the last one is cut there, as the last block of a block bootstrap is (Kuensch 1989). So each resample has as
    many images of each class as there are. A group with images of several classes is drawn for each by itself.

    Parameters
    ----------
    labels, groups : ndarray (images,) int64
        The class and the group of each image.
    """
    rng = np.random.default_rng(seed)
    n_together = max(1, CHUNK_NUMBERS // len(labels))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    ordered = [images[np.argsort(groups[images], kind="stable")] for images in classes]
    for start in range(0, n_resamples, n_together):
        n_rows = min(n_together, n_resamples - start)
        yield np.hstack([_draw_blocks(rng, images, groups[images], n_rows) for images in ordered])


def _draw_blocks(rng: np.random.Generator, images: np.ndarray, groups: np.ndarray, n_rows: int) -> np.ndarray:
    """Draw the images of one class, which are ordered by group: (n_rows, images)."""
    _, firsts, sizes = np.unique(groups, return_index=True, return_counts=True)
    drawn = rng.integers(0, len(sizes), (n_rows, -(-len(images) // sizes.min())))
    ends = sizes[drawn].cumsum(axis=1)
    # The numbers of a row follow those of the row before, so that one search finds the group at each place of all rows.
    shifts = np.arange(n_rows)[:, np.newaxis] * ends.max()
    places = np.arange(len(images))
    at = np.searchsorted((ends + shifts).ravel(), (places + shifts).ravel(), "right").reshape(n_rows, -1)
    group = drawn.ravel()[at]
    return np.asarray(images[firsts[group] + places - (ends.ravel()[at] - sizes[group])])


def find_percentiles(values: np.ndarray) -> np.ndarray:
    """Return the ends of the interval that holds `CONFIDENCE` of the resamples: (2, ...) of values (resamples, ...)."""
    tail = 50 * (1 - CONFIDENCE)
    return np.asarray(np.percentile(values, [tail, 100 - tail], axis=0))
