"""Checks of WebP files; source: RFC 9649."""

from collections.abc import Iterator

from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.limits import MAX_PARTS


def check_webp(content: bytes) -> bytes:
    """Raise `DamagedImage` if the file is shorter than its header says; libwebp reports this like other damage.

    Set the alpha flag of the header if it is not set, but the first frame has an alpha channel or does not cover the
    canvas. Otherwise Pillow drops the alpha channel, and what is transparent becomes black.
    """
    if 8 + int.from_bytes(content[4:8], "little") > len(content):
        raise DamagedImage("image file is truncated")
    if content[15:16] == b"X" and not content[20] & 0x10:
        for start in _iterate_chunks(content):
            kind = content[start : start + 4]
            is_partial = kind == b"ANMF" and content[start + 14 : start + 20] != content[24:30]
            if kind == b"ANMF":
                start += 24  # noqa: PLW2901  # its picture
                kind = content[start : start + 4]
            has_alpha = kind == b"ALPH" or (kind == b"VP8L" and content[start + 12] & 0x10)
            if is_partial or has_alpha:
                return content[:20] + bytes([content[20] | 0x10]) + content[21:]
            if kind in (b"VP8 ", b"VP8L"):
                break
    return content


def _iterate_chunks(content: bytes) -> Iterator[int]:
    """Yield the start of each chunk."""
    position = 12
    for _ in range(MAX_PARTS):
        yield position
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
        if position >= len(content):
            return
    raise UnsupportedImage(f"more than {MAX_PARTS:,} chunks before the first frame", advice="save it again")


def read_webp_size(content: bytes) -> tuple[int, int]:
    """Return width and height from the header."""
    match content[15:16]:
        case b"X":
            return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
        case b"L":
            sides = int.from_bytes(content[21:25], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        case _:
            return int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF
