"""The one way in which an image is read: for the data set, for the features and for a prediction alike."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from relearn.errors import ImageError

# Decided by content, not by name. Everything else that Pillow could open is refused: fewer parsers, fewer surprises.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# A PNG of 600 kB can unfold to 800 MB. 100 megapixels hold every camera's photos and 300 MB of RGB.
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 1024 * 1024

RESIZE_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# What Pillow's parsers raise on damaged bytes, by their own account and by experience.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError,
    NotImplementedError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodedImage(NamedTuple):
    """An image as it is meant to be seen, and what its file said of itself."""

    rgb: Image.Image
    mode: str
    format: str


def decode_image(content: bytes) -> DecodedImage:
    """Decode the bytes of an image file to 8-bit RGB, upright.

    The first frame of an animation is taken. The EXIF orientation is applied (an unreadable EXIF block counts as
    none). Grey becomes RGB, 16 bits are scaled to 8 (65535 to 255), and transparency is composed on white.

    Raises
    ------
    ImageError
        No image of the allowed formats, too large, truncated, damaged, or of a mode without a range of brightness.
        The text is the reason alone; the caller knows the file.
    """
    if not content:
        raise ImageError("empty file")
    if len(content) > MAX_BYTES:
        raise ImageError(f"too large: {len(content):,} bytes, at most {MAX_BYTES:,} are read")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:  # from 179 megapixels on Pillow is first to say so
        raise ImageError(f"too large: at most {MAX_PIXELS:,} pixels are read") from None
    except _DECODING_ERRORS:
        raise ImageError(f"not an image ({', '.join(FORMATS)} are read)") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"too large: {width} x {height} px, at most {MAX_PIXELS:,} pixels are read")
    mode, file_format = image.mode, image.format or ""
    if mode in ("F", "I"):
        raise ImageError(f"mode {mode} (32 bits a pixel) has no fixed range of brightness; save it with 8 or 16 bits")
    try:
        image.load()
        rgb = _convert_to_rgb(image)
        transpose = _TRANSPOSE.get(_read_orientation(image))
        return DecodedImage(rgb.transpose(transpose) if transpose is not None else rgb, mode, file_format)
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"damaged {file_format} file: {' '.join(str(error).split()) or type(error).__name__}"
        ) from None


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255. 65535 / 255 is 257, and adding half of it rounds to the nearest.
        scaled = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODING_ERRORS:
        return 1


def resize_image(rgb: Image.Image, size_px: int, resize_filter: str) -> np.ndarray:
    """Squeeze an RGB image into a square, whatever its aspect ratio.

    Returns
    -------
    ndarray of shape (size_px, size_px, 3), uint8
        Rows from the top, channels red, green, blue.
    """
    return np.asarray(rgb.resize((size_px, size_px), RESIZE_FILTERS[resize_filter]))
