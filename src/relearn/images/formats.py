"""The format of an image file, detected from its content, and the parts of the file that make its pixels.

Pillow gets these parts alone. It would parse the others too, keep them as Python objects of many times their size, and
refuse sound pixels because of them. In some formats it leaves missing pixels black.
"""

import re
from collections.abc import Callable

from relearn.images import bmp, gif, jpeg, png, tiff, webp

_SIGNATURES = {
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # many texts begin with "BM"
    "GIF": rb"GIF8[79]a",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBPVP8[ LX]",
}

FORMATS = tuple(_SIGNATURES)

# The most common formats that are not read, so that the reason can say what to do.
_OTHER_IMAGES = {
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIC": rb".{4}ftyp(he[iv]|mi[af]|msf)",
    "ICO": rb"\0\0[\1\2]\0",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
}
_ARCHIVES = {"zip": rb"PK[\3\5]", "gzip": rb"\x1f\x8b", "7z": rb"7z\xbc\xaf", "rar": rb"Rar!", "tar": rb".{257}ustar"}


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
    if name := _find_match(content, _ARCHIVES):
        return f"{allowed}: a {name} archive; unpack it"
    return allowed


def recognize_format(content: bytes) -> str | None:
    """Return the name of the format that the bytes begin as."""
    return _find_match(content, _SIGNATURES)


_PREPARE: dict[str, Callable[[bytes], bytes]] = {
    "BMP": bmp.unfold_bmp,
    "GIF": gif.trim_gif,
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
