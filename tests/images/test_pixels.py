"""Every kind of image file is read right, or refused with a reason that says what to do; none is silently wrong.

The files are made here, and most of them are read by another library too: TIFF by tifffile, the others by imagecodecs.
`python tests/images/test_pixels.py` prints the table of docs/images.md.
"""

import functools
import io
import itertools
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import ROOT, encode_image
from relearn.errors import ImageError
from relearn.images.decoding import decode_image
from relearn.params.data import Mode

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "images.md"

LOSSLESS, ROUNDED, COMPOSED = 0.5, 1, 3  # 16 bits that are composed with alpha are rounded several times


class Cell(NamedTuple):
    """A file, and what it shows on white: levels of 0 to 255 that may have fractions."""

    file_format: str
    kind: str
    content: bytes
    expected: np.ndarray
    tolerance: float = LOSSLESS


def draw_samples(size: tuple[int, int], n_samples: int, greatest: float, *, is_noise: bool = False) -> np.ndarray:
    """Return samples of 0 to `greatest`, each channel another slope, or noise; float64."""
    width, height = size
    if is_noise:
        return np.random.default_rng(n_samples).integers(0, int(greatest) + 1, (height, width, n_samples)).astype(float)
    y, x = np.mgrid[:height, :width] / np.reshape([height - 1, width - 1], (2, 1, 1))
    return np.round(np.stack([x, y, (x + y) / 2, 1 - x * 0.8, 1 - y * 0.7][:n_samples], axis=-1) * greatest)


