"""Small pictures of the images of the dataset, for pages that need nothing but themselves."""

import base64
import io
from pathlib import Path

from PIL import Image

from relearn import paths
from relearn.errors import ImageError
from relearn.images.decoding import decode_image

THUMBNAIL_PX = 160


def draw_picture(path: str) -> str:
    """Return an image of the dataset as a data URI, empty if it cannot be read.

    It has at most `THUMBNAIL_PX` a side; small images are not enlarged.
    """
    if ".." in Path(path).parts or Path(path).is_absolute():
        return ""
    try:
        rgb = decode_image((paths.DATASET / path).read_bytes()).rgb
    except (OSError, ValueError, ImageError):  # ValueError: a zero byte in the path
        return ""
    return encode_picture(rgb)


def encode_picture(rgb: Image.Image) -> str:
    """Return an RGB image, which may get smaller, as a data URI of at most `THUMBNAIL_PX` a side."""
    rgb.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
