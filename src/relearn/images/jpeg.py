"""The parts of a JPEG file that make its pixels; source: ITU-T T.81, B.1.1 and B.2."""

import io
import re
from collections.abc import Iterator

from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.limits import MAX_PARTS, count_scans_read


def trim_jpeg(content: bytes) -> bytes:
    """Keep the first JFIF, EXIF, XMP and Adobe segment, and drop the other APPn and comments before the pixels."""
    trimmed = io.BytesIO()
    trimmed.write(b"\xff\xd8")
    wanted = {(0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xEE, b"Adobe")}
    has_frame, n_pixels = False, 1
    for marker, start, end in _iterate_jpeg_segments(content):
        if marker == 0xDA:  # the first scan, and all that follows
            max_scans = count_scans_read(n_pixels)
            if content.count(b"\xff\xda", start) > max_scans:  # a quick test before the exact count
                n_scans = sum(marker == 0xDA for marker, _, _ in _iterate_jpeg_segments(content))
                if n_scans > max_scans:
                    scans = f"{n_scans:,} scans of {n_pixels:,} pixels"
                    raise UnsupportedImage(f"{scans}, at most {max_scans} are read", advice="save it again")
            trimmed.write(memoryview(content)[start:])
            return trimmed.getvalue()
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if has_frame:
                raise DamagedImage("two frame headers")
            has_frame = True
            height, width = (int.from_bytes(content[start + n : start + n + 2], "big") for n in (5, 7))
            n_pixels = max(width * height, 1)
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            found = {entry for entry in wanted if entry[0] == marker and content.startswith(entry[1], start + 4)}
            # The fixed parts of JFIF and Adobe are 14 and 12 bytes; libjpeg ignores shorter ones, Pillow fails.
            if not found or (marker in (0xE0, 0xEE) and end - start < 16):
                continue
            wanted -= found
        trimmed.write(memoryview(content)[start:end])
    raise DamagedImage("image file is truncated: it has no pixels")


def _iterate_jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end (after its parameters) of each segment, up to the end of the first picture."""
    # As in libjpeg, the bytes between segments are skipped, and the markers within a scan.
    find_marker = re.compile(rb"\xff([^\xff\0\xd0-\xd7])", re.DOTALL).search
    position, is_scanned, n_segments = 2, False, 0
    while found := find_marker(content, position):
        marker, start, position = found[1][0], found.start(), found.end()
        if marker == 0xD9 and is_scanned:
            return
        n_segments += 1
        if n_segments > MAX_PARTS:
            raise UnsupportedImage(f"more than {MAX_PARTS:,} segments", advice="save it again")
        if marker == 0x01 or 0xD8 <= marker <= 0xD9:  # these have no parameters
            continue
        length = int.from_bytes(content[position : position + 2], "big")
        if length < 2 <= len(content) - position:
            raise DamagedImage(f"segment {marker:#x} has no length")
        position += length
        if position > len(content):
            return
        is_scanned = is_scanned or marker == 0xDA
        yield marker, start, position