def compose(rgb: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    return rgb * alpha + 255 * (1 - alpha)


def show(samples: np.ndarray, colors: str) -> np.ndarray:
    """Return the RGB of samples of 0 to 1 without their alpha."""
    match colors:
        case "gray":
            return samples[..., :1].repeat(3, axis=-1) * 255
        case "gray, white is zero":
            return 255 - samples[..., :1].repeat(3, axis=-1) * 255
        case "CMYK":
            return 255 * (1 - samples[..., :3]) * (1 - samples[..., 3:4])
        case _:
            return samples[..., :3] * 255


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack rows of samples into bytes, the most significant bit first."""
    flat = values.reshape(len(values), -1).astype(np.uint32)
    each = (flat[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    return np.packbits(each.reshape(len(flat), -1), axis=1)


# TIFF

TIFF_SIZE = (40, 24)
TIFF_COLORS = {"gray": "minisblack", "gray, white is zero": "miniswhite", "RGB": "rgb", "CMYK": "separated"}
N_SAMPLES = {"gray": 1, "gray, white is zero": 1, "RGB": 3, "CMYK": 4}
ORDERS = {"<": "little", ">": "big"}
LAYOUTS: dict[str, dict[str, Any]] = {"one strip": {}, "strips": {"rowsperstrip": 5}, "tiles": {"tile": (16, 16)}}


def write_tiff(samples: np.ndarray, byteorder: str = "<", *, is_big: bool = False, **options: Any) -> bytes:
    """Write one TIFF by tifffile, and see that it reads the same."""
    file = io.BytesIO()
    samples = np.ascontiguousarray(samples)
    tifffile.imwrite(file, samples, byteorder=byteorder, bigtiff=is_big, metadata=None, **options)
    if options.get("compression") not in ("jpeg", "webp", "jpegxl") and (
        byteorder == "<" or "bitspersample" not in options
    ):
        assert np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())).squeeze(), samples.squeeze())
    return file.getvalue()


def patch_tiff(content: bytes, **values: int) -> bytes:
    """Change values of tags."""
    patched = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        for name, value in values.items():
            tag = file.pages[0].tags[name]
            assert tag.count == 1
            n_bytes = {3: 2, 4: 4}[int(tag.dtype)]
            patched[tag.valueoffset : tag.valueoffset + n_bytes] = value.to_bytes(n_bytes, ORDERS[file.byteorder])
    return bytes(patched)


def list_tiff_options(bits: int) -> Iterator[dict[str, Any]]:
    """Yield byte order, compression, predictor and layout."""
    for byteorder, layout in itertools.product(ORDERS, LAYOUTS):
        for compression in (None, "packbits", "lzw", "zlib"):
            yield {"byteorder": byteorder, "compression": compression, **LAYOUTS[layout]}
        if bits >= 8:
            for compression in ("lzw", "zlib"):
                yield {"byteorder": byteorder, "compression": compression, "predictor": 2, **LAYOUTS[layout]}
    for compression in ("deflate", "lzma", "zstd"):
        yield {"compression": compression, "rowsperstrip": 5}
    yield {"is_big": True, "compression": None}
    yield {"is_big": True, "compression": "lzw", "tile": (16, 16)}


def list_tiff_samples() -> Iterator[Cell]:
    """Yield gray, RGB and CMYK of whole bytes, with and without alpha, in one plane and in separate ones."""
    extras = (None, "unspecified", "assocalpha", "unassalpha")
    for colors, extra, bits in itertools.product(TIFF_COLORS, extras, (8, 16)):
        greatest, n_colors = 2**bits - 1, N_SAMPLES[colors]
        samples = draw_samples(TIFF_SIZE, n_colors + (extra is not None), greatest)
        alpha = samples[..., -1:] / greatest if extra in ("assocalpha", "unassalpha") else 1
        if extra == "assocalpha":
            samples[..., :n_colors] = np.floor(samples[..., :n_colors] * alpha)
        rgb = show(samples / greatest, colors)
        rgb = rgb + 255 * (1 - alpha) if extra == "assocalpha" else compose(rgb, alpha)
        kind = f"{colors}{' and alpha' if extra in ('assocalpha', 'unassalpha') else ''}, {bits} bits"
        options = {"photometric": TIFF_COLORS[colors], "extrasamples": [extra] if extra else None}
        for planar, others in itertools.product(("contig", "separate"), list_tiff_options(bits)):
            if samples.shape[-1] == 1 and planar == "separate":
                continue
            values = samples.astype(f"u{bits // 8}")
            values = np.moveaxis(values, -1, 0) if planar == "separate" else values
            if samples.shape[-1] == 1:
                content = write_tiff(values[..., 0], **options, **others)
            else:
                content = write_tiff(values, **options, **others, planarconfig=planar)
            yield Cell("TIFF", kind, content, rgb, COMPOSED if extra or bits == 16 else ROUNDED)


def list_tiff_packed() -> Iterator[Cell]:
    """Yield gray and palettes of 1 to 16 bits; for tifffile packs no compressed bits, they are packed before."""
    for bits, colors in itertools.product((1, 2, 4, 8, 16), ("gray", "gray, white is zero", "palette")):
        if bits >= 8 and colors != "palette":
            continue
        levels = draw_samples(TIFF_SIZE, 1, 2**bits - 1)
        palette = np.random.default_rng(bits).integers(0, 65536, (3, 2**bits)).astype(np.uint16)
        is_palette = colors == "palette"
        rgb = np.moveaxis(palette[:, levels[..., 0].astype(int)], 0, -1) / 257 if is_palette else None
        rgb = show(levels / (2**bits - 1), colors) if rgb is None else rgb
        for options in list_tiff_options(bits):
            if bits >= 8:
                content = write_tiff(levels[..., 0].astype(f"u{bits // 8}"), **options, colormap=palette)
            else:
                extra = [("ColorMap", 3, palette.size, palette.ravel().tolist(), False)] if is_palette else None
                content = write_tiff(pack_bits(levels, bits), **options, photometric="minisblack", extratags=extra)
                code = {"gray": 1, "gray, white is zero": 0, "palette": 3}[colors]
                tags = {"ImageWidth": 40, "BitsPerSample": bits, "PhotometricInterpretation": code}
                tags |= {"TileWidth": 128 // bits} if "tile" in options else {}
                content = patch_tiff(content, **tags)
                assert np.array_equal(tifffile.imread(io.BytesIO(content)), levels[..., 0])
            yield Cell("TIFF", f"{colors}, {bits} bit{'s' * (bits > 1)}", content, rgb, ROUNDED)
    levels = draw_samples(TIFF_SIZE, 2, 255).astype(np.uint8)
    for extra, planar, byteorder in itertools.product((0, 1, 2), ("contig", "separate"), ORDERS):
        palette = np.random.default_rng(9).integers(0, 65536, (3, 256)).astype(np.uint16)
        values = np.moveaxis(levels, -1, 0) if planar == "separate" else levels
        tags = [("ColorMap", 3, palette.size, palette.ravel().tolist(), False)]
        options = {"photometric": "minisblack", "planarconfig": planar, "extrasamples": [extra], "extratags": tags}
        content = patch_tiff(write_tiff(values, byteorder, **options), PhotometricInterpretation=3)
        rgb = np.moveaxis(palette[:, levels[..., 0]], 0, -1) / 257
        rgb = compose(rgb, levels[..., 1:] / 255) if extra else rgb
        yield Cell("TIFF", f"palette{' and alpha' * (extra > 0)}, 8 bits", content, rgb, 2)
    levels = levels[..., :1]
    palette = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    content = write_tiff(levels[..., 0], colormap=palette)
    yield Cell("TIFF", "palette, 8 bits, levels of 0 to 255", content, np.moveaxis(palette[:, levels[..., 0]], 0, -1))


def list_tiff_other_samples() -> Iterator[Cell]:
    """Yield samples that have no place in 8 bits."""
    for colors, bits, byteorder in itertools.product(("gray", "RGB"), (10, 12, 14), ORDERS):
        samples = draw_samples(TIFF_SIZE, N_SAMPLES[colors], 2**bits - 1)
        values = samples.astype(np.uint16).squeeze()
        content = write_tiff(values, byteorder, photometric=TIFF_COLORS[colors], bitspersample=bits)
        yield Cell("TIFF", f"{bits} bits a sample", content, show(samples / (2**bits - 1), colors), ROUNDED)
    kinds = {"i1": "signed samples", "i2": "signed samples", "i4": "signed samples", "u4": "32 bits a sample"}
    kinds |= {"f2": "floating-point samples", "f4": "floating-point samples"}
    for colors, dtype, byteorder in itertools.product(TIFF_COLORS, kinds, ORDERS):
        greatest = {"f": 1, "i": 2 ** (8 * int(dtype[1]) - 1) - 1, "u": 2**32 - 1}[dtype[0]]
        samples = draw_samples(TIFF_SIZE, N_SAMPLES[colors], 127) / 127
        values = (samples * greatest).astype(dtype).squeeze()
        for compression in (None, "lzw"):
            content = write_tiff(values, byteorder, photometric=TIFF_COLORS[colors], compression=compression)
            yield Cell("TIFF", kinds[dtype], content, show(samples, colors), ROUNDED)


def list_tiff_ycbcr() -> Iterator[Cell]:
    rgb = draw_samples(TIFF_SIZE, 3, 255)
    luma = rgb @ [0.299, 0.587, 0.114]
    chroma = [(rgb[..., 2] - luma) / 1.772 + 128, (rgb[..., 0] - luma) / 1.402 + 128]
    ycbcr = np.clip(np.round(np.stack([luma, *chroma], axis=-1)), 0, 255).astype(np.uint8)
    for byteorder, compression, planar in itertools.product(ORDERS, (None, "lzw", "zlib"), ("contig", "separate")):
        for layout in LAYOUTS.values():
            values = np.moveaxis(ycbcr, -1, 0) if planar == "separate" else ycbcr
            options = {"planarconfig": planar, "compression": compression, "byteorder": byteorder, **layout}
            tags = [("YCbCrSubSampling", 3, 2, (1, 1), False)]
            content = write_tiff(values, **options, photometric="rgb", extratags=tags)
            yield Cell("TIFF", "YCbCr", patch_tiff(content, PhotometricInterpretation=6), rgb, 2)
    for (across, down), compression, n_rows in itertools.product(
        ((2, 1), (1, 2), (2, 2), (4, 1), (4, 2)), (1, 5), (8, 24)
    ):
        strips = []
        for top in range(0, 24, n_rows):
            strip = b""
            for y, x in itertools.product(range(top, top + n_rows, down), range(0, 40, across)):
                block = ycbcr[y : y + down, x : x + across]
                strip += block[..., 0].tobytes() + bytes(round(block[..., n].mean()) for n in (1, 2))
            strips.append(imagecodecs.lzw_encode(strip) if compression == 5 else strip)
        content = join_tiff(strips, {259: compression, 278: n_rows, 530: (across, down)})
        yield Cell("TIFF", "YCbCr, subsampled", content, rgb, 3 + 2 * across)


def join_tiff(strips: list[bytes], tags: dict[int, Any]) -> bytes:
    """Put a YCbCr TIFF together from its strips."""
    tags = {
        256: 40,
        257: 24,
        258: (8, 8, 8),
        262: 6,
        277: 3,
        284: 1,
        532: (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1),
    } | tags
    tags = {273: (0,) * len(strips), 279: tuple(map(len, strips))} | tags
    kinds = {273: "L", 279: "L", 513: "L", 514: "L", 532: "LL"}
    start = 8 + 2 + 12 * len(tags) + 4
    values = {}
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        values[tag] = struct.pack(f"<{len(numbers)}{'L' if tag in kinds else 'H'}", *numbers)
    position = start + sum(len(value) for value in values.values() if len(value) > 4)
    offsets = [position + sum(map(len, strips[:n])) for n in range(len(strips))]
    values[273] = struct.pack(f"<{len(strips)}L", *offsets)
    if 513 in tags:
        values[513] = struct.pack("<L", offsets[0])
    directory, outside = struct.pack("<H", len(tags)), b""
    for tag, value in values.items():
        kind = {"H": 3, "L": 4, "LL": 5}[kinds.get(tag, "H")]
        directory += struct.pack("<HHL", tag, kind, len(value) // {3: 2, 4: 4, 5: 8}[kind])
        directory += struct.pack("<L", start + len(outside)) if len(value) > 4 else value.ljust(4, b"\0")
        outside += value if len(value) > 4 else b""
    return b"II*\0" + struct.pack("<L", 8) + directory + bytes(4) + outside + b"".join(strips)


def list_tiff_jpeg() -> Iterator[Cell]:
    layouts: tuple[dict[str, Any], ...] = ({}, {"rowsperstrip": 16}, {"tile": (32, 32)})
    rgb = draw_samples(TIFF_SIZE, 3, 255).astype(np.uint8)
    for subsampling, byteorder, layout in itertools.product(((1, 1), (2, 1), (2, 2), (4, 1)), ORDERS, layouts):
        options = {"photometric": "rgb", "compression": "jpeg", "subsampling": subsampling}
        content = write_tiff(rgb, byteorder, **options, **layout)
        yield Cell("TIFF", "YCbCr, JPEG inside", content, tifffile.imread(io.BytesIO(content)), 2)
    for planar, layout in itertools.product(("contig", "separate"), layouts):
        values = np.moveaxis(rgb, -1, 0) if planar == "separate" else rgb
        options = {"photometric": "rgb", "compression": "jpeg", "planarconfig": planar, "subsampling": None}
        options |= {"compressionargs": {"level": 95, "outcolorspace": "rgb" if planar == "contig" else None}}
        content = write_tiff(values, **options, **layout)
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            assert file.pages[0].photometric == 2
        decoded = tifffile.imread(io.BytesIO(content))
        decoded = np.moveaxis(decoded, 0, -1) if planar == "separate" else decoded
        yield Cell("TIFF", "RGB, JPEG inside", content, decoded, 2)
    for colors, layout in itertools.product(("gray", "gray, white is zero", "CMYK"), layouts):
        samples = draw_samples(TIFF_SIZE, N_SAMPLES[colors], 255).astype(np.uint8).squeeze()
        options = {"photometric": TIFF_COLORS[colors], "compression": "jpeg", "compressionargs": {"level": 95}}
        options |= {"planarconfig": "contig"} if colors == "CMYK" else {}
        content = write_tiff(samples, **options, **layout)
        decoded = np.atleast_3d(tifffile.imread(io.BytesIO(content)))
        yield Cell("TIFF", "gray and CMYK, JPEG inside", content, show(decoded / 255, colors), 2)
    for subsampling, name in (((1, 1), "4:4:4"), ((2, 1), "4:2:2"), ((2, 2), "4:2:0")):
        jpeg = encode_image(Image.fromarray(rgb), "JPEG", quality=95, subsampling=name)
        content = join_tiff([jpeg], {259: 6, 278: 24, 512: 1, 513: 0, 514: len(jpeg), 530: subsampling})
        yield Cell("TIFF", "YCbCr, JPEG inside in the old style", content, tifffile.imread(io.BytesIO(content)), 8)


def list_tiff_bilevel() -> Iterator[Cell]:
    blocks = np.random.default_rng(2).integers(0, 2, (6, 10), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    for compression, order, code in itertools.product(("tiff_ccitt", "group3", "group4", "packbits"), (1, 2), (0, 1)):
        image = Image.fromarray(blocks * 255).convert("1")
        content = encode_image(image, "TIFF", compression=compression, tiffinfo={266: order, 262: code})
        assert np.array_equal(tifffile.imread(io.BytesIO(content)), blocks == code)
        yield Cell("TIFF", "fax", content, blocks[..., None].repeat(3, axis=-1) * 255)
    for colors, byteorder in itertools.product(("gray", "gray, white is zero", "RGB"), ORDERS):
        samples = draw_samples(TIFF_SIZE, N_SAMPLES[colors], 255).astype(np.uint8)
        content = write_tiff(
            imagecodecs.bitorder_encode(samples).squeeze(),
            byteorder,
            photometric=TIFF_COLORS[colors],
            extratags=[("FillOrder", 3, 1, 1, False)],
        )
        content = patch_tiff(content, FillOrder=2)
        assert np.array_equal(tifffile.imread(io.BytesIO(content)), samples.squeeze())
        yield Cell("TIFF", "bits in reversed order", content, show(samples / 255, colors))


def list_tiff_special() -> Iterator[Cell]:
    rgb = draw_samples(TIFF_SIZE, 3, 255)
    values = rgb.astype(np.uint8)
    plain = write_tiff(values, photometric="rgb")
    for compression, is_tiled in itertools.product((None, "lzw", "zlib"), (False, True)):
        options: dict[str, Any] = {"photometric": "rgb", "compression": compression}
        content = write_tiff(values, ">", is_big=True, **options, tile=(16, 16) if is_tiled else None)
        yield Cell("TIFF", "BigTIFF in big-endian byte order", content, rgb)
        lab = write_tiff(np.moveaxis(values, -1, 0) if is_tiled else values, **options)
        yield Cell("TIFF", "L*a*b*", patch_tiff(lab, PhotometricInterpretation=8), rgb)
    yield Cell("TIFF", "ICC L*a*b*", patch_tiff(plain, PhotometricInterpretation=9), rgb)
    raw = write_tiff(values[..., 0], photometric="minisblack")
    yield Cell("TIFF", "raw photo", patch_tiff(raw, PhotometricInterpretation=32803), rgb)
    thumbnail = write_tiff(values, photometric="rgb", subfiletype=1)
    yield Cell("TIFF", "raw photo", thumbnail, np.zeros((1, 1, 3)))
    mask = write_tiff(pack_bits(values[..., 0] > 99, 1), photometric="minisblack")
    mask = patch_tiff(mask, ImageWidth=40, BitsPerSample=1, PhotometricInterpretation=4)
    yield Cell("TIFF", "transparency mask", mask, rgb)
    for compression in ("jpeg2000", "jpegxl", "lerc", "png"):
        content = write_tiff(values, photometric="rgb", compression=compression)
        yield Cell("TIFF", "JPEG 2000, JPEG XL, LERC or PNG inside", content, rgb)
    yield Cell("TIFF", "WebP inside", write_tiff(values, photometric="rgb", compression="webp"), rgb)
    inks = draw_samples(TIFF_SIZE, 4, 255).astype(np.uint8)
    inks = write_tiff(inks, photometric="separated", extratags=[("InkSet", 3, 1, 2, False)])
    yield Cell("TIFF", "inks other than CMYK", inks, rgb)
    for orientation in range(1, 9):
        for compression in (None, "lzw"):
            tags = [("Orientation", 3, 1, orientation, False)]
            content = write_tiff(values, photometric="rgb", compression=compression, extratags=tags)
            yield Cell("TIFF", "orientation", content, turn(rgb, orientation))


def turn(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image upright; source: the tag Orientation of TIFF 6.0."""
    if orientation >= 5:
        rgb = np.swapaxes(rgb, 0, 1)
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return np.flip(rgb, flips)


def list_tiff_cells() -> Iterator[Cell]:
    yield from list_tiff_samples()
    yield from list_tiff_packed()
    yield from list_tiff_other_samples()
    yield from list_tiff_ycbcr()
    yield from list_tiff_jpeg()
    yield from list_tiff_bilevel()
    yield from list_tiff_special()


# The other formats

SIZE = (13, 11)
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def show_decoded(levels: np.ndarray) -> np.ndarray:
    """Return the RGB of what a decoder gave: gray, gray with alpha, RGB or RGBA."""
    samples = np.atleast_3d(levels) / np.iinfo(levels.dtype).max
    n_samples = samples.shape[-1]
    rgb = show(samples, "gray" if n_samples < 3 else "RGB")
    return compose(rgb, samples[..., -1:]) if n_samples in (2, 4) else rgb


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(samples: np.ndarray, bits: int, color: int, is_interlaced: bool, chunks: bytes) -> bytes:
    rows = b""
    for x, y, step_x, step_y in ADAM7 if is_interlaced else [(0, 0, 1, 1)]:
        part = samples[y::step_y, x::step_x]
        rows += b"".join(b"\0" + row.tobytes() for row in pack_bits(part, bits)) if part.size else b""
    height, width = samples.shape[:2]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, is_interlaced))
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + pixels + png_chunk(b"IEND")


