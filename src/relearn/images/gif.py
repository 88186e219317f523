"""The parts of a GIF file that make its first frame; source: Graphics Interchange Format, version 89a."""

from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.limits import MAX_PARTS

# A block holds up to 255 bytes; `decoding.MAX_BYTES` in full blocks are a million.
_MAX_BLOCKS = 2_000_000


def trim_gif(content: bytes) -> bytes:
    """Keep the first frame, its palette, and the last extension before it that sets its transparency."""
    palette_end = position = 13 + _count_palette_bytes(content[10:11])
    control, n_parts = b"", 0
    while (separator := content[position : position + 1]) != b",":
        start = position
        if separator in (b"", b";"):
            raise DamagedImage("image file is truncated: it has no frame")
        n_parts += 1
        if n_parts > MAX_PARTS:
            raise UnsupportedImage(f"more than {MAX_PARTS:,} extensions before the first frame", advice="save it again")
        position += 1
        if separator == b"!":
            position = _skip_blocks(content, start + 2)
            if content[start + 1 : start + 2] == b"\xf9":
                control = content[start:position]
    n_own_bytes = _count_palette_bytes(content[position + 9 : position + 10])
    end = _skip_blocks(content, position + 11 + n_own_bytes)
    header = content[:palette_end]
    if not n_own_bytes and palette_end == 13:
        raise UnsupportedImage("a frame without a palette", advice="save it as PNG")
    if n_own_bytes:  # Pillow takes the global palette if that of the frame is gray
        header = header[:10] + bytes([header[10] & 0x7F]) + header[11:13]
    return b"".join((header, control, memoryview(content)[position:end], b";"))


def _count_palette_bytes(flags: bytes) -> int:
    """Return the length of the palette that the flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _skip_blocks(content: bytes, position: int) -> int:
    """Return the end of a chain of blocks, each after its length, which an empty block ends."""
    for _ in range(_MAX_BLOCKS):
        if position >= len(content):
            raise DamagedImage("image file is truncated")
        length = content[position]
        position += 1 + length
        if not length:
            return position
    raise UnsupportedImage(f"more than {_MAX_BLOCKS:,} blocks of a frame", advice="save it again")
