"""What a file of an image is, by its bytes, and those of its parts that make the pixels.

Pillow is handed these parts alone. It would parse the others too, keep them as Python objects of many times their size,
and refuse sound pixels for them; and of some formats it leaves black what a file has lost.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, TiffImagePlugin

from relearn.errors import DamagedImage, UnsupportedImage

_SIGNATURES = {
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # "BM" alone begins many a text
    "GIF": rb"GIF8[79]a",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBPVP8[ LX]",
}

FORMATS = tuple(_SIGNATURES)

# What is found most among photos and is not read, so that the reason can say what to do.
_OTHER_IMAGES = {
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIC": rb".{4}ftyp(he[iv]|mi[af]|msf)",
    "ICO": rb"\0\0[\1\2]\0",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
}
_ARCHIVES = {"zip": rb"PK[\3\5]", "gzip": rb"\x1f\x8b", "7z": rb"7z\xbc\xaf", "rar": rb"Rar!", "tar": rb".{257}ustar"}

# A PNG of 600 kB can unfold to 800 MB. 100 megapixels hold every camera's photos and 300 MB of RGB.
MAX_PIXELS = 100_000_000

# At its peak decoding takes 8 bytes a pixel, and 16 for WebP: 1.6 GB for `MAX_PIXELS`. That fits in most machines once,
# but not in each of 64 threads, so images above this size wait for each other. Most photos are below it.
LARGE_PIXELS = 20_000_000

# Enough for every camera's EXIF; what is longer is there for another purpose than to tell the orientation.
MAX_EXIF_BYTES = 1024 * 1024

# Each scan of a progressive JPEG goes over the whole image and may take a hundred bytes, so that a file of some MB
# could keep a core busy for days. Encoders make ten or twenty, which are read of the largest image.
_MAX_JPEG_SCANS = 100
_MAX_SCANNED_PIXELS = 20 * MAX_PIXELS

# Chunks, segments or extensions of a file: each takes steps of Python, even an empty one. 250 MB in chunks of 8 kB,
# as libpng writes them, are 30,000.
_MAX_PARTS = 100_000

# The blocks of a GIF hold up to 255 bytes each; `images.MAX_BYTES` in full ones are a million.
_MAX_GIF_BLOCKS = 2_000_000

# A step of Python each; a photo of 20 megapixels has some hundred thousand.
_MAX_BMP_RUNS = 2_000_000

# Pillow makes a Python object of each value and strip. The smallest tiles (16 x 16) of a whole image are fewer.
_MAX_TIFF_VALUES = 500_000
_MAX_TIFF_TAGS = 0xFFFF


def _match(content: bytes, signatures: dict[str, bytes]) -> str | None:
    for name, signature in signatures.items():
        if re.match(signature, content, re.DOTALL):
            return name
    return None


def describe_other(content: bytes) -> str:
    """Say of bytes that are none of the formats what they may be instead."""
    if name := _match(content, _OTHER_IMAGES):
        return f"format not read: {name}; save it as JPEG or PNG"
    allowed = f"not an image ({', '.join(FORMATS)} are read)"
    if name := _match(content, _ARCHIVES):
        return f"{allowed}: a {name} archive; unpack it"
    return allowed


def recognise(content: bytes) -> str | None:
    """Return the name of the format that the bytes begin as."""
    return _match(content, _SIGNATURES)


def prepare(content: bytes, file_format: str) -> bytes:
    """Return the file without the parts that neither make its pixels nor tell their orientation.

    Raises
    ------
    Damaged
        It is cut short, or would take many times its size.
    """
    return _PREPARE[file_format](content)


def _trim_jpeg(content: bytes) -> bytes:
    """Keep the first JFIF, EXIF, XMP and Adobe segment, and drop the other APPn and comments before the pixels.

    Source: ITU-T T.81, B.1.1 and B.2.
    """
    trimmed = io.BytesIO()
    trimmed.write(b"\xff\xd8")
    wanted = {(0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xEE, b"Adobe")}
    has_frame, n_pixels = False, 1
    for marker, start, end in _iterate_jpeg_segments(content):
        if marker == 0xDA:  # the first scan, and all that comes after it
            max_scans = _count_scans_read(n_pixels)
            if content.count(b"\xff\xda", start) > max_scans:  # and only then is it worth a walk
                n_scans = sum(marker == 0xDA for marker, _, _ in _iterate_jpeg_segments(content))
                if n_scans > max_scans:
                    raise UnsupportedImage(
                        f"{n_scans:,} scans of {n_pixels:,} pixels, at most {max_scans} are read; save it again"
                    )
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
            # The fixed parts of JFIF and Adobe are 14 and 12 bytes; libjpeg ignores shorter ones, Pillow stumbles.
            if not found or (marker in (0xE0, 0xEE) and end - start < 16):
                continue
            wanted -= found
        trimmed.write(memoryview(content)[start:end])
    raise DamagedImage("image file is truncated: it has no pixels")


def _count_scans_read(n_pixels: int) -> int:
    return min(_MAX_JPEG_SCANS, _MAX_SCANNED_PIXELS // min(n_pixels, MAX_PIXELS))


def _iterate_jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end (after its parameters) of each segment, up to the end of the first picture."""
    # What is between is skipped, as by libjpeg; and so are the markers inside of a scan.
    find_marker = re.compile(rb"\xff([^\xff\0\xd0-\xd7])", re.DOTALL).search
    position, is_scanned, n_segments = 2, False, 0
    while found := find_marker(content, position):
        marker, start, position = found[1][0], found.start(), found.end()
        if marker == 0xD9 and is_scanned:
            return
        n_segments += 1
        if n_segments > _MAX_PARTS:
            raise UnsupportedImage(f"more than {_MAX_PARTS:,} segments; save it again")
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


