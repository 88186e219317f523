"""Small pictures of the images of the dataset, for pages that need nothing but themselves."""

import base64
import io
from pathlib import Path

from PIL import Image

from relearn import paths
from relearn.errors import ImageError
from relearn.images.decoding import decode_image

THUMBNAIL_PX = 160


def draw_picture(path: str, side_px: int = THUMBNAIL_PX) -> str:
    """Return an image of the dataset as a data URI, empty if it cannot be read.

    It has at most `side_px` a side; small images are not enlarged.
    """
    rgb = open_picture(path)
    return "" if rgb is None else encode_picture(rgb, side_px)


def open_picture(path: str, min_px: int | None = None) -> Image.Image | None:
    """Return an image of the dataset as RGB, None if it cannot be read; `min_px` is that of `decode_image`."""
    if ".." in Path(path).parts or Path(path).is_absolute():
        return None
    try:
        return decode_image((paths.DATASET / path).read_bytes(), min_px).rgb
    except (OSError, ValueError, ImageError):  # ValueError: a zero byte in the path
        return None


def encode_picture(rgb: Image.Image, side_px: int = THUMBNAIL_PX) -> str:
    """Return an RGB image, which may get smaller, as a data URI of at most `side_px` a side."""
    rgb.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