def list_png_cells() -> Iterator[Cell]:
    """Yield every color type and depth, interlaced or not, with a transparent level, color or palette or without."""
    names = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGB and alpha"}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    n_samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    for color, is_interlaced, is_transparent in itertools.product(names, (False, True), (False, True)):
        for bits in () if is_transparent and color >= 4 else depths[color]:
            samples = draw_samples(SIZE, n_samples[color], 2**bits - 1, is_noise=True).astype(int)
            samples[0, :3] = key = samples[5, 5]
            palette = np.random.default_rng(bits).integers(0, 256, (2**bits, 4))
            chunks, alpha = b"", np.ones((*samples.shape[:2], 1))
            if color == 3:
                rgb = palette[samples[..., 0], :3].astype(float)
                chunks = png_chunk(b"PLTE", palette[:, :3].astype(np.uint8).tobytes())
                chunks += png_chunk(b"tRNS", palette[:, 3].astype(np.uint8).tobytes()) if is_transparent else b""
                alpha = palette[samples, 3] / 255 if is_transparent else alpha
            else:
                rgb = show(samples / (2**bits - 1), "gray" if color in (0, 4) else "RGB")
                alpha = samples[..., -1:] / (2**bits - 1) if color >= 4 else alpha
                if is_transparent:
                    chunks = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
                    alpha = (samples != key).any(axis=-1, keepdims=True).astype(float)
            content = write_png(samples, bits, color, is_interlaced, chunks)
            rgb = compose(rgb, alpha)
            if not is_interlaced:
                assert np.abs(show_decoded(imagecodecs.png_decode(content)) - rgb).max() < 0.01
            kind = f"{names[color]}, {bits} bit{'s' * (bits > 1)}{', some transparent' * is_transparent}"
            yield Cell("PNG", kind, content, rgb, 2 if bits == 16 else ROUNDED)
    levels = draw_samples(SIZE, 1, 3, is_noise=True).astype(int)
    beyond = write_png(levels, 2, 0, False, png_chunk(b"tRNS", b"\xff\xfe"))  # the lowest bits count
    rgb = compose(show(levels / 3, "gray"), (levels != 2).astype(float))
    yield Cell("PNG", "gray, 2 bits, some transparent", beyond, rgb)