_BLOCK_BYTES = 65_536  # to unfold at a time

_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def _trim_png(content: bytes) -> bytes:
    """Keep the critical chunks, transparency, EXIF and XMP, each with a sound checksum; source: PNG, third edition."""
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
        if n_chunks > _MAX_PARTS:
            raise UnsupportedImage(f"more than {_MAX_PARTS:,} chunks; save it again")
        kind = content[start + 4 : start + 8]
        position += 12 + int.from_bytes(content[start : start + 4], "big")
        if position > len(content):
            raise DamagedImage("image file is truncated")
        yield kind, start, position


def scale_png_transparency(image: Image.Image, content: bytes) -> None:
    """Scale the gray that is transparent as Pillow scales the pixels; it keeps the level that the file names."""
    bits, color = content[24:26]
    if "transparency" not in image.info:
        return
    if color == 2 and bits == 16:
        raise UnsupportedImage("16 bits a sample with a transparent color; save it with an alpha channel")
    if color == 0 and bits < 8:
        for kind, start, _ in _iterate_png_chunks(content):
            if kind == b"tRNS":
                n_levels = 1 << bits
                image.info["transparency"] = content[start + 9] % n_levels * 255 // (n_levels - 1)


def check_png_rows(image: Image.Image, content: bytes) -> None:
    """Raise `Damaged` if data that end in good order hold too few rows; Pillow leaves the others black."""
    width, height = image.size
    bits, colour, *_, is_interlaced = content[24:29]
    if not is_interlaced and np.asarray(image.crop((0, height - 1, width, height))).any():
        return
    bits_per_pixel = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    n_bytes = 0
    for x, y, step_x, step_y in adam7 if is_interlaced else [(0, 0, 1, 1)]:
        n_columns, n_rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if n_columns > 0:
            n_bytes += n_rows * (1 + (n_columns * bits_per_pixel + 7) // 8)
    unfolding = zlib.decompressobj()
    for kind, start, end in _iterate_png_chunks(content):
        for position in range(start + 8, end - 4, _BLOCK_BYTES) if kind == b"IDAT" else ():
            packed = content[position : min(position + _BLOCK_BYTES, end - 4)]
            while packed and n_bytes > 0:
                n_bytes -= len(unfolding.decompress(packed, 16 * _BLOCK_BYTES))
                packed = unfolding.unconsumed_tail
    if n_bytes > 0:
        raise DamagedImage("image file is truncated: rows are missing")


def _trim_gif(content: bytes) -> bytes:
    """Keep the first frame, its palette, and of the extensions before it the last that tells its transparency.

    Source: Graphics Interchange Format, version 89a.
    """
    palette_end = position = 13 + _count_gif_colours(content[10:11])
    control, n_parts = b"", 0
    while (separator := content[position : position + 1]) != b",":
        start = position
        if separator in (b"", b";"):
            raise DamagedImage("image file is truncated: it has no frame")
        n_parts += 1
        if n_parts > _MAX_PARTS:
            raise UnsupportedImage(f"more than {_MAX_PARTS:,} extensions before the first frame; save it again")
        position += 1
        if separator == b"!":
            position = _skip_gif_blocks(content, start + 2)
            if content[start + 1 : start + 2] == b"\xf9":
                control = content[start:position]
    n_own_colours = _count_gif_colours(content[position + 9 : position + 10])
    end = _skip_gif_blocks(content, position + 11 + n_own_colours)
    header = content[:palette_end]
    if not n_own_colours and palette_end == 13:
        raise UnsupportedImage("a frame without a palette; save it as PNG")
    if n_own_colours:  # Pillow takes the palette of all frames if that of the frame is gray
        header = header[:10] + bytes([header[10] & 0x7F]) + header[11:13]
    return b"".join((header, control, memoryview(content)[position:end], b";"))


def _count_gif_colours(flags: bytes) -> int:
    """Return the bytes of the palette that the flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _skip_gif_blocks(content: bytes, position: int) -> int:
    """Return where a chain of blocks, each after its length, ends with an empty one."""
    for _ in range(_MAX_GIF_BLOCKS):
        if position >= len(content):
            raise DamagedImage("image file is truncated")
        length = content[position]
        position += 1 + length
        if not length:
            return position
    raise UnsupportedImage(f"more than {_MAX_GIF_BLOCKS:,} blocks of a frame; save it again")


def _check_tiff(content: bytes) -> bytes:
    """Raise `Damaged` if the first directory is cut off, or would take many times its size; source: TIFF 6.0."""
    order = "<" if content.startswith(b"II") else ">"
    is_big = 43 in content[2:4]
    if is_big and order == ">":
        raise UnsupportedImage(
            "BigTIFF in big-endian byte order; save it in little-endian byte order, or as a plain TIFF"
        )
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
    """Pillow's reader of TIFF, held to what it reads right, and to libtiff whatever the compression.

    Pillow's own decoder of uncompressed pixels takes separate planes of 16 bits for planes of 8, and
    subsampled colors for whole ones, without an error.
    """

    def _setup(self) -> None:
        tags = self.tag_v2
        _check_tiff_samples(tags)
        if tags.get(259, 1) == 1:
            tags[259] = 32773  # for Pillow alone: libtiff reads the tag in the file
        if tags.get(262, 0) == 0 and set(tags.get(258, ())) == {16}:
            tags[262] = 1  # Pillow knows it in one byte order, and inverts it in none
            self.info["is_negative"] = True
        if max(tags.get(320, ()), default=0xFFFF) <= 0xFF:  # some write a palette of 8 bits, in the place of one of 16
            tags[320] = tuple(257 * level for level in tags[320])
        super()._setup()


# Compressions that libtiff, as it comes with Pillow, reads.
_TIFF_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}

# Photometric interpretations: gray with black as the greatest or as zero, RGB, palette, CMYK, YCbCr.
_TIFF_COLORS = {0, 1, 2, 3, 5, 6}
_TIFF_OTHER_COLORS = {4: "a transparency mask", 8: "L*a*b* colors", 9: "L*a*b* colors", 32803: "a camera's raw samples"}


def _check_tiff_samples(tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Raise `Unsupported` for samples that Pillow refuses without advice, or reads wrong without a word."""
    compression, colors = tags.get(259, 1), tags.get(262, 0)
    if compression not in _TIFF_COMPRESSIONS:
        raise UnsupportedImage(f"compression {compression}; save it with deflate, LZW or no compression")
    n_samples = tags.get(277, 1)
    kinds = set(tags.get(339, (1,)))
    if kinds != {1}:
        kind = {2: "signed", 3: "floating-point", 4: "untyped"}.get(max(kinds), "complex")
        raise UnsupportedImage(f"{kind} samples have no fixed range; save it with unsigned samples of 8 or 16 bits")
    bits = sorted(set(tags.get(258, (1,))))
    if len(bits) > 1 or bits[0] not in (1, 2, 4, 8, 16):
        raise UnsupportedImage(f"{' and '.join(map(str, bits))} bits a sample; save it with samples of 8 or 16 bits")
    if tags.get(254, 0) & 1:
        raise UnsupportedImage(
            "a raw photo, whose first picture is its thumbnail; develop it and save it as JPEG or PNG"
        )
    if colors not in _TIFF_COLORS:
        name = _TIFF_OTHER_COLORS.get(colors, f"photometric interpretation {colors}")
        raise UnsupportedImage(f"{name}; save it as RGB")
    if colors == 5 and tags.get(332, 1) != 1:
        raise UnsupportedImage("inks other than CMYK; save it as RGB")
    if colors in (0, 1, 3) and n_samples > 1 and tags.get(284) == 2 and any(tags.get(338, ())):
        raise UnsupportedImage("gray or a palette with alpha in separate planes; save it as RGB")


def check_tiff_strips(image: TiffReader, content: bytes) -> None:
    """Raise `Damaged` if strips or tiles are missing or cut off, or if one takes too much memory."""
    tags = image.tag_v2
    width, height, is_tiled = tags[256], tags[257], 322 in tags
    columns, rows = (tags[322], tags[323]) if is_tiled else (width, min(tags.get(278, height), height))
    if columns < 1 or rows < 1:
        raise DamagedImage("the header is cut short or wrong")
    if columns * rows > max(width * height, LARGE_PIXELS):  # libtiff takes memory for a whole one
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
        max_scans = _count_scans_read(width * height)
        if n_scans > max_scans:
            raise UnsupportedImage(f"{n_scans:,} scans of a strip, at most {max_scans} are read; save it with deflate")


def _check_webp(content: bytes) -> bytes:
    """Raise `Damaged` if the file is shorter than it says; libwebp does not tell this from other damage.

    Let the header say that there is an alpha channel if it does not, and the first frame has one or leaves a part of
    the canvas free. Otherwise Pillow drops the alpha channel, and what is transparent becomes black.
    """
    if 8 + int.from_bytes(content[4:8], "little") > len(content):
        raise DamagedImage("image file is truncated")
    if content[15:16] == b"X" and not content[20] & 0x10:
        for start in _iterate_webp_chunks(content):
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


def _iterate_webp_chunks(content: bytes) -> Iterator[int]:
    """Yield the start of each chunk; source: RFC 9649."""
    position = 12
    for _ in range(_MAX_PARTS):
        yield position
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
        if position >= len(content):
            return
    raise UnsupportedImage(f"more than {_MAX_PARTS:,} chunks before the first frame; save it again")


def read_webp_size(content: bytes) -> tuple[int, int]:
    """Read width and height; source: RFC 9649."""
    match content[15:16]:
        case b"X":
            return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
        case b"L":
            sides = int.from_bytes(content[21:25], "little")
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        case _:
            return int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF


def _unfold_bmp(content: bytes) -> bytes:
    """Rewrite a BMP as one of 8 bits a pixel with a whole palette, if Pillow may read it wrong.

    Pillow puts runs of colors one after the other, whatever is left out between them, and takes the bits of a pixel
    from the number of colors where the palette is gray. Source: the bitmap structures of the Windows API.
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
        raise UnsupportedImage(
            f"{width} x {n_rows} px {kind}, at most {LARGE_PIXELS:,} pixels are read; save it as PNG"
        )
    if start in (0, palette_start):
        start = palette_start + len(palette)
    if is_run_length:
        packed = _unfold_bmp_runs(memoryview(content)[start:], width, n_rows, bits)
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


def _unfold_bmp_runs(data: memoryview, width: int, height: int, bits: int) -> bytearray:
    """Return the indices of a run-length encoded BMP, row after row as in the file."""
    indices = bytearray()
    position, end_of_row, n_runs = 0, width, 0
    while len(indices) < width * height:
        n_runs += 1
        if position + 2 > len(data):
            raise DamagedImage("image file is truncated")
        if n_runs > _MAX_BMP_RUNS:
            raise UnsupportedImage(f"more than {_MAX_BMP_RUNS:,} runs; save it as PNG")
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
            raise UnsupportedImage("runs that leave out pixels; save it as PNG")
        else:
            end_of_row += width
        if len(indices) > end_of_row:
            raise DamagedImage("a run beyond its row")
    return indices


_PREPARE: dict[str, Callable[[bytes], bytes]] = {
    "BMP": _unfold_bmp,
    "GIF": _trim_gif,
    "JPEG": _trim_jpeg,
    "PNG": _trim_png,
    "TIFF": _check_tiff,
    "WEBP": _check_webp,
}
