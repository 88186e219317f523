"""The parts of a PNG file that make its pixels; source: PNG specification, third edition."""

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.limits import MAX_EXIF_BYTES, MAX_PARTS

_BLOCK_BYTES = 65_536  # to decompress at a time

_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def trim_png(content: bytes) -> bytes:
    """Keep the critical chunks, transparency, EXIF and XMP, each with a sound checksum."""
    trimmed = io.BytesIO()
    trimmed.write(content[:8])
    if content[8:16] != b"\0\0\0\x0dIHDR":
        raise DamagedImage("the header is cut short or wrong")
    for kind, start, end in _iterate_png_chunks(content):
        if kind == b"IHDR" and start > 8:
            raise DamagedImage("two headers")
        if kind[:1].isupper() and kind not in _PNG_CRITICAL:
            raise DamagedImage(f"unknown chunk {kind!r}")
        is_metadata = kind == b"eXIf" or (kind == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0\0", start + 8))
        if is_metadata and end - start > MAX_EXIF_BYTES:
            continue
        if kind not in (*_PNG_CRITICAL, b"tRNS") and not is_metadata:
            continue
        chunk = memoryview(content)[start:end]
        if zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
            trimmed.write(chunk)
        elif not is_metadata:
            raise DamagedImage(f"wrong checksum of chunk {kind.decode()}")
    return trimmed.getvalue()


def _iterate_png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each chunk, the last of which is IEND."""
    kind, position, n_chunks = b"", 8, 0
    while kind != b"IEND":
        start = position
        n_chunks += 1
        if n_chunks > MAX_PARTS:
            raise UnsupportedImage(f"more than {MAX_PARTS:,} chunks", advice="save it again")
        kind = content[start + 4 : start + 8]
        position += 12 + int.from_bytes(content[start : start + 4], "big")
        if position > len(content):
            raise DamagedImage("image file is truncated")
        yield kind, start, position


def scale_png_transparency(image: Image.Image, content: bytes) -> None:
    """Scale the transparent level of gray as Pillow scales the pixels; Pillow leaves it as in the file."""
    bits, color = content[24:26]
    if "transparency" not in image.info:
        return
    if color == 2 and bits == 16:
        raise UnsupportedImage("16 bits a sample with a transparent color", advice="save it with an alpha channel")
    if color == 0 and bits < 8:
        for kind, start, _ in _iterate_png_chunks(content):
            if kind == b"tRNS":
                n_levels = 1 << bits
                image.info["transparency"] = content[start + 9] % n_levels * 255 // (n_levels - 1)


def check_png_rows(image: Image.Image, content: bytes) -> None:
    """Raise `DamagedImage` if sound data hold too few rows; Pillow leaves the others black."""
    width, height = image.size
    bits, color, *_, is_interlaced = content[24:29]
    if not is_interlaced and np.asarray(image.crop((0, height - 1, width, height))).any():
        return
    bits_per_pixel = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    n_bytes = 0
    for x, y, step_x, step_y in adam7 if is_interlaced else [(0, 0, 1, 1)]:
        n_columns, n_rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if n_columns > 0:
            n_bytes += n_rows * (1 + (n_columns * bits_per_pixel + 7) // 8)
    decompressor = zlib.decompressobj()
    for kind, start, end in _iterate_png_chunks(content):
        for position in range(start + 8, end - 4, _BLOCK_BYTES) if kind == b"IDAT" else ():
            packed = content[position : min(position + _BLOCK_BYTES, end - 4)]
            while packed and n_bytes > 0:
                n_bytes -= len(decompressor.decompress(packed, 16 * _BLOCK_BYTES))
                packed = decompressor.unconsumed_tail
    if n_bytes > 0:
        raise DamagedImage("image file is truncated: rows are missing")