def write_bmp(
    rows: bytes, bits: int, *, height: int = 11, header: int = 40, palette: bytes = b"", **fields: Any
) -> bytes:
    """Put a BMP together; `fields` are method, n_colors, and masks."""
    masks = struct.pack(f"<{len(fields.get('masks', ()))}I", *fields.get("masks", ()))
    if header == 12:
        info = struct.pack("<IHHHH", 12, 13, height, 1, bits)
    else:
        method, n_colors = fields.get("method", 3 if masks else 0), fields.get("n_colors", 0)
        info = struct.pack("<IiiHHIIiiII", header, 13, height, 1, bits, method, len(rows), 0, 0, n_colors, 0)
        info = (info + masks).ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def pad_rows(rows: np.ndarray, *, is_top_down: bool) -> bytes:
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 4)])
    return (rows if is_top_down else rows[::-1]).tobytes()


def list_bmp_palettes() -> Iterator[Cell]:
    for bits, header, is_top_down in itertools.product((1, 4, 8), (12, 40, 108, 124), (False, True)):
        if header == 12 and is_top_down:
            continue
        for n_colors in sorted({1 << bits, 2, 0} - ({0} if header != 40 else set())):
            n_used = n_colors or 1 << bits
            if header == 12 and n_used != 1 << bits:
                continue
            indices = draw_samples(SIZE, 1, n_used - 1, is_noise=True).astype(int)
            noise = np.random.default_rng(n_used).integers(0, 256, (n_used, 3))
            gray = np.round(np.linspace(0, 255, n_used))[:, None].repeat(3, axis=1).astype(int)
            dark = np.arange(n_used)[:, None].repeat(3, axis=1)
            for colors in (noise, gray, gray[::-1], dark):
                entries = np.zeros((n_used, 3 if header == 12 else 4), np.uint8)
                entries[:, :3] = colors[:, ::-1]
                rows = pad_rows(pack_bits(indices, bits), is_top_down=is_top_down)
                options = {"header": header, "palette": entries.tobytes(), "n_colors": n_colors}
                content = write_bmp(rows, bits, height=-11 if is_top_down else 11, **options)
                yield Cell("BMP", f"palette, {bits} bit{'s' * (bits > 1)}", content, colors[indices[..., 0]])


