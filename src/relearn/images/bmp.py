"""BMP files that Pillow may misread, rewritten; source: the bitmap structures of the Windows API."""

import struct

import numpy as np

from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.limits import LARGE_PIXELS, MAX_PIXELS

# A step of Python each; a photo of 20 megapixels has some hundred thousand.
_MAX_RUNS = 2_000_000


def unfold_bmp(content: bytes) -> bytes:
    """Rewrite a BMP as one of 8 bits a pixel with a whole palette, if Pillow may misread it.

    Pillow joins runs of colors, whatever is left out between them, and takes the bits of a pixel from the number of
    colors if the palette is gray.
    """
    (start,), (header_size,) = struct.unpack_from("<I", content, 10), struct.unpack_from("<I", content, 14)
    if len(content) < 14 + header_size:
        raise DamagedImage("image file is truncated")
    if header_size == 12:
        width, height, bits, method, n_colors, n_channels = *struct.unpack_from("<HH2xH", content, 18), 0, 0, 3
    else:
        width, height, bits, method, n_colors = struct.unpack_from("<ii2xHI12xI", content, 18)
        n_channels = 4
    palette_start, n_used = 14 + header_size, n_colors or 1 << bits
    palette = content[palette_start : palette_start + n_channels * min(n_used, 256)]
    levels = (0, 255) if n_used == 2 else range(min(n_used, 256))
    is_gray = all(palette[n * n_channels :][:3] == bytes([level] * 3) for n, level in enumerate(levels))
    is_misread = is_gray and method == 0 and (bits == 4 or (bits == 8 and n_used <= 2))
    n_rows, is_run_length = abs(height), (bits, method) in ((8, 1), (4, 2))
    if not (is_misread or is_run_length) or not 0 < width * n_rows <= MAX_PIXELS:
        return content
    if width * n_rows > LARGE_PIXELS:
        kind = "in runs" if is_run_length else "with a gray palette"
        found = f"{width} x {n_rows} px {kind}"
        raise UnsupportedImage(f"{found}, at most {LARGE_PIXELS:,} pixels are read", advice="save it as PNG")
    if start in (0, palette_start):
        start = palette_start + len(palette)
    if is_run_length:
        packed = _unfold_runs(memoryview(content)[start:], width, n_rows, bits)
        rows = np.frombuffer(packed, np.uint8).reshape(n_rows, width)
    else:
        stride = (width * bits + 31) // 32 * 4
        if len(content) < start + stride * n_rows:
            raise DamagedImage("image file is truncated")
        rows = np.frombuffer(content, np.uint8, stride * n_rows, start).reshape(n_rows, stride)
        if bits == 4:
            rows = np.stack([rows >> 4, rows & 15], axis=2).reshape(n_rows, 2 * stride)
    colors = np.zeros((256, 4), np.uint8)
    given = np.frombuffer(palette[: len(palette) // n_channels * n_channels], np.uint8).reshape(-1, n_channels)
    colors[: len(given), :3] = given[:, :3]
    rows = np.pad(rows[:, :width], [(0, 0), (0, -width % 4)])
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, rows.size, 0, 0, 256, 0)
    file_header = b"BM" + struct.pack("<IHHI", 1078 + rows.size, 0, 0, 1078)
    return b"".join((file_header, header, colors.tobytes(), rows.tobytes()))


def _unfold_runs(data: memoryview, width: int, height: int, bits: int) -> bytearray:
    """Return the palette indices of a run-length encoded BMP, row after row as in the file."""
    indices = bytearray()
    position, end_of_row, n_runs = 0, width, 0
    while len(indices) < width * height:
        n_runs += 1
        if position + 2 > len(data):
            raise DamagedImage("image file is truncated")
        if n_runs > _MAX_RUNS:
            raise UnsupportedImage(f"more than {_MAX_RUNS:,} runs", advice="save it as PNG")
        count, value = data[position], data[position + 1]
        position += 2
        if count:
            pair = (value, value) if bits == 8 else (value >> 4, value & 15)
            indices += (bytes(pair) * (count // 2 + 1))[:count]
        elif value > 2:
            n_bytes = value if bits == 8 else (value + 1) // 2
            literal = data[position : position + n_bytes]
            if len(literal) < n_bytes:
                raise DamagedImage("image file is truncated")
            if bits == 4:
                literal = memoryview(bytes(half for byte in literal for half in (byte >> 4, byte & 15)))
            indices += literal[:value]
            position += n_bytes + n_bytes % 2
        elif value or len(indices) < end_of_row:  # the end of the picture, a step to the side, the end of a row
            raise UnsupportedImage("runs that leave out pixels", advice="save it as PNG")
        else:
            end_of_row += width
        if len(indices) > end_of_row:
            raise DamagedImage("a run beyond its row")
    return indices
