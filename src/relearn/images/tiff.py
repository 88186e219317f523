"""Checks of TIFF files, and a reader that reads right what passes them; source: TIFF 6.0."""

import re
import struct

import numpy as np
from PIL import TiffImagePlugin

from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.limits import LARGE_PIXELS, count_scans_read

# Pillow makes a Python object of each value and strip. The smallest tiles (16 x 16) of a whole image are fewer.
_MAX_TIFF_VALUES = 500_000
_MAX_TIFF_TAGS = 0xFFFF

# Compressions that the libtiff of Pillow reads.
_TIFF_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}

# Photometric interpretations: gray with black as the greatest or as zero, RGB, palette, CMYK, YCbCr.
_TIFF_COLORS = {0, 1, 2, 3, 5, 6}
_TIFF_OTHER_COLORS = {4: "a transparency mask", 8: "L*a*b* colors", 9: "L*a*b* colors", 32803: "a camera's raw samples"}


def check_tiff(content: bytes) -> bytes:
    """Return the file; raise `DamagedImage` if its first directory is cut off, or would take many times its size."""
    order = "<" if content.startswith(b"II") else ">"
    is_big = 43 in content[2:4]
    if is_big and order == ">":
        advice = "save it in little-endian byte order, or as a plain TIFF"
        raise UnsupportedImage("BigTIFF in big-endian byte order", advice=advice)
    entry = struct.Struct(order + ("HHQ8x" if is_big else "HHL4x"))
    count = struct.Struct(order + ("Q" if is_big else "H"))
    pointer = struct.Struct(order + ("Q" if is_big else "L"))
    try:
        (start,) = pointer.unpack_from(content, 8 if is_big else 4)
        (n_tags,) = count.unpack_from(content, start)
        if n_tags > _MAX_TIFF_TAGS:
            raise DamagedImage(f"{n_tags:,} tags, at most {_MAX_TIFF_TAGS:,} are read")
        for number in range(n_tags):
            tag, kind, n_values = entry.unpack_from(content, start + count.size + number * entry.size)
            if n_values > _MAX_TIFF_VALUES and kind not in (1, 2, 6, 7):  # bytes and text stay one object
                raise DamagedImage(f"{n_values:,} values in tag {tag}, at most {_MAX_TIFF_VALUES:,} are read")
        pointer.unpack_from(content, start + count.size + n_tags * entry.size)  # to the next directory
    except (struct.error, OverflowError):
        raise DamagedImage("image file is truncated: its tags are cut off") from None
    return content


class TiffReader(TiffImagePlugin.TiffImageFile):
    """Pillow's reader of TIFF, limited to what it reads correctly, and to libtiff for every compression.

    Pillow's own decoder of uncompressed pixels reads separate planes of 16 bits as planes of 8, and subsampled colors
    as complete ones, without an error.
    """

    def _setup(self) -> None:
        tags = self.tag_v2
        _check_samples(tags)
        if tags.get(259, 1) == 1:
            tags[259] = 32773  # for Pillow alone: libtiff reads the tag in the file
        if tags.get(262, 0) == 0 and set(tags.get(258, ())) == {16}:
            tags[262] = 1  # Pillow reads it in one byte order only, and never inverts it
            self.info["is_negative"] = True
        if max(tags.get(320, ()), default=0xFFFF) <= 0xFF:  # some programs write 8 bits instead of 16
            tags[320] = tuple(257 * level for level in tags[320])
        super()._setup()


def _check_samples(tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Raise `UnsupportedImage` for samples that Pillow refuses without advice, or misreads without an error."""
    compression, colors = tags.get(259, 1), tags.get(262, 0)
    if compression not in _TIFF_COMPRESSIONS:
        raise UnsupportedImage(f"compression {compression}", advice="save it with deflate, LZW or no compression")
    n_samples = tags.get(277, 1)
    kinds = set(tags.get(339, (1,)))
    if kinds != {1}:
        kind = {2: "signed", 3: "floating-point", 4: "untyped"}.get(max(kinds), "complex")
        advice = "save it with unsigned samples of 8 or 16 bits"
        raise UnsupportedImage(f"{kind} samples have no fixed range", advice=advice)
    bits = sorted(set(tags.get(258, (1,))))
    if len(bits) > 1 or bits[0] not in (1, 2, 4, 8, 16):
        found = f"{' and '.join(map(str, bits))} bits a sample"
        raise UnsupportedImage(found, advice="save it with samples of 8 or 16 bits")
    if tags.get(254, 0) & 1:
        found = "a raw photo, whose first picture is its thumbnail"
        raise UnsupportedImage(found, advice="develop it and save it as JPEG or PNG")
    if colors not in _TIFF_COLORS:
        name = _TIFF_OTHER_COLORS.get(colors, f"photometric interpretation {colors}")
        raise UnsupportedImage(name, advice="save it as RGB")
    if colors == 5 and tags.get(332, 1) != 1:
        raise UnsupportedImage("inks other than CMYK", advice="save it as RGB")
    if colors in (0, 1, 3) and n_samples > 1 and tags.get(284) == 2 and any(tags.get(338, ())):
        raise UnsupportedImage("gray or a palette with alpha in separate planes", advice="save it as RGB")


def check_tiff_strips(image: TiffReader, content: bytes) -> None:
    """Raise `DamagedImage` if strips or tiles are missing or cut off, or if one takes too much memory."""
    tags = image.tag_v2
    width, height, is_tiled = tags[256], tags[257], 322 in tags
    columns, rows = (tags[322], tags[323]) if is_tiled else (width, min(tags.get(278, height), height))
    if columns < 1 or rows < 1:
        raise DamagedImage("the header is cut short or wrong")
    if columns * rows > max(width * height, LARGE_PIXELS):  # libtiff allocates memory for a whole one
        raise DamagedImage(f"tiles of {columns} x {rows} px in an image of {width} x {height} px")
    n_layers = tags.get(277, 1) if tags.get(284) == 2 else 1
    starts, lengths = (np.ravel(tags.get(tag, ())).tolist() for tag in ((324, 325) if is_tiled else (273, 279)))
    if len(starts) < -(-width // columns) * -(-height // rows) * n_layers:
        raise DamagedImage("image file is truncated: strips are missing")
    if any(start + length > len(content) for start, length in zip(starts, lengths, strict=False)):
        raise DamagedImage("image file is truncated")
    if tags.get(259) == 7:
        scans = [found.start() for found in re.finditer(b"\xff\xda", content)]
        ends = np.add(starts, lengths[: len(starts)])
        n_scans = np.max(np.searchsorted(scans, ends) - np.searchsorted(scans, starts), initial=0)
        max_scans = count_scans_read(width * height)
        if n_scans > max_scans:
            found = f"{n_scans:,} scans of a strip"
            raise UnsupportedImage(f"{found}, at most {max_scans} are read", advice="save it with deflate")