def list_bmp_colors() -> Iterator[Cell]:
    layouts: dict[tuple[int, str], tuple[int, ...]] = {
        (16, "5, 5 and 5 bits"): (0x7C00, 0x3E0, 0x1F),
        (16, "5, 6 and 5 bits"): (0xF800, 0x7E0, 0x1F),
        (16, "4, 4 and 4 bits"): (0xF00, 0xF0, 0xF),
        (32, "8 bits"): (0xFF0000, 0xFF00, 0xFF),
        (32, "8 bits and alpha"): (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (32, "8 bits, red first and alpha"): (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (32, "10 bits"): (0x3FF00000, 0xFFC00, 0x3FF),
    }
    plain = {(16, "5, 5 and 5 bits"): None, (32, "8 bits"): None, (24, "8 bits"): None}
    for is_top_down, header in itertools.product((False, True), (12, 40, 52, 56, 108, 124)):
        for (bits, name), masks in [*layouts.items(), *plain.items()]:
            if header == 12 and (masks or bits != 24 or is_top_down):
                continue
            if masks and len(masks) == 4 and header < 56:
                continue
            used = masks or {16: (0x7C00, 0x3E0, 0x1F)}.get(bits, (0xFF0000, 0xFF00, 0xFF))
            samples = np.random.default_rng(bits).integers(0, 1 << 16, (11, 13, len(used)))
            shifts = [(mask & -mask).bit_length() - 1 for mask in used]
            tops = [mask >> shift for mask, shift in zip(used, shifts, strict=True)]
            samples = samples & tops
            words = (samples << shifts).sum(axis=-1)
            width = bits // 8
            rows = words[..., None] >> np.arange(0, bits, 8) & 0xFF
            rows = pad_rows(rows.astype(np.uint8).reshape(11, 13 * width), is_top_down=is_top_down)
            options = {"header": header, "masks": masks} if masks else {"header": header}
            content = write_bmp(rows, bits, height=-11 if is_top_down else 11, **options)
            rgb = samples[..., :3] / tops[:3] * 255
            rgb = compose(rgb, samples[..., 3:] / 255) if len(used) == 4 else rgb
            if header in (40, 124) and name not in ("10 bits", "4, 4 and 4 bits"):
                decoded = imagecodecs.bmp_decode(content)[..., : len(used)]  # it takes pixels for a mask of alpha
                assert np.abs(show_decoded(decoded) - rgb).max() < 8
            yield Cell("BMP", f"RGB, {name} of {bits}", content, rgb, 1)


def list_bmp_runs() -> Iterator[Cell]:
    """Yield run-length encoded pixels: in runs, as they are, mixed, and with pixels left out."""
    for bits, is_dark in itertools.product((4, 8), (False, True)):
        top = 2**bits - 1
        indices = (draw_samples(SIZE, 1, 1, is_noise=True) * top).astype(int)[..., 0]
        indices[3], indices[4, :5] = 7, 2
        colors = np.random.default_rng(bits).integers(0, 256, (top + 1, 4), np.uint8)
        colors = np.arange(top + 1)[:, None].repeat(4, axis=1).astype(np.uint8) if is_dark else colors
        for kind in ("runs", "literal", "mixed", "short", "steps", "stop"):
            data = b""
            for number, row in enumerate(indices[::-1]):
                is_literal = kind == "literal" or (kind == "mixed" and number % 2)
                n_left = 4 if kind == "short" and number == 5 else 13
                if is_literal:
                    packed = pack_bits(row[None], bits)[0].tobytes()
                    data += bytes([0, 13]) + packed + b"\0" * (len(packed) % 2) + b"\0\0"
                else:
                    runs = [(value, len(list(group))) for value, group in itertools.groupby(row[:n_left].tolist())]
                    data += b"".join(bytes([n, value * 17 if bits == 4 else value]) for value, n in runs) + b"\0\0"
                data += b"\0\2\0\0" if kind == "steps" and number == 5 else b""
                if kind == "stop" and number == 5:
                    break
            content = write_bmp(
                data + b"\0\1", bits, palette=colors.tobytes(), method={8: 1, 4: 2}[bits], n_colors=top + 1
            )
            yield Cell("BMP", f"palette, {bits} bits, in runs", content, colors[indices][..., 2::-1])


def write_gif(
    frames: list[tuple[tuple[int, int], np.ndarray, dict[str, Any]]], size: tuple[int, int], palette: bytes = b""
) -> bytes:
    """Put a GIF of frames together: place, indices of 8 bits, and options."""
    flags = 0x80 | ((len(palette) // 3).bit_length() - 2) if palette else 0
    content = b"GIF89a" + struct.pack("<HHBBB", *size, flags, 3, 0) + palette
    for (x, y), indices, options in frames:
        transparent = options.get("transparent")
        control = options.get("disposal", 0) << 2 | (transparent is not None)
        content += b"!\xf9\4" + bytes([control, 5, 0, transparent or 0, 0])
        local = options.get("palette", b"")
        flags = 0x80 | ((len(local) // 3).bit_length() - 2) if local else 0
        height, width = indices.shape
        flags |= 0x40 * bool(options.get("is_interlaced"))
        content += b"," + struct.pack("<HHHHB", x, y, width, height, flags) + local
        rows = [indices[first::step] for first, step in ((0, 8), (4, 8), (2, 4), (1, 2))]
        ordered = np.concatenate(rows) if options.get("is_interlaced") else indices
        codes = []  # of 9 bits: the table is cleared before it grows
        for number, index in enumerate(ordered.ravel().tolist()):
            codes += [256, index] if number % 200 == 0 else [index]
        bits = np.array([*codes, 257])[:, None] >> np.arange(9) & 1
        packed = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
        blocks = [packed[n : n + 255] for n in range(0, len(packed), 255)]
        content += b"\x08" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    return content + b";"


def list_gif_cells() -> Iterator[Cell]:
    """Yield first frames, whole and smaller than the canvas, before others that no longer matter."""
    rng = np.random.default_rng(0)
    noise, local = rng.integers(0, 256, (2, 256, 3), np.uint8)
    gray = np.arange(256)[:, None].repeat(3, axis=1).astype(np.uint8)
    later = rng.integers(0, 256, (11, 13), np.uint8)
    places = {"whole": ((0, 0), (13, 11)), "smaller than the canvas": ((2, 3), (7, 5))}
    choices = itertools.product(places, (noise, gray), (None, "noise", "gray"), (None, 9), (False, True), (0, 1, 2, 3))
    for place, colors, own, transparent, is_interlaced, disposal in choices:
        (x, y), (width, height) = places[place]
        indices = rng.integers(0, 256, (height, width), np.uint8)
        indices[0, :3] = 9
        used = {None: colors, "noise": local, "gray": gray}[own]
        options = {"transparent": transparent, "is_interlaced": is_interlaced, "disposal": disposal}
        options |= {"palette": used.tobytes()} if own else {}
        frames = [((x, y), indices, options), ((0, 0), later, {"disposal": 1})]
        content = write_gif(frames, (13, 11), colors.tobytes())
        rgb = np.full((11, 13, 3), 255.0)
        frame = used[indices].astype(float)
        rgb[y : y + height, x : x + width] = frame if transparent is None else compose(frame, indices[..., None] != 9)
        if place == "whole" and transparent is None:
            assert np.array_equal(imagecodecs.gif_decode(content, 0)[..., :3], rgb)
        yield Cell("GIF", f"first frame, {place}{', some transparent' * (transparent is not None)}", content, rgb)

    bare = write_gif([((0, 0), later, {})], (13, 11))
    yield Cell("GIF", "first frame without a palette", bare, np.zeros((11, 13, 3)))


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def write_webp_animation(frames: list[tuple[tuple[int, int], np.ndarray]], size: tuple[int, int], flags: int) -> bytes:
    """Put an animation together of lossless frames, whose places are even."""

    def pack(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    chunks = webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + pack(size[0] - 1, size[1] - 1))
    chunks += webp_chunk(b"ANIM", b"\x40\x80\xc0\xff\0\0")  # a background that no viewer shows
    for (x, y), pixels in frames:
        picture = imagecodecs.webp_encode(pixels, lossless=True)[12:]
        height, width = pixels.shape[:2]
        chunks += webp_chunk(b"ANMF", pack(x // 2, y // 2, width - 1, height - 1, 40) + b"\0" + picture)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def list_webp_cells() -> Iterator[Cell]:
    for n_samples, is_lossless, method in itertools.product((3, 4), (False, True), (0, 4)):
        pixels = draw_samples((40, 24), n_samples, 255).astype(np.uint8)
        content = imagecodecs.webp_encode(pixels, level=80, lossless=is_lossless, method=method)
        decoded = imagecodecs.webp_decode(content)
        kind = f"RGB{' and alpha' * (n_samples == 4)}, {'lossless' if is_lossless else 'lossy'}"
        yield Cell("WEBP", kind, content, show_decoded(decoded), ROUNDED)
    for n_samples, is_lossless, flags in itertools.product((3, 4), (False, True), (0, 0x10)):
        pixels = draw_samples((40, 24), n_samples, 255).astype(np.uint8)
        plain = imagecodecs.webp_encode(pixels, level=80, lossless=is_lossless)
        chunks = plain[30:] if plain[15:16] == b"X" else plain[12:]
        content = b"WEBP" + webp_chunk(b"VP8X", struct.pack("<IHBHB", flags, 39, 0, 23, 0)) + chunks
        content = b"RIFF" + struct.pack("<I", len(content)) + content
        rgb = show_decoded(imagecodecs.webp_decode(plain))
        yield Cell("WEBP", f"extended header{', alpha' * (n_samples == 4)}", content, rgb, ROUNDED)
    rng = np.random.default_rng(0)
    places = {"whole": ((0, 0), (13, 11)), "smaller than the canvas": ((2, 4), (7, 5))}
    for place, n_samples, flags in itertools.product(places, (3, 4), (0x02, 0x12)):
        (x, y), (width, height) = places[place]
        pixels = rng.integers(0, 256, (height, width, n_samples), np.uint8)
        later = rng.integers(0, 256, (11, 13, 3), np.uint8)
        content = write_webp_animation([((x, y), pixels), ((0, 0), later)], (13, 11), flags)
        rgb = np.full((11, 13, 3), 255.0)
        rgb[y : y + height, x : x + width] = show_decoded(pixels)
        yield Cell("WEBP", f"first frame, {place}", content, rgb, ROUNDED)


def list_heif_cells() -> Iterator[Cell]:
    lossless = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIC": {"quality": -1, "chroma": 444}}
    kinds = {"gray": 1, "RGB": 3, "RGB and alpha": 4}
    for (file_format, options), (kind, n_samples) in itertools.product(lossless.items(), kinds.items()):
        for side in (24, 25):
            samples = draw_samples((40, side), n_samples, 255).astype(np.uint8)
            content = encode_image(Image.fromarray(samples.squeeze()), file_format, **options)
            yield Cell(file_format, kind, content, show_decoded(samples), COMPOSED)
    gray = draw_samples((40, 24), 1, 65535)
    content = encode_image(Image.fromarray(gray.squeeze().astype(np.uint16)), "HEIC", quality=-1)
    yield Cell("HEIC", "gray, 10 bits", content, show(gray / 65535, "gray"), ROUNDED)
    rgb = draw_samples((40, 24), 3, 255).astype(np.uint8)
    for orientation in range(1, 9):
        image = Image.fromarray(rgb)
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encode_image(image, "HEIC", exif=exif.tobytes(), **lossless["HEIC"])
        yield Cell("HEIC", "orientation", content, turn(rgb.astype(float), orientation), COMPOSED)
        content = encode_image(image, "AVIF", exif=exif, **lossless["AVIF"])
        yield Cell("AVIF", "orientation", content, turn(rgb.astype(float), orientation), COMPOSED)
    for transfer in (16, 18):
        content = encode_image(
            Image.fromarray(rgb), "HEIC", color_primaries=9, transfer_characteristics=transfer, quality=-1
        )
        yield Cell("HEIC", "high dynamic range", content, rgb.astype(float))


def list_jpeg_cells() -> Iterator[Cell]:
    rgb = draw_samples((40, 24), 3, 255).astype(np.uint8)
    inks = draw_samples((40, 24), 4, 255).astype(np.uint8)
    choices = {"gray": rgb[..., 0], "YCbCr": rgb, "RGB": rgb, "CMYK": inks, "YCCK": inks}
    for kind, is_progressive, subsampling in itertools.product(choices, (False, True), ("4:4:4", "4:2:2", "4:2:0")):
        pixels = choices[kind]
        if kind in ("RGB", "YCCK"):
            if is_progressive:
                continue
            spaces = {"RGB": ("rgb", "rgb"), "YCCK": ("cmyk", "ycck")}[kind]
            options = {"colorspace": spaces[0], "outcolorspace": spaces[1]}
            content = imagecodecs.jpeg8_encode(pixels, level=90, subsampling=subsampling.replace(":", ""), **options)
        else:
            image = Image.fromarray(pixels, "CMYK") if kind == "CMYK" else Image.fromarray(pixels)
            content = encode_image(image, "JPEG", quality=90, progressive=is_progressive, subsampling=subsampling)
        decoded = imagecodecs.jpeg8_decode(content)
        is_inverted = kind in ("CMYK", "YCCK")  # as the marker of Adobe says
        expected = show(1 - decoded / 255, "CMYK") if is_inverted else show_decoded(decoded)
        yield Cell("JPEG", f"{kind}{', progressive' * is_progressive}", content, expected, ROUNDED)


def list_orientations() -> Iterator[Cell]:
    rgb = draw_samples((40, 24), 3, 255).astype(np.uint8)
    for file_format, orientation in itertools.product(("JPEG", "PNG", "WEBP"), range(1, 9)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encode_image(Image.fromarray(rgb), file_format, exif=exif, lossless=True)
        shown = imagecodecs.jpeg8_decode(content) if file_format == "JPEG" else rgb
        yield Cell(file_format, "orientation", content, turn(shown.astype(float), orientation), ROUNDED)


def list_cells() -> Iterator[Cell]:
    yield from list_bmp_palettes()
    yield from list_bmp_colors()
    yield from list_bmp_runs()
    yield from list_gif_cells()
    yield from list_heif_cells()
    yield from list_jpeg_cells()
    yield from list_png_cells()
    yield from list_webp_cells()
    yield from list_orientations()
    yield from list_tiff_cells()


class Table(NamedTuple):
    """What became of each kind of file: `counts` by reason, the empty one for read right."""

    counts: dict[tuple[str, str], Counter[str]]
    wrong: dict[str, list[float]]
    damaged: list[str]
    modes: set[str]


@functools.cache
def tabulate() -> Table:
    table = Table(defaultdict(Counter), defaultdict(list), [], set())
    for cell in list_cells():
        kind = f"{cell.file_format} {cell.kind}"
        try:
            decoded = decode_image(cell.content)
        except ImageError as error:
            reason = str(error).removeprefix(f"unsupported {cell.file_format} file: ")
            table.counts[cell.file_format, cell.kind][reason] += 1
            if reason == str(error) or ";" not in reason:
                table.damaged.append(f"{kind}: {error}")
            continue
        table.counts[cell.file_format, cell.kind][""] += 1
        table.modes.add(decoded.mode)
        rgb = np.asarray(decoded.rgb, float)
        off = np.abs(rgb - cell.expected).max() if rgb.shape == cell.expected.shape else np.inf
        if off > cell.tolerance:
            table.wrong[kind].append(float(off))
    return table


def write_table() -> str:
    lines = ["| format | kind | files | right | refused: why, and what to do |", "| --- | --- | ---: | ---: | --- |"]
    for (file_format, kind), counts in sorted(tabulate().counts.items(), key=lambda row: row[0][0]):
        reasons = "<br>".join(f"{reason} ({n:,})" for reason, n in counts.items() if reason)
        lines.append(f"| {file_format} | {kind} | {counts.total():,} | {counts['']:,} | {reasons} |")
    return "\n".join(lines) + "\n"


def test_no_kind_of_file_is_silently_wrong():
    assert dict(tabulate().wrong) == {}
    assert sum(counts.total() for counts in tabulate().counts.values()) > 3000


def test_what_is_refused_is_not_damaged_and_says_what_to_do():
    assert tabulate().damaged == []


def test_each_mode_can_be_allowed():
    assert tabulate().modes <= set(get_args(Mode))


def test_the_page_holds_the_table():
    assert write_table() in PAGE.read_text(), "python tests/images/test_pixels.py prints the table"


if __name__ == "__main__":
    print(write_table(), end="")
