"""How much memory the decoding of a file takes, known before it begins."""

import io
import math
import struct
import zlib
from contextlib import suppress

from PIL import Image

from relearn.errors import ImageError
from relearn.images.formats import recognize_format
from relearn.images.heif import read_greatest_size
from relearn.images.limits import LARGE_PIXELS
from relearn.images.webp import read_webp_size

PIXEL_BYTES = 8
WEBP_PIXEL_BYTES = 16
# What takes more is decoded in a thread of its own, one at a time, as `decode_image` does.
LARGE_BYTES = LARGE_PIXELS * PIXEL_BYTES
# Those of Pillow on damaged headers; what is wrong is reported by the decoder.
_HEADER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, Warning, struct.error, zlib.error, Image.DecompressionBombError, ImageError,
)  # fmt: skip


def estimate_bytes(content: bytes, max_pixels: int) -> int:
    """Return the bytes that decoding takes at its peak by the header of a file, or those of the largest image."""
    file_format = recognize_format(content)
    if file_format is None:
        return 0
    n_pixels = max_pixels
    with suppress(*_HEADER_ERRORS):
        n_pixels = math.prod(_read_size(content, file_format)) or max_pixels
    return min(n_pixels, max_pixels) * (WEBP_PIXEL_BYTES if file_format == "WEBP" else PIXEL_BYTES)


def _read_size(content: bytes, file_format: str) -> tuple[int, int]:
    # The decoders of WebP, AVIF and HEIC may take memory for the whole image when they are opened.
    if file_format == "WEBP":
        return read_webp_size(content)
    if file_format in ("AVIF", "HEIC"):
        return read_greatest_size(content)
    with Image.open(io.BytesIO(content), formats=[file_format]) as image:
        return image.size
