"""An evidence map in words, for those who cannot see it."""

import numpy as np

# What each place covers of the height and of the width, and the share of the evidence above which it is named.
QUARTER_SHARE, HALF_SHARE = 0.5, 0.65
ROUNDING = 1e-9  # of a share; exactly one half is not more than a half on any machine
_WHOLE, _FIRST, _MIDDLE, _LAST = (0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.5, 1.0)
PLACES = {
    "the center": (_MIDDLE, _MIDDLE, QUARTER_SHARE),
    "the upper left": (_FIRST, _FIRST, QUARTER_SHARE),
    "the upper right": (_FIRST, _LAST, QUARTER_SHARE),
    "the lower left": (_LAST, _FIRST, QUARTER_SHARE),
    "the lower right": (_LAST, _LAST, QUARTER_SHARE),
    "the upper half": (_FIRST, _WHOLE, HALF_SHARE),
    "the lower half": (_LAST, _WHOLE, HALF_SHARE),
    "the left half": (_WHOLE, _FIRST, HALF_SHARE),
    "the right half": (_WHOLE, _LAST, HALF_SHARE),
}


def describe_evidence(label: str, grid: np.ndarray, *, is_exact: bool) -> str:
    """Return where most of the evidence for a class is, in one sentence without a full stop.

    A place of a quarter of the image is named if it holds more than half of the evidence, else a half of the image if
    it holds more than 65 % of it. Positions on a border count in part on both sides.

    Parameters
    ----------
    grid : ndarray (rows, columns)
    """
    text = _describe_place(label, np.maximum(grid, 0))
    return text if is_exact else f"{text} (an estimate)"


def _describe_place(label: str, evidence: np.ndarray) -> str:
    total = evidence.sum()
    if not total > 0:
        return f"no place speaks for {label}"
    if evidence.size == 1:
        return f"the whole image speaks for {label}"
    for share in (QUARTER_SHARE, HALF_SHARE):
        held = {
            name: _cover(len(evidence), rows) @ evidence @ _cover(evidence.shape[1], columns) / total
            for name, (rows, columns, wanted) in PLACES.items()
            if wanted == share
        }
        place = max(held, key=lambda name: held[name])
        if held[place] > share + ROUNDING:
            return f"most of the evidence for {label} is in {place}"
    return f"the evidence for {label} is spread over the image"


def _cover(n: int, part: tuple[float, float]) -> np.ndarray:
    """Return which share of each of n positions is within a part of the side."""
    edges = np.arange(n + 1) / n
    overlap = np.minimum(edges[1:], part[1]) - np.maximum(edges[:-1], part[0])
    shares: np.ndarray = np.maximum(overlap, 0) * n
    return shares
