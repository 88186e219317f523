"""The one decode path: the dataset, the features and a prediction read an image by the same function."""

import io
import math
import re
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)
from pillow_heif.as_plugin import HeifImageFile

from relearn.errors import DamagedImage, ImageError, OutOfMemory, UnsupportedImage
from relearn.images.formats import describe_other, prepare, recognize_format
from relearn.images.heif import convert_colors, read_colors, read_greatest_size
from relearn.images.limits import DRAFT_PIXELS, LARGE_PIXELS, MAX_EXIF_BYTES, MAX_PIXELS
from relearn.images.png import check_png_rows, scale_png_transparency
from relearn.images.tiff import TiffReader, check_tiff_strips
from relearn.images.webp import read_webp_size

# The content decides, not the name. All else that Pillow could open is refused: fewer parsers, fewer surprises.
# `Image.open` would do, but it hides why one of them refused a file.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "HEIC": HeifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffReader,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
MAX_BYTES = 256 * 1024 * 1024

_large_image = threading.Lock()  # held while one of more than `LARGE_PIXELS` is decoded

# Pixels to convert at a time: a conversion of the whole image would hold up to four copies of it.
_STRIP_PIXELS = 1_000_000

RESIZE_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# What Pillow's parsers raise on damaged bytes, as documented and as seen.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError,
    NotImplementedError, RuntimeError, AssertionError, BufferError, struct.error, zlib.error,
    Warning,  # raised if a caller turns warnings into errors
)  # fmt: skip

# Pillow's words for a sound file of a kind that it does not read.
_UNSUPPORTED = re.compile("unsupported|not (yet )?supported|cannot handle|unknown pixel mode", re.I)

# Plain words for those of Pillow that explain nothing.
_PLAIN_WORDS = {
    "": "the data contradict each other",
    "cannot load this image": "it holds no pixels",
    "could not create decoder object": "the header is cut short or wrong",
    "decoder error -2": "the compressed pixels are cut short or wrong",
    "failed to decode next frame in WebP file": "the compressed pixels are cut short or wrong",
    "not identified by this driver": "the header is cut short or wrong",
    "Unsupported BMP bitfields layout": "an unsupported layout of the bits of a pixel; save it as PNG",
    "unknown pixel mode": "an unsupported mixture of colors, bits and alpha; save it as RGB with 8 bits a sample",
    "Truncated File Read": "image file is truncated",
}

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
    """An upright RGB image, and the mode, the format and the size in pixels (width, height; upright) of its file."""

    rgb: Image.Image
    mode: str
    format: str
    size: tuple[int, int]


