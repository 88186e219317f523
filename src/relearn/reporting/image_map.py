"""Images as points: the first two principal components of their features."""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from relearn.images.thumbnails import open_picture
from relearn.runtime.threads import map_ahead

MAX_POINTS = 5000
MAX_BYTES = 2**27  # of the features, as float64
SPAN = 1000  # the points have whole coordinates from 0 to this
SPRITE_BYTES = 2_000_000  # pixels of all thumbnails together; as JPEG about a third
MIN_SPRITE_PX, MAX_SPRITE_PX = 16, 48


class ImageMap(NamedTuple):
    """Where images lie.

    rows : (points,) the numbers of the images, which are evenly spread over all
    points : (points, 2) int64, from 0 to `SPAN`
    share : how much of the variance of the features the two components have
    """

    rows: np.ndarray
    points: np.ndarray
    share: float


class Sprite(NamedTuple):
    """The thumbnails of images on one picture, row by row; an image that cannot be read is gray."""

    uri: str
    side_px: int
    n_columns: int


def map_images(blocks: Iterable[np.ndarray], n_images: int) -> ImageMap | None:
    """Place images by the first two principal components of their features.

    Parameters
    ----------
    blocks
        The features in order, each (rows, n_features).

    Returns
    -------
    ImageMap or None
        None if the features do not differ, or are fewer than two images or two numbers.
    """
    from sklearn.decomposition import PCA

    chosen: np.ndarray | None = None
    features: np.ndarray | None = None
    start = 0
    for block in blocks:
        if chosen is None or features is None:
            n_points = min(n_images, MAX_POINTS, max(2, MAX_BYTES // (8 * block.shape[1])))
            chosen = np.linspace(0, n_images - 1, n_points).round().astype(np.int64)
            features = np.empty((n_points, block.shape[1]))
        inside = (chosen >= start) & (chosen < start + len(block))
        features[inside] = block[chosen[inside] - start]
        start += len(block)
    if chosen is None or features is None or min(features.shape) < 2 or (features == features[0]).all():
        return None
    pca = PCA(2, svd_solver="randomized", iterated_power=4, random_state=0)
    values = pca.fit_transform(features)
    values -= values.min(axis=0)
    scale = values.max()  # one for both, so that distances keep their proportion
    return ImageMap(
        chosen, np.round(values * (SPAN / scale)).astype(np.int64), float(pca.explained_variance_ratio_.sum())
    )


def draw_sprite(paths: Sequence[str]) -> Sprite:
    """Return thumbnails of images of the dataset on one picture, the smaller the more there are."""
    side = int(np.clip((SPRITE_BYTES / max(1, len(paths))) ** 0.5, MIN_SPRITE_PX, MAX_SPRITE_PX))
    n_columns = max(1, int(np.ceil(len(paths) ** 0.5)))
    sheet = Image.new("RGB", (n_columns * side, -(-len(paths) // n_columns) * side), "gray")
    for number, picture in enumerate(map_ahead(lambda path: open_picture(path, side), paths, 16)):
        if picture is not None:
            sheet.paste(picture.resize((side, side)), (number % n_columns * side, number // n_columns * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=60)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Sprite(uri, side, n_columns)
