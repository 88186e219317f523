"""The format of an image file, detected from its content, and the parts of the file that make its pixels.

Pillow gets these parts alone. It would parse the others too, keep them as Python objects of many times their size, and
refuse sound pixels because of them. In some formats it leaves missing pixels black.
"""

import re
from collections.abc import Callable

from relearn.images import bmp, gif, heif, jpeg, png, tiff, webp

_SIGNATURES = {
    "AVIF": heif.AVIF_SIGNATURE,
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # many texts begin with "BM"
    "GIF": rb"GIF8[79]a",
    "HEIC": heif.HEIC_SIGNATURE,
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBPVP8[ LX]",
}

FORMATS = tuple(_SIGNATURES)

# The most common formats that are not read, so that the reason can say what to do.
_OTHER_IMAGES = {
    "DICOM": rb".{128}DICM",
    "ICO": rb"\0\0[\1\2]\0",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
    "raw photo": rb".{4}ftypcrx |FUJIFILMCCD-RAW",
    "SVG": rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--[^>]{0,500}>\s*|<!DOCTYPE[^>]{0,500}>\s*)?<svg[\s>]",
}
_NO_IMAGES = {
    "a PDF; save its pages as PNG": rb"%PDF-",
    "a video; save frames of it as JPEG": (
        rb".{4}(?:ftyp|moov|mdat|wide)|\x1a\x45\xdf\xa3|RIFF.{4}AVI |\x00\x00\x01[\xba\xb3]"
    ),
    "a zip archive; unpack it": rb"PK[\3\5]",
    "a gzip archive; unpack it": rb"\x1f\x8b",
    "an xz archive; unpack it": rb"\xfd7zXZ\0",
    "a 7z archive; unpack it": rb"7z\xbc\xaf",
    "a rar archive; unpack it": rb"Rar!",
    "a tar archive; unpack it": rb".{257}ustar",
}


def _find_match(content: bytes, signatures: dict[str, bytes]) -> str | None:
    for name, signature in signatures.items():
        if re.match(signature, content, re.DOTALL):
            return name
    return None


def describe_other(content: bytes) -> str:
    """Return the reason why bytes of none of the formats are refused, with the format that they seem to have."""
    if name := _find_match(content, _OTHER_IMAGES):
        return f"format not read: {name}; save it as JPEG or PNG"
    allowed = f"not an image ({', '.join(FORMATS)} are read)"
    name = _find_match(content, _NO_IMAGES)
    return f"{allowed}: {name}" if name else allowed


def recognize_format(content: bytes) -> str | None:
    """Return the name of the format that the bytes begin as."""
    return _find_match(content, _SIGNATURES)


_PREPARE: dict[str, Callable[[bytes], bytes]] = {
    "AVIF": bytes,
    "BMP": bmp.unfold_bmp,
    "GIF": gif.trim_gif,
    "HEIC": bytes,
    "JPEG": jpeg.trim_jpeg,
    "PNG": png.trim_png,
    "TIFF": tiff.check_tiff,
    "WEBP": webp.check_webp,
}


def prepare(content: bytes, file_format: str) -> bytes:
    """Return the file without the parts that decide neither its pixels nor its orientation.

    Raises
    ------
    DamagedImage
        The file contradicts its format.
    UnsupportedImage
        Pillow would read it wrong, or it would take many times its size.
    """
    return _PREPARE[file_format](content)
