"""How alike two images are, when one is laid over the part of the other that it shows."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from relearn.images.fingerprints import WINDOWS

SIDE_PX = 64
GRID = 0.5  # of the side: what is compared is coarser than the noise of an encoder
SOFTNESS = 8.0  # gradients below it, in levels of brightness over two pixels, count less: they may be noise
LEVELS = 127  # to which a gradient is rounded

# The edges of the part are moved by these steps, in UNITS of the whole side: 3 %, 1.6 % and 0.8 %.
UNITS = 128
STEPS = (4, 2, 1)
MAX_CUT = 16  # from each side: a smaller part is no slight crop
# Each edge alone, and both edges of a direction together.
MOVES = np.array([(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 1, 0), (0, 1, 0, 1)])

Box = tuple[int, int, int, int]


def draw_gray(rgb: Image.Image) -> Image.Image:
    """Return an image as a gray square of `SIDE_PX`, or of its own shorter side if that is less."""
    side = min(SIDE_PX, *rgb.size)
    return rgb.convert("L").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)


def measure_similarity(
    whole: Image.Image, other: Image.Image, window: int, *, is_mirrored: bool, enough: float
) -> float:
    """Return how alike the structure of two images is, from -1 to 1; of a copy it is nearly 1.

    It is the correlation of the directions of the brightness gradients: a weak edge counts as much as a strong one.
    Otherwise two products of the same outline on white would be alike, whatever is inside. Both images get as sharp as
    the less sharp one. The part of `other` that `whole` shows is moved until they fit best. If they are less alike than
    `enough`, a part of `whole` is searched that `other` shows.

    All sums are of integers below 2^53, so that every machine gets the same number.

    Parameters
    ----------
    whole, other
        As `draw_gray` returns them.
    window
        Which of `WINDOWS` of `other` looks like `whole`, by their hashes.
    is_mirrored
        Whether it looks like the mirrored `whole`.
    """
    if is_mirrored:
        whole = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = (min(whole.width, other.width),) * 2
    whole, other = (image.resize(side, Image.Resampling.LANCZOS) for image in (whole, other))
    similarity = _fit_part(whole, other, WINDOWS[window])
    return similarity if similarity >= enough else max(similarity, _fit_part(other, whole, WINDOWS[0]))


def _fit_part(whole: Image.Image, other: Image.Image, window: tuple[float, float, float, float]) -> float:
    """Return the largest correlation of `whole` with a part of `other`, found by steps uphill from a window."""
    edges = _find_edges(whole, (0, 0, UNITS, UNITS))

    @cache
    def score(box: Box) -> float:
        return _correlate(edges, _find_edges(other, box))

    box: Box = tuple(round(fraction * UNITS) for fraction in window)  # type: ignore[assignment]
    for step in STEPS:
        box = _climb(box, step, score)
    return score(box)


def _climb(box: Box, step: int, score: Callable[[Box], float]) -> Box:
    """Move the edges by steps of this length for as long as the score gets higher."""
    while True:
        moved = np.concatenate([MOVES, -MOVES]) * step + box
        moved[:, :2], moved[:, 2:] = moved[:, :2].clip(0, MAX_CUT), moved[:, 2:].clip(UNITS - MAX_CUT, UNITS)
        best = max(map(tuple, moved.tolist()), key=score)
        if score(best) <= score(box):
            return box
        box = best


def _find_edges(image: Image.Image, box: Box) -> np.ndarray:
    """Return the directions of the gradients in a part of a square: whole numbers up to `LEVELS`, in float64."""
    left, top, right, bottom = (edge * image.width / UNITS for edge in box)
    size = (round(GRID * image.width),) * 2
    part = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    values = np.asarray(part, np.float64)
    gradients = np.stack([values[2:, 1:-1] - values[:-2, 1:-1], values[1:-1, 2:] - values[1:-1, :-2]])
    lengths = np.sqrt((gradients**2).sum(axis=0))
    directions: np.ndarray = np.rint(LEVELS * gradients / (lengths + SOFTNESS)).ravel()
    return directions


def _correlate(edges: np.ndarray, others: np.ndarray) -> float:
    norm = math.sqrt(float(edges @ edges) * float(others @ others))
    return float(edges @ others) / norm if norm else 0.0