def decode_image(content: bytes, min_px: int | None = None, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the bytes of an image file to 8-bit RGB, upright.

    An animation counts as its first frame. The EXIF orientation is applied; an unreadable EXIF block is ignored. Gray
    becomes RGB, 16 bits are scaled to 8 (65535 to 255), and transparency is composed on white, as is the part of the
    canvas that the first frame does not cover. `docs/images.md` lists the kinds of files that are read and refused.

    The colors of a HEIC or AVIF file become sRGB, by its profile. All other metadata (texts, comments, further frames,
    profiles of other formats) is ignored, whatever its size and state. A JPEG of more than `DRAFT_PIXELS` is decoded
    at half its size. A file that
    ends within its first frame is an error. One loss cannot be seen, because libjpeg fills it with gray: a baseline
    JPEG, or JPEG data in a TIFF, that was cut and closed again by an end marker.

    Parameters
    ----------
    min_px
        Decode a JPEG at a half, a quarter or an eighth of its size, as long as neither side gets shorter than this.
        libjpeg then skips the fine terms of each block, which is faster than decoding and resizing all of them.
    max_pixels
        A larger image is refused.

    Raises
    ------
    ImageError
        The file is no image of the allowed formats, too large, truncated, damaged, or of a kind that is not read
        correctly. The text is the reason alone, in one line; the caller knows the file.
    OutOfMemory
        There is not enough memory to decode it now.
    """
    if not content:
        raise ImageError("empty file")
    if len(content) > MAX_BYTES:
        raise ImageError(f"too large: {len(content):,} bytes, at most {MAX_BYTES:,} are read")
    file_format = recognize_format(content)
    if file_format is None:
        raise ImageError(describe_other(content))
    try:
        return _decode(prepare(content, file_format), file_format, min_px, max_pixels)
    except Image.DecompressionBombError:
        raise ImageError(f"too large: at most {max_pixels:,} pixels are read") from None
    except MemoryError:
        raise OutOfMemory("too large: there is not enough memory to decode it") from None
    except UnsupportedImage as error:
        raise ImageError(f"unsupported {file_format} file: {error}") from None
    except (DamagedImage, *_DECODING_ERRORS) as error:
        reason = _explain(error)
        if _UNSUPPORTED.search(reason):
            state, reason = "unsupported", reason if ";" in reason else f"{reason}; save it as PNG"
        else:
            state = "damaged"
        raise ImageError(f"{state} {file_format} file: {reason}") from None


def _explain(error: Exception) -> str:
    """Return in one line what Pillow found wrong, also if its own code failed on the damage."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    text = "".join(c if c.isprintable() else " " for c in str(cause))
    text = " ".join(text.split())
    if isinstance(cause, KeyError):
        return f"tag or code {text} is missing or not supported"
    is_bug = isinstance(cause, (IndexError, TypeError, AttributeError, AssertionError, struct.error))
    return "the header is cut short or wrong" if is_bug else _PLAIN_WORDS.get(text, text)


def _decode(content: bytes, file_format: str, min_px: int | None, max_pixels: int) -> DecodedImage:
    read = _READERS[file_format]
    if file_format == "WEBP":
        # Its decoder allocates memory for the whole image when it is created, so the size must be known before.
        size = read_webp_size(content)
        return _load_in_turn(size, max_pixels, lambda: _load(read(io.BytesIO(content)), content, file_format, size))
    image = read(io.BytesIO(content))
    width, height = size = image.size
    if min_px is not None:
        image.draft(None, (min_px, min_px))  # only JPEG has drafts
    elif width * height > DRAFT_PIXELS:
        image.draft(None, (width // 2, height // 2))
    # What is decoded of a HEIC or AVIF file may be cropped.
    stated = max(size, read_greatest_size(content), key=math.prod) if file_format in ("AVIF", "HEIC") else size
    return _load_in_turn(stated, max_pixels, lambda: _load(image, content, file_format, size))


def _load_in_turn(size: tuple[int, int], max_pixels: int, load: Callable[[], DecodedImage]) -> DecodedImage:
    """Refuse an image that is too large, and load large images one at a time."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} px, at most {max_pixels:,} pixels are read")
    if width * height <= LARGE_PIXELS:
        return load()
    # In a thread of its own: glibc keeps the freed memory of each thread until the thread ends. Eight threads that
    # took turns would hold the memory of eight images.
    with _large_image, ThreadPoolExecutor(1) as executor:
        return executor.submit(load).result()


def _load(image: ImageFile.ImageFile, content: bytes, file_format: str, size: tuple[int, int]) -> DecodedImage:
    mode = image.mode
    colors = read_colors(image, content) if file_format in ("AVIF", "HEIC") else {}
    if isinstance(image, TiffReader):
        check_tiff_strips(image, content)
        image.info.pop("xmp", None)  # Pillow searches it for an orientation, and fails if it is not text
    box = image.tile[0].extents if file_format == "GIF" else None
    image.load()
    if file_format == "PNG":
        check_png_rows(image, content)
        scale_png_transparency(image, content)
    rgb = convert_colors(_convert_to_rgb(image), colors)
    if box is not None:
        _blank_outside(rgb, box)
    orientation = _read_orientation(image)
    transpose = _TRANSPOSE.get(orientation)
    if transpose is not None:
        if rgb is not image:
            image.close()  # its pixels are not needed any more, and the next line makes a third copy
        rgb = rgb.transpose(transpose)
        if orientation >= 5:  # its sides are swapped
            size = size[::-1]
    return DecodedImage(rgb, mode, file_format, size)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    width, height = image.size
    if width * height <= _STRIP_PIXELS:
        return _convert_strip(image)
    rgb = Image.new("RGB", image.size)
    n_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, n_rows):
        box = (0, top, width, min(top + n_rows, height))
        rgb.paste(_convert_strip(image.crop(box)), box)
    return rgb


def _convert_strip(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255. 65535 / 255 is 257; adding half of it rounds to the nearest.
        levels = np.asarray(image).astype(np.uint32)
        if image.info.get("is_negative"):
            levels = 65535 - levels
        scaled = (levels + 128) // 257
        scaled[levels == image.info.get("transparency", -1)] = 255
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _blank_outside(rgb: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Make white what a GIF's first frame does not cover: it is transparent, and Pillow gives it a color."""
    left, top, right, bottom = box
    width, height = rgb.size
    for border in ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)):
        rgb.paste("white", border)


def _read_orientation(image: Image.Image) -> int:
    if len(image.info.get("exif") or b"") > MAX_EXIF_BYTES:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODING_ERRORS:
        return 1


def resize_image(rgb: Image.Image, size_px: int, resize_filter: str) -> np.ndarray:
    """Resize an RGB image to a square, whatever its aspect ratio.

    Returns
    -------
    ndarray of shape (size_px, size_px, 3), uint8
        Rows from the top, channels red, green, blue.
    """
    return np.asarray(rgb.resize((size_px, size_px), RESIZE_FILTERS[resize_filter]))
