"""An estimate of the evidence for any head: hide a box of the image, and see how the probability falls.

Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

N_BOXES = 7  # along each side
MIN_PROBABILITY = 1e-9


def list_boxes(size_px: int) -> list[tuple[slice, slice]]:
    """Return the boxes of an image, `N_BOXES` along each side or one for each pixel, row by row from the top left."""
    edges = np.linspace(0, size_px, min(N_BOXES, size_px) + 1).round().astype(int).tolist()
    sides = [slice(first, last) for first, last in pairwise(edges)]
    return [(rows, columns) for rows in sides for columns in sides]


def hide_boxes(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an image, and then a copy for each box, in which the box has the image's mean color.

    Parameters
    ----------
    pixels : ndarray (size, size, 3) uint8
    """
    yield pixels
    color = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for box in list_boxes(len(pixels)):
        hidden = pixels.copy()
        hidden[box] = color
        yield hidden


def estimate_evidence(probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the logarithm of a class's probability, and by how much it falls if each box is hidden.

    Parameters
    ----------
    probabilities : ndarray (1 + boxes,)
        Those of the class, for the images of `hide_boxes`.

    Returns
    -------
    log_probability, grid (rows, columns) float64
    """
    logs = np.log(np.maximum(probabilities.astype(np.float64), MIN_PROBABILITY))
    side = round((len(logs) - 1) ** 0.5)
    return float(logs[0]), (logs[0] - logs[1:]).reshape(side, side)
