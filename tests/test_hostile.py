"""Files that mean harm, or that came to some: each is in the manifest or among the excluded, and that is all."""

import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import change_params, choose, copy_settings, draw_image, encode_image, write_images
from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.dataset.source_files import READING_ERRORS, holds_control_character
from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError, SourceError
from relearn.images import limits
from relearn.images.decoding import MAX_BYTES, decode_image
from relearn.images.formats import FORMATS
from relearn.params.pipeline import read_params
from relearn.stages.restructure import run
from relearn.storage.files import read_csv

KEPT = None  # the expectation of a file that is read; the others are patterns of the reason
CUT = "image file is truncated"
NO_IMAGE = r"^not an image \(AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP are read\)"
TOO_LARGE = "^too large: "

SIZE = (12, 10)


# Files put together by hand, part by part.


def png_chunk(kind, content=b"", crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def make_png(
    seed, before=b"", after=b"", *, size=SIZE, header=(8, 2, 0, 0, 0), rows=None, idat_crc=None, packed=None, end=b""
):
    """A PNG of noise with chunks before and after its pixels."""
    width, height = size
    noise = np.random.default_rng(seed).integers(1, 256, (SIZE[1], 3 * SIZE[0]), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in noise) if rows is None else rows
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *header)),
            before,
            png_chunk(b"IDAT", zlib.compress(rows) if packed is None else packed, idat_crc),
            after,
            png_chunk(b"IEND") + end,
        )
    )


def jpeg_segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def make_jpeg(seed, *segments, **options):
    """A JPEG of noise with segments at its beginning."""
    content = encode_image(draw_image(seed), "JPEG", **options)
    return content[:2] + b"".join(segments) + content[2:]


def make_tiff(seed, tags=(), *, drop=(), size=SIZE, next_directory=0):
    """A gray, uncompressed TIFF; `tags` are (tag, type, count, value) that are added or take another's place."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(1, 256, SIZE[0] * SIZE[1], np.uint8).tobytes()
    values = {256: (3, 1, width), 257: (3, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    values |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (3, 1, height), 279: (4, 1, len(pixels))}
    values |= {tag: tuple(value) for tag, *value in tags}
    entries = [struct.pack("<HHLL", tag, *values[tag]) for tag in sorted(values) if tag not in drop]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<L", next_directory)
    return b"II*\0" + struct.pack("<L", 8 + len(pixels)) + pixels + directory


def make_bmp(seed, *, size=SIZE, bits=24, compression=0, data=None, n_colors=0):
    width, height = size
    data = np.random.default_rng(seed).integers(0, 256, 3 * 12 * 10, np.uint8).tobytes() if data is None else data
    palette = bytes(value for n in range(n_colors) for value in (n, 255 - n, 7, 0))
    start = 54 + len(palette)
    header = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    header += struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, n_colors, 0)
    return header + palette + data


def make_gif(seed, extensions=b"", **options):
    """A GIF of noise with extensions before its first frame."""
    content = encode_image(draw_image(seed), "GIF", **options)
    start = 13 + (3 << (content[10] & 7) + 1)
    return content[:start] + extensions + content[start:]


def make_animation(seed, file_format):
    frames = [draw_image(1000 * seed + n) for n in range(3)]
    return encode_image(frames[0], file_format, save_all=True, append_images=frames[1:])


def make_zip(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar(members, mode="w", **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def list_wrong_kinds():
    """What is no image of a format that is read, or is one under another name."""
    image = draw_image(1)
    yield "png.jpg", encode_image(draw_image(10), "PNG"), KEPT
    yield "jpeg.txt", encode_image(draw_image(11), "JPEG"), KEPT
    yield "gif", encode_image(draw_image(12), "GIF"), KEPT
    yield "bmp.webp", encode_image(draw_image(13), "BMP"), KEPT
    yield "tiff.png", encode_image(draw_image(14), "TIFF"), KEPT
    yield "webp.gif", encode_image(draw_image(15), "WEBP"), KEPT
    yield "empty.png", b"", "^empty file$"
    yield "one-byte.png", b"\x89", NO_IMAGE
    yield "zeros.jpg", bytes(5000), NO_IMAGE
    yield "noise.jpg", bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)), NO_IMAGE
    yield "text.png", b"This is not a picture.\n", NO_IMAGE
    yield "begins-like-a-bmp.txt", b"BMW, Audi and a few more cars", NO_IMAGE
    yield "page.jpg", b"<!DOCTYPE html><title>404</title>", NO_IMAGE
    yield "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^format not read: SVG;"
    yield "program.png", b"#!/bin/sh\ntouch /tmp/owned\n", NO_IMAGE
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE
    yield "document.jpg", b"%PDF-1.7\n", NO_IMAGE
    yield "pixmap.png", encode_image(image, "PPM"), NO_IMAGE
    yield "icon.png", encode_image(image, "ICO"), "^format not read: ICO; save it as JPEG or PNG$"
    yield "photo.jpg", encode_image(draw_image(17), "AVIF"), KEPT
    yield "iphone.jpg", encode_image(draw_image(18), "HEIC"), KEPT
    yield "signature-of-HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "^damaged HEIC file: "
    yield "signature-of-AVIF", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "^damaged AVIF file: "
    yield "scan.jpg", encode_image(image, "JPEG2000"), "^format not read: JPEG 2000;"
    yield "layers.png", b"8BPS\0\1" + bytes(40), "^format not read: PSD;"
    yield "archive.png", make_zip([("x.png", b"x")]), NO_IMAGE + ": a zip archive; unpack it$"
    yield "archive.jpg", make_tar([("x.png", b"x")]), NO_IMAGE + ": a tar archive; unpack it$"
    yield "packed.jpg", make_tar([("x.png", b"x")], "w:gz"), NO_IMAGE + ": a gzip archive; unpack it$"
    yield "page-before-photo.jpg", b"<html>" + encode_image(image, "JPEG"), NO_IMAGE
    yield "photo-before-archive.jpg", make_jpeg(16) + make_zip([("x", b"x")]), KEPT
    signatures = {"GIF": b"GIF89a", "JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "TIFF": b"II*\0"}
    for name, signature in signatures.items():
        yield f"signature-of-{name}", signature, f"^damaged {name} file: "
    yield "signature-of-WEBP", b"RIFF\x04\0\0\0WEBPVP8 ", "^damaged WEBP file: "


def list_cut_files():
    for seed, file_format in enumerate(FORMATS, start=100):
        content = encode_image(draw_image(seed, (40, 30)), file_format)
        cut = {"AVIF": "", "HEIC": ".*end of file"}.get(file_format, CUT)
        reason = f"^damaged {file_format} file: {cut}"
        yield f"half.{file_format}", content[: len(content) // 2], reason
        yield f"last-third.{file_format}", content[: -len(content) // 3], reason
    progressive = encode_image(draw_image(110, (40, 30)), "JPEG", progressive=True)
    yield "progressive.jpg", progressive[: len(progressive) // 2], "^damaged JPEG file: " + CUT
    yield "closed-again.jpg", progressive[: len(progressive) // 2] + b"\xff\xd9", "^damaged JPEG file: "
    yield "no-end.png", make_png(111)[:-12], "^damaged PNG file: " + CUT
    yield "half-a-checksum.png", make_png(112)[:-2], "^damaged PNG file: " + CUT
    yield "no-trailer.gif", encode_image(draw_image(113), "GIF")[:-1], KEPT
    animation = make_animation(114, "GIF")
    yield "in-the-third-frame.gif", animation[:-10], KEPT
    yield "in-the-first-frame.gif", animation[: len(animation) // 4], "^damaged GIF file: " + CUT
    lzw = encode_image(draw_image(115, (40, 30)), "TIFF", compression="tiff_lzw")
    yield "lzw.tiff", lzw[: len(lzw) // 2], "^damaged TIFF file: " + CUT
    yield "animation.webp", make_animation(116, "WEBP")[:-20], "^damaged WEBP file: " + CUT


def list_bombs():
    """Headers that promise what the memory cannot hold, and small parts that unfold to large ones."""
    yield "bomb.png", make_png(0, size=(60_000, 60_000)), TOO_LARGE + "60000 x 60000 px, at most 250,000,000 pixels"
    yield "widest.png", make_png(0, size=(2**31 - 1, 2**31 - 1)), TOO_LARGE
    yield "bomb.gif", b"GIF89a\xff\xff\xff\xff" + make_gif(0)[10:], TOO_LARGE + "65535 x 65535"
    jpeg = bytearray(make_jpeg(0))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    yield "bomb.jpg", bytes(jpeg), TOO_LARGE + "65500 x 65500"
    yield "bomb.bmp", make_bmp(0, size=(40_000, 40_000)), TOO_LARGE
    yield "bomb-by-runs.bmp", make_bmp(0, size=(40_000, 40_000), bits=8, compression=1, n_colors=256), TOO_LARGE
    yield "bomb.tiff", make_tiff(0, [(256, 4, 1, 90_000), (257, 4, 1, 90_000)]), TOO_LARGE
    webp = bytearray(encode_image(draw_image(0), "WEBP"))
    webp[26:30] = b"\xff\x3f\xff\x3f"
    yield "bomb.webp", bytes(webp), TOO_LARGE + "16383 x 16383"
    lossless = bytearray(encode_image(draw_image(0), "WEBP", lossless=True))
    lossless[21:25] = b"\xff\xff\xff\x0f"
    yield "bomb-lossless.webp", bytes(lossless), TOO_LARGE + "16384 x 16384"
    animation = bytearray(make_animation(1, "WEBP"))
    animation[24:30] = b"\xff\xff\xff" * 2
    yield "bomb-animated.webp", bytes(animation), TOO_LARGE + "16777216 x 16777216"
    text = zlib.compress(bytes(3_000_000))
    yield "text-before.png", make_png(200, png_chunk(b"zTXt", b"key\0\0" + text)), KEPT
    yield "text-after.png", make_png(201, after=png_chunk(b"iTXt", b"key\0\1\0\0\0" + text)), KEPT
    yield "texts.png", make_png(202, png_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(900_000))) * 99), KEPT
    yield "profile.png", make_png(203, png_chunk(b"iCCP", b"icc\0\0" + text)), KEPT
    yield "values.tiff", make_tiff(0, [(273, 4, 60_000_000, 8)]), "^damaged TIFF file: 60,000,000 values in tag 273"
    tiles = [(322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 9), (259, 3, 1, 5)]
    yield "tiles.tiff", make_tiff(0, tiles, drop=(273, 278, 279)), "^damaged TIFF file: tiles of 60000 x 60000 px"


def list_metadata():
    """Metadata of all kinds, huge and broken, around sound pixels."""
    garbage = b"\xff" * 60_000
    yield "exif.jpg", make_jpeg(300, jpeg_segment(0xE1, b"Exif\0\0" + garbage)), KEPT
    yield "exif-pointer.jpg", make_jpeg(301, jpeg_segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff")), KEPT
    yield "exif-many.jpg", make_jpeg(302, jpeg_segment(0xE1, b"Exif\0\0II*\0" + garbage) * 300), KEPT
    yield "xmp.jpg", make_jpeg(303, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + garbage)), KEPT
    yield "profile.jpg", make_jpeg(304, jpeg_segment(0xE2, b"ICC_PROFILE\0\7\2" + garbage) * 9), KEPT
    yield "profile-short.jpg", make_jpeg(305, jpeg_segment(0xE2, b"ICC_PROFILE\0")), KEPT
    yield "photoshop.jpg", make_jpeg(306, jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\1x")), KEPT
    yield "jfif.jpg", make_jpeg(307, jpeg_segment(0xE0, b"JFIF\0")), KEPT
    yield "adobe.jpg", make_jpeg(308, jpeg_segment(0xEE, b"Adobe")), KEPT
    yield "comments.jpg", make_jpeg(309, jpeg_segment(0xFE, b"x") * 20_000), KEPT
    yield "empty-segments.jpg", make_jpeg(310, jpeg_segment(0xEF, b"") * 20_000), KEPT
    yield (
        "several-pictures.jpg",
        encode_image(draw_image(311), "MPO", save_all=True, append_images=[draw_image(3)]),
        KEPT,
    )
    yield "several-pictures-broken.jpg", make_jpeg(312, jpeg_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0")), KEPT
    yield "exif.png", make_png(320, png_chunk(b"eXIf", garbage)), KEPT
    yield "exif-huge.png", make_png(321, png_chunk(b"eXIf", b"II*\0\x08\0\0\0" + garbage * 99)), KEPT
    yield "exif-checksum.png", make_png(322, png_chunk(b"eXIf", b"II*\0", 7)), KEPT
    yield "text-checksum.png", make_png(323, png_chunk(b"tEXt", b"key\0value", 7)), KEPT
    yield "text-not-utf8.png", make_png(324, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\xff\0\xff\0\xff")), KEPT
    yield "texts-many.png", make_png(325, png_chunk(b"tEXt", b"key\0value") * 20_000), KEPT
    yield "sizes-short.png", make_png(326, b"".join(map(png_chunk, (b"pHYs", b"gAMA", b"cHRM", b"sRGB")))), KEPT
    yield "profile-method.png", make_png(327, png_chunk(b"iCCP", b"icc\0\7xxxx")), KEPT
    yield "animation-none.png", make_png(328, png_chunk(b"acTL", bytes(8))), KEPT
    frames = png_chunk(b"acTL", b"\0\0\0\2" + bytes(4)) + png_chunk(b"fcTL", b"\0\0\0\7" * 6 + bytes(2))
    yield "animation-out-of-order.png", make_png(329, frames), KEPT
    yield "after-the-end.png", make_png(330, end=garbage), KEPT
    yield "comments.gif", make_gif(340, b"!\xfe\1x\0" * 20_000), KEPT
    yield "comment-long.gif", make_gif(341, b"!\xfe" + b"\xff" + bytes(254) + b"x\0"), KEPT
    yield "application.gif", make_gif(342, b"!\xff\x0bNETSCAPE2.0\0"), KEPT
    yield "profile.webp", encode_image(draw_image(350), "WEBP", icc_profile=garbage * 50), KEPT
    yield "exif.webp", encode_image(draw_image(351), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0" + garbage * 50), KEPT
    yield "xmp.webp", encode_image(draw_image(352), "WEBP", xmp=garbage * 50), KEPT
    yield "xmp-number.tiff", make_tiff(360, [(700, 4, 1, 7)]), KEPT
    yield "exif-nowhere.tiff", make_tiff(361, [(34665, 4, 1, 0xFFFFFFF0), (34853, 2, 1, 65)]), KEPT
    yield "profile-nowhere.tiff", make_tiff(362, [(34675, 7, 9999, 0xFFFFFF00)]), KEPT
    yield "directory-loop.tiff", make_tiff(363, next_directory=8 + SIZE[0] * SIZE[1]), KEPT
    yield "next-nowhere.tiff", make_tiff(364, next_directory=0xFFFFFFF0), KEPT


def list_broken_pixels():
    yield "checksum.png", make_png(0, idat_crc=7), "^damaged PNG file: wrong checksum of chunk IDAT$"
    yield "rows.png", make_png(0, rows=b"\0" + b"x" * 36), f"^damaged PNG file: {CUT}: rows are missing$"
    yield "interlaced.png", make_png(0, header=(8, 2, 0, 0, 1), rows=b"\0" + b"x" * 6), "rows are missing$"
    yield "transparency.png", make_png(0, png_chunk(b"tRNS", b"\0")), "^damaged PNG file: Truncated tRNS chunk$"
    yield "chunk.png", make_png(0, png_chunk(b"CgBI", b"\0")), "^damaged PNG file: unknown chunk b'CgBI'$"
    yield "two-headers.png", make_png(0, make_png(0)[8:33]), "^damaged PNG file: two headers$"
    yield "depth.png", make_png(0, header=(5, 2, 0, 0, 0)), "^damaged PNG file: the header is cut short or wrong$"
    yield "no-size.png", make_png(0, size=(0, 0)), "^damaged PNG file: "
    yield "no-palette.png", make_png(0, header=(8, 3, 0, 0, 0)), "^damaged PNG file: "
    yield "endless.png", make_png(0).replace(b"\0\0\0\0IEND", b"\xff\xff\xff\xffIEND"), "^damaged PNG file: " + CUT
    yield "filter.png", make_png(0, rows=(b"\x09" + b"x" * 36) * 10), "^damaged PNG file: "
    jpeg = make_jpeg(0)
    frame = jpeg.index(b"\xff\xc0")
    yield "twelve-bit.jpg", jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :], "^unsupported JPEG file: cannot handle 12"
    yield "two-frames.jpg", make_jpeg(0, jpeg[frame : frame + 19]), "^damaged JPEG file: two frame headers$"
    yield "no-length.jpg", make_jpeg(0, b"\xff\xe5\0\0"), "^damaged JPEG file: segment 0xe5 has no length$"
    progressive = encode_image(draw_image(0), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    scans = progressive[:last] + progressive[last:-2] * 1000 + b"\xff\xd9"
    yield "scans.jpg", scans, "^unsupported JPEG file: 1,009 scans of 120 pixels, at most 100 are read; save it again$"
    yield "scans-after-the-end.jpg", make_jpeg(372) + b"\xff\xda\0\2" * 1000, KEPT
    yield "padding.jpg", make_jpeg(0, b"\xff" * 5_000_000 + b"\0" * 5_000_000), KEPT
    yield "no-tables.jpg", jpeg.replace(b"\xff\xdb", b"\xff\xe5"), "^damaged JPEG file: "
    yield "no-rows.jpg", jpeg[: frame + 5] + b"\0\0" + jpeg[frame + 7 :], "^damaged JPEG file: "
    yield "no-frame.gif", b"GIF89a\1\0\1\0\0\0\0;", "^damaged GIF file: image file is truncated: it has no frame$"
    gif = make_gif(0)
    start = gif.index(b",\0\0\0\0")
    yield "code-size.gif", gif[: start + 10] + b"\x3f" + gif[start + 11 :], "^damaged GIF file: "
    yield (
        "runs-too-few.bmp",
        make_bmp(0, bits=8, compression=1, data=b"\x0c\5\0\0\0\1", n_colors=256),
        "leave out pixels",
    )
    yield "depth.bmp", make_bmp(0, bits=3), r"^unsupported BMP file: Unsupported BMP pixel depth \(3\); save it as PNG$"
    yield (
        "jpeg-inside.bmp",
        make_bmp(0, compression=4),
        r"^unsupported BMP file: Unsupported BMP compression \(4\); save it as PNG$",
    )
    yield "palette.bmp", make_bmp(0, bits=8), "^damaged BMP file: "
    yield "upside-down.bmp", make_bmp(370, size=(12, -10)), KEPT
    yield "strips.tiff", make_tiff(0, [(278, 3, 1, 2)]), f"^damaged TIFF file: {CUT}: strips are missing$"
    yield "method.tiff", make_tiff(0, [(259, 3, 1, 50_500)]), "^unsupported TIFF file: compression 50500; save it with"
    yield "no-width.tiff", make_tiff(0, drop=[256]), "^damaged TIFF file: the header is cut short or wrong$"
    yield "tags.tiff", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40), "^damaged TIFF file: 1,099,511,627,776 tags"
    yield "nowhere.tiff", b"MM\0*\xff\xff\xff\xff" + bytes(99), f"^damaged TIFF file: {CUT}: its tags are cut off$"
    yield (
        "float.tiff",
        encode_image(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF"),
        "^unsupported TIFF file: floating-point",
    )
    yield "ycbcr.tiff", encode_image(draw_image(371, mode="YCbCr"), "TIFF"), KEPT
    webp = encode_image(draw_image(0), "WEBP")
    yield "chunk.webp", webp[:20] + b"\0" * 6 + webp[26:], "^damaged WEBP file: the header is cut short or wrong$"
    yield "sixteen-bit.png", encode_image(Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12))), KEPT
    yield "four-colors.jpg", encode_image(draw_image(380, mode="CMYK"), "JPEG"), KEPT
    for file_format in ("GIF", "PNG", "WEBP"):
        yield f"animation.{file_format}", make_animation(381, file_format), KEPT
    yield "pages.tiff", make_animation(382, "TIFF"), KEPT


def list_parts():
    """Files of very many parts, each of which takes steps of Python."""
    many = ": more than 100,000 "
    yield "texts.png", make_png(0, after=png_chunk(b"tEXt") * 100_001), "^unsupported PNG file" + many + "chunks;"
    yield "pixels.png", make_png(0, png_chunk(b"IDAT") * 100_001), "^unsupported PNG file" + many + "chunks;"
    yield "texts-fewer.png", make_png(390, png_chunk(b"tEXt") * 99_000), KEPT
    yield (
        "comments.jpg",
        make_jpeg(0, jpeg_segment(0xFE, b"") * 100_001),
        "^unsupported JPEG file" + many + "segments;",
    )
    yield "tables.jpg", make_jpeg(0, jpeg_segment(0xC4, b"") * 100_001), "^unsupported JPEG file" + many + "segments;"
    yield "comments-fewer.jpg", make_jpeg(391, jpeg_segment(0xFE, b"") * 99_000), KEPT
    yield "comments.gif", make_gif(0, b"!\xfe\0" * 100_001), "^unsupported GIF file" + many + "extensions before"
    yield "zeros.gif", make_gif(0, bytes(100_001)), "^unsupported GIF file" + many + "extensions before"
    gif = make_gif(0)
    start = gif.index(b",\0\0\0\0") + 11
    yield "blocks.gif", gif[:start] + b"\1\0" * 2_000_001 + gif[start:], "^unsupported GIF file: more than 2,000,000 bl"
    webp = make_animation(1, "WEBP")
    canvas = webp[:20] + bytes([webp[20] & ~0x10]) + webp[21:30]
    webp = canvas + b"JUNK\0\0\0\0" * 100_001 + webp[30:]
    webp = webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]
    yield "chunks.webp", webp, "^unsupported WEBP file" + many + "chunks before"
    runs = (b"\1\7" * 1999 + b"\0\0") * 1001
    yield "runs.bmp", make_bmp(0, size=(1999, 1001), bits=8, compression=1, data=runs, n_colors=256), "2,000,000 runs;"
    runs = make_bmp(0, size=(9000, 9000), bits=4, compression=2, data=b"\xff\7" * 99, n_colors=16)
    yield "pixels-by-runs.bmp", runs, "^unsupported BMP file: 9000 x 9000 px in runs, at most 20,000,000 pixels"


def list_names():
    for seed, name in enumerate(
        (
            "with space.png", " .png", "-rf.png", "~.png", "$(reboot).png", "a,b;c.png", 'quo"te.png', "=1+1.png",
            "CON", "back\\slash.png", "..\\..\\up.png", "👩‍🔬.png", "e\u0301.png", "é.png", "\u202egnp.exe",
            "a" * 251 + ".png", "ü" * 125 + ".png", "no-extension", "...", "x.png ", "x.png.", "?*|<>:.png",
        ),
        start=400,
    ):  # fmt: skip
        reason = "^hidden file$" if name.startswith(".") else KEPT
        yield name, encode_image(draw_image(seed)), reason


def list_corpus():
    """Path in the source, bytes, and the expectation: `KEPT`, or the pattern of the reason."""
    for kind in (
        list_wrong_kinds,
        list_cut_files,
        list_bombs,
        list_metadata,
        list_broken_pixels,
        list_parts,
        list_names,
    ):
        for name, content, expected in kind():
            yield f"{kind.__name__}/{name}", content, expected
    # Folders and files that a file system without upper and lower case takes for one.
    for seed, name in enumerate(("Food/1.png", "food/1.png", "FOOD/1.PNG", "food/1.PNG", "fOOd/1.png"), start=500):
        yield name, encode_image(draw_image(seed)), KEPT
    yield "loose.png", encode_image(draw_image(0)), "^does not fit the layout"
    yield ".git/config", b"[core]", "^hidden file$"
    yield "food/Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(99), "^system file: Thumbs.db$"
    yield "__MACOSX/food/1.png", b"\0\5\x16\7", "^system file: __MACOSX$"


def restructure():
    run(read_params(Path("params.yaml")).restructure)
    return read_manifest(paths.MANIFEST), read_csv(paths.EXCLUDED, ("path", "reason"))


def list_tree(folder):
    """Return names and times of all below a folder, but for what the stage may write in a workspace."""
    found = {path.relative_to(folder): path.lstat() for path in folder.rglob("*")}
    return {
        path: 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        for path, status in found.items()
        if path.parts[1:2] not in (("data",), (".relearn",))
    }


def check_files(expected, contents):
    """Run the stage over `source`, and compare what became of each file with what is expected of it."""
    before = list_tree(Path.cwd().parent)
    manifest, excluded = restructure()
    assert list_tree(Path.cwd().parent) == before
    kept = Counter(row.sha256 for row in manifest)
    assert kept == Counter(hashlib.sha256(contents[path]).hexdigest() for path, reason in expected if reason is KEPT)
    assert sorted(path for path, _ in excluded) == sorted(path for path, reason in expected if reason is not KEPT)
    patterns = {path: reason for path, reason in expected if reason is not KEPT}
    wrong = {path: reason for path, reason in excluded if not re.search(patterns[path], reason)}
    assert wrong == {}
    for _, reason in excluded:
        assert reason.isprintable()
        assert " at 0x" not in reason
    for row in manifest:
        assert (paths.DATASET / row.path).resolve().is_relative_to(paths.DATASET.resolve())
        assert hashlib.sha256((paths.DATASET / row.path).read_bytes()).hexdigest() == row.sha256


@pytest.fixture
def source(workspace, monkeypatch, set_params):
    """A folder `source` in layout class_folders, two levels below the folder that is watched, which holds no more."""
    workspace = workspace / "repository"
    workspace.mkdir()
    for name in ("params.yaml", "data"):
        (workspace.parent / name).rename(workspace / name)
    monkeypatch.chdir(workspace)
    set_params({"restructure.source": "source", "restructure.layout": "class_folders", "restructure.labels": {}})
    (workspace / "source").mkdir()
    return workspace / "source"


@pytest.mark.slow
def test_every_file_of_the_corpus_has_its_place(source):
    corpus = list(list_corpus())
    assert len({path for path, _, _ in corpus}) == len(corpus) >= 60
    for path, content, _ in corpus:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    check_files([(path, reason) for path, _, reason in corpus], {path: content for path, content, _ in corpus})


def test_links_and_special_files(source):
    outside = source.parent / "outside"
    cache = source.parent / "cache" / "files" / "md5" / "0f"
    for folder in (source / "food", source / ".hidden", outside, cache):
        folder.mkdir(parents=True)
    contents = {
        "food/inside.png": encode_image(draw_image(1)),
        "food/cached.png": encode_image(draw_image(2)),
        "food/plain.png": encode_image(draw_image(3)),
        "outside.png": encode_image(draw_image(4)),
    }
    (source / ".hidden" / "inside.png").write_bytes(contents["food/inside.png"])
    (source / "food" / "plain.png").write_bytes(contents["food/plain.png"])
    (outside / "outside.png").write_bytes(contents["outside.png"])
    (cache / ("a" * 30)).write_bytes(contents["food/cached.png"])
    (cache / ("a" * 29)).write_bytes(contents["outside.png"])
    links = {
        "inside.png": "../.hidden/inside.png",
        "cached.png": cache / ("a" * 30),
        "like-cached.png": cache / ("a" * 29),
        "absolute.png": outside / "outside.png",
        "relative.png": "../../outside/outside.png",
        "twice.png": "relative.png",
        "passwords.png": "/etc/passwd",
        "memory.png": "/proc/self/mem",
        "zeros.png": "/dev/zero",
        "nowhere-outside.png": outside / "nowhere.png",
        "nowhere.png": "nowhere",
        "circle.png": "circle.png",
        "there.png": "back.png",
        "back.png": "there.png",
        "up": "..",
        "outside": outside,
        "self": ".",
    }
    for name, target in links.items():
        (source / "food" / name).symlink_to(target)
    os.mkfifo(source / "food" / "pipe.png")
    with (source / "food" / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    leaving = "^link that leaves the source; put the file itself in its place$"
    folder_link = "^link to a folder, not followed$"
    circle = "^cannot be read: " + os.strerror(errno.ELOOP)
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(source / "food"):
        server.bind("socket.png")
    expected = {
        **dict.fromkeys(("food/inside.png", "food/cached.png", "food/plain.png"), KEPT),
        ".hidden/inside.png": "^hidden file$",
        **dict.fromkeys((f"food/{name}.png" for name in ("absolute", "relative", "twice", "nowhere-outside")), leaving),
        **dict.fromkeys((f"food/{name}.png" for name in ("passwords", "memory", "zeros", "like-cached")), leaving),
        **dict.fromkeys(("food/circle.png", "food/there.png", "food/back.png"), circle),
        **dict.fromkeys(("food/up", "food/outside", "food/self"), folder_link),
        "food/nowhere.png": "^cannot be read: No such file",
        "food/pipe.png": "^not a regular file$",
        "food/socket.png": "^not a regular file$",
        "food/large.png": "^too large: 268,435,457 bytes, at most 268,435,456 are read$",
    }
    check_files(list(expected.items()), contents)


def test_names_that_are_no_text(source):
    contents = {}
    expected = []
    names = {
        b"new\nline.png": ("new\\nline.png", "^name holds a control character$"),
        b"carriage\rreturn.png": ("carriage\\rreturn.png", "^name holds a control character$"),
        b"escape\x1b[2J.png": ("escape\\x1b[2J.png", "^name holds a control character$"),
        "line\u2028separator.png".encode(): ("line\\u2028separator.png", "^name holds a control character$"),
        b"latin-\xfc.png": ("latin-\\xfc.png", "^name is not UTF-8$"),
        b"\xff\n\xfe.png": ("\\xff\\n\\xfe.png", "^name is not UTF-8$"),
        b"plain.png": ("plain.png", KEPT),
    }
    for folder in (b"food", b"f\xf6od", b"fo\nod"):
        os.mkdir(os.fsencode(source) + b"/" + folder)
    for seed, (name, (spelled, reason)) in enumerate(names.items()):
        contents[f"food/{spelled}"] = encode_image(draw_image(seed))
        expected.append((f"food/{spelled}", reason))
        with open(os.fsencode(source) + b"/food/" + name, "wb") as file:
            file.write(contents[f"food/{spelled}"])
    for folder, spelled, reason in (
        (b"f\xf6od", "f\\xf6od", "^name is not UTF-8$"),
        (b"fo\nod", "fo\\nod", "^name holds a control character$"),
    ):
        expected.append((f"{spelled}/1.png", reason))
        with open(os.fsencode(source) + b"/" + folder + b"/1.png", "wb") as file:
            file.write(encode_image(draw_image(50)))
    check_files(expected, contents)


@contextlib.contextmanager
def become_nobody(folder):
    """Let go of root's right to read everything, if the tests run as root; the folder is then nobody's."""
    if os.geteuid():
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def read_or_explain(file):
    try:
        return file.refusal or file.read()
    except READING_ERRORS as error:
        return error.strerror


@pytest.fixture
def closed():
    """A folder that somebody who is not root may not wholly read; not below tmp_path, where few may look."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ("closed/1.png", "open/2.png", "open/3.png", "lost+found/4.png"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(b"x")
        for path in ("open/2.png", "closed", "lost+found"):
            (folder / path).chmod(0)
        try:
            yield folder
        finally:
            for path in ("closed", "lost+found"):
                (folder / path).chmod(0o700)


def test_unreadable_files_and_folders(closed):
    found = {}
    with become_nobody(closed):
        for file in iterate_source(closed, is_strict=False):
            found[file.path] = read_or_explain(file)
        with pytest.raises(
            SourceError, match="/closed: folder cannot be listed: Permission denied; allow it to be read"
        ):
            list(iterate_source(closed))
    assert found == {
        "closed": "folder cannot be listed: Permission denied",
        "lost+found": "system file: lost+found",
        "open/2.png": "Permission denied",
        "open/3.png": b"x",
    }


def test_class_folder_that_cannot_be_listed_leaves_the_old_data_set():
    """As a user without the right to list it."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        copy_settings(Path())
        change_params({"restructure.source": "source"})
        write_images(Path("source"), [f"{label}/{n}.png" for n, label in enumerate("aabb")])
        restructure()
        before = list_tree(Path("data"))
        for path in (Path(), *Path().rglob("*")):
            os.chown(path, 65534, 65534) if os.geteuid() == 0 else None
        Path("source/b").chmod(0)
        try:
            with (
                become_nobody(Path()),
                pytest.raises(SourceError, match=r"^source/b: folder cannot be listed: Permission"),
            ):
                restructure()
        finally:
            Path("source/b").chmod(0o700)
        assert list_tree(Path("data")) == before


def test_folders_in_folders_in_folders(tmp_path):
    """More levels than Python has stack, and a path almost as long as the system allows."""
    depth = (4000 - len(str(tmp_path))) // 2
    deepest = f"{tmp_path}/" + "d/" * depth
    os.makedirs(tmp_path / "d")
    with contextlib.chdir(tmp_path):
        for _ in range(depth):
            os.makedirs("d", exist_ok=True)
            os.chdir("d")
        Path("x.png").write_bytes(b"x")
    try:
        (found,) = iterate_source(tmp_path)
        assert found.path == "d/" * depth + "x.png"
        assert found.read() == b"x"
    finally:  # shutil.rmtree has no more stack than os.walk
        os.unlink(deepest + "x.png")
        while deepest != f"{tmp_path}/":
            os.rmdir(deepest)
            deepest = deepest[:-2]


PNG = encode_image(draw_image(900))
OTHER = encode_image(draw_image(901))
OUTSIDE = "^name points outside the archive$"
SPECIAL = "^a link or a device, not a file$"


def patch_zip(content, *, flags=None, method=None, size=None):
    """Change the first member's flags, method or promised size in both of its headers."""
    patched = bytearray(content)
    for signature, offset in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        start = content.index(signature) + offset
        if flags is not None:
            patched[start + 6 : start + 8] = struct.pack("<H", flags)
        if method is not None:
            patched[start + 8 : start + 10] = struct.pack("<H", method)
        if size is not None:
            patched[start + 22 : start + 26] = struct.pack("<L", size)
    return bytes(patched)


def zip_of_type(mode):
    info = zipfile.ZipInfo("food/x.png")
    info.external_attr = mode << 16
    return make_zip([(info, b"/etc/passwd"), ("food/1.png", PNG)])


def zip_of_zeros(n_bytes, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        with archive.open("food/zeros.png", "w") as file:
            for _ in range(n_bytes >> 20):
                file.write(bytes(1 << 20))
        archive.writestr("food/1.png", PNG)
    return buffer.getvalue()


def make_bomb():
    return zip_of_zeros(MAX_BYTES + (1 << 20), compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def make_lying_bomb(method):
    return patch_zip(zip_of_zeros(8 << 20, compression=method), size=1000)


def tar_of_type(kind, **fields):
    info = tarfile.TarInfo("food/x.png")
    info.type = kind
    for name, value in fields.items():
        setattr(info, name, value)
    return make_tar([(info, b""), ("food/1.png", PNG)])


def tar_with_record(kind, n_bytes):
    """A tar whose first record announces a long name."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, n_bytes
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(n_bytes + -n_bytes % 512) + make_tar([("food/1.png", PNG)])


def tar_of_size(header_bytes):
    """A tar whose first member has these 12 bytes for its size."""
    content = bytearray(make_tar([("food/x.png", b"x"), ("food/1.png", PNG)]))
    content[124:136] = header_bytes
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def list_archives():
    """Name, bytes, and what is expected: the pattern of a reason for each path, or of the error for the whole."""
    inner = make_zip([("food/x.png", OTHER)])
    for kind, make in (("zip", make_zip), ("tar", make_tar)):
        for name, path in (
            ("dots", "../up.png"),
            ("dots-inside", "food/../../../up.png"),
            ("dots-harmless", "food/../food/x.png"),
            ("absolute", "/etc/absolute.png"),
            ("double-slash", "//server/share.png"),
        ):
            yield f"{name}.{kind}", make([(path, OTHER), ("food/1.png", PNG)]), {path: OUTSIDE}
        yield f"backslash.{kind}", make([("food/x\\..\\..\\up.png", PNG)]), {}
        yield f"newline.{kind}", make([("food/a\nb.png", OTHER), ("food/1.png", PNG)]), {"food/a\\nb.png": "control"}
        yield f"255.{kind}", make([("food/" + "x" * 251 + ".png", PNG)]), {}
        yield f"1000.{kind}", make([("food/" + "x" * 996 + ".png", PNG)]), {}
        yield (
            f"long-label.{kind}",
            make([("x" * 256 + "/1.png", OTHER), ("food/1.png", PNG)]),
            {"x" * 256 + "/1.png": "^label is too long"},
        )
        yield f"case.{kind}", make([("Food/1.png", PNG), ("food/1.png", OTHER)]), {}
        yield f"dotted.{kind}", make([("./food//1.png", PNG)]), {}
        yield f"zip-inside.{kind}", make([("food/1.png", PNG), ("food/x.zip", inner)]), {"food/x.zip": "a zip archive"}
        tar = make_tar([("food/x.png", OTHER)], "w:xz")
        yield f"tar-inside.{kind}", make([("food/1.png", PNG), ("food/x.tar", tar)]), {"food/x.tar": NO_IMAGE}
        yield f"nothing.{kind}", make([]), "got no file at all"
        yield (
            f"nothing-good.{kind}",
            make([("../x.png", PNG)]),
            r"got none in 1 file \(name points outside the archive: 1\)",
        )
        yield f"cut.{kind}", make([("food/1.png", PNG), ("food/2.png", OTHER)])[:900], "damaged archive"
        second = "^second member of this name in the archive$"
        same = [("food/1.png", PNG), ("food/1.png", OTHER), ("food/./1.png", OTHER)]
        yield f"same-name.{kind}", make(same), {"food/1.png": second}
    yield "folder-with-content.zip", make_zip([("food/x.png/", OTHER), ("food/1.png", PNG)]), {"food/x.png": SPECIAL}
    yield "link.zip", zip_of_type(stat.S_IFLNK | 0o777), {"food/x.png": SPECIAL}
    two = make_zip([("food/x.png", OTHER), ("food/1.png", PNG)])
    yield "encrypted.zip", patch_zip(two, flags=1), {"food/x.png": "^encrypted; unpack the archive with its password$"}
    yield "deflate64.zip", patch_zip(two, method=9), {"food/x.png": r"^packed by a method .* \(deflate64\); pack it by"}
    yield "unknown-method.zip", patch_zip(two, method=77), {"food/x.png": r"^packed by a method .* \(77\)"}
    yield "patched-data.zip", patch_zip(two, flags=0x20), {"food/x.png": "^cannot be read: compressed patched data"}
    yield "checksum.zip", two.replace(OTHER, OTHER[:-1] + b"x"), {"food/x.png": "^cannot be read: Bad CRC-32"}
    yield "promises-less.zip", patch_zip(two, size=9), {"food/x.png": "^cannot be read: Bad CRC-32"}
    yield "promises-more.zip", patch_zip(two, size=2**32 - 2), {"food/x.png": TOO_LARGE + "4,294,967,294 bytes"}
    yield "lzma-garbage.zip", patch_zip(two, method=14), {"food/x.png": "^cannot be read: "}
    yield "bzip2-garbage.zip", patch_zip(two, method=12), {"food/x.png": "^cannot be read: "}
    yield "code-first.zip", b"#!/bin/sh\n" + two, "wanted a folder, a .zip or a .tar"
    yield "directory-garbage.zip", two.replace(b"PK\1\2", b"PK\1\7"), "damaged archive"
    name = make_zip([("food/\xe9.png", OTHER), ("food/1.png", PNG)]).replace("é".encode(), b"\xc3\xff")
    yield "name-not-utf8.zip", name, "damaged archive: .*utf-8"
    # These are made when their test runs, for that takes a second.
    yield "bomb.zip", make_bomb, {"food/zeros.png": TOO_LARGE + "269,484,032 bytes, at most"}
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        lying = functools.partial(make_lying_bomb, method)
        yield f"bomb-that-lies-{method}.zip", lying, {"food/zeros.png": "^cannot be read: Bad CRC-32"}
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
        yield f"type-{kind.decode()}.tar", tar_of_type(kind, linkname="/etc/passwd"), {"food/x.png": SPECIAL}
    yield "owner.tar", tar_of_type(tarfile.REGTYPE, uid=0, mode=0o6777, mtime=2**33), {"food/x.png": "^empty file$"}
    latin = make_tar([("food/\udcfc.png", OTHER), ("food/1.png", PNG)], format=tarfile.GNU_FORMAT)
    yield "latin-name.tar", latin, {"food/\\xfc.png": "^name is not UTF-8$"}
    yield "renamed.tar", latin.replace(b"\xfc.png", b"\xfd.png"), "damaged archive: its beginning is cut short or wrong"
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        yield (
            f"record-{kind.decode()}.tar",
            tar_with_record(kind, 2 << 20),
            "damaged archive: a record of 2,097,152 bytes",
        )
    yield "size-octal.tar", tar_of_size(b"77777777777\0"), "damaged archive: "
    yield "size-negative.tar", tar_of_size(b"\xff" * 12), "damaged archive: "
    yield "size-exabytes.tar", tar_of_size(b"\x80\0\0\0\1" + bytes(7)), "damaged archive: "
    yield "size-garbage.tar", tar_of_size(b"no number!!\0"), "damaged archive: "
    sound = make_tar([("food/1.png", PNG), ("food/2.png", OTHER)])
    for mode in ("gz", "bz2", "xz"):
        packed = make_tar([("food/1.png", PNG), ("food/2.png", OTHER)], f"w:{mode}")
        yield f"cut.{mode}", packed[: len(packed) // 2], "damaged archive: "
        yield f"garbage-after.tar.{mode}", packed + b"garbage", {}
    yield "damaged-header.tar", sound[:1100] + b"\xff" * 40 + sound[1140:], "damaged archive: "
    yield "not-an-archive.tar", b"no archive at all", "wanted a folder, a .zip or a .tar"
    yield "empty-file.tar", b"", "wanted a folder, a .zip or a .tar"


@pytest.mark.parametrize(("name", "content", "expected"), [pytest.param(*case, id=case[0]) for case in list_archives()])
def test_archives(source, set_params, name, content, expected):
    Path("archives").mkdir()
    Path("archives", name).write_bytes(content() if callable(content) else content)
    set_params({"restructure.source": f"archives/{name}"})
    before = list_tree(Path.cwd().parent)
    if isinstance(expected, str):
        with pytest.raises(SourceError, match=expected) as caught:
            restructure()
        assert str(caught.value).startswith(f"archives/{name}: ")
        assert str(caught.value).isprintable()
        assert not paths.DATASET.exists()
    else:
        manifest, excluded = restructure()
        assert {hashlib.sha256(PNG).hexdigest(), hashlib.sha256(OTHER).hexdigest()} >= {row.sha256 for row in manifest}
        assert hashlib.sha256(PNG).hexdigest() in {row.sha256 for row in manifest}
        assert {path for path, _ in excluded} == set(expected)
        assert [reason for path, reason in excluded if not re.search(expected[path], reason)] == []
        assert all(reason.isprintable() for _, reason in excluded)
    assert list_tree(Path.cwd().parent) == before


MEASURE = """
import resource, sys
from pathlib import Path
from PIL import Image
from relearn.params.pipeline import read_params
from relearn.stages.restructure import run
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(read_params(Path("params.yaml")).restructure)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measure_mebibytes():
    """Run the stage in a process of its own, with many threads; return what it took at its peak."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE],
        env=os.environ | {"RELEARN_THREADS": "8"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / (2**20 if sys.platform == "darwin" else 2**10)


def make_scans(n_scans):
    """A progressive JPEG of 12 x 10 px, the last of whose scans is repeated."""
    content = encode_image(draw_image(0), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * (n_scans - content.count(b"\xff\xda") + 1) + b"\xff\xd9"


def wrap_in_tiff(jpeg):
    tags = [(258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6), (277, 3, 1, 3), (278, 3, 1, 10), (279, 4, 1, len(jpeg))]
    tiff = make_tiff(0, [*tags, (273, 4, 1, 0)])
    return make_tiff(0, [*tags, (273, 4, 1, len(tiff))]) + jpeg


@pytest.mark.parametrize("wrap", [bytes, wrap_in_tiff])
def test_scans_are_limited_by_the_pixels_that_they_go_over(monkeypatch, wrap):
    monkeypatch.setattr(limits, "MAX_SCANNED_PIXELS", 12 * 10 * 20)
    assert decode_image(wrap(make_scans(20))).rgb.size == SIZE
    with pytest.raises(ImageError, match=r"^unsupported \w+ file: 21 scans of .*, at most 20 are read; save it "):
        decode_image(wrap(make_scans(21)))


@pytest.mark.slow
def test_memory_is_bounded(source):
    """Eight threads, six images of 25 megapixels and as many bombs: one large image at a time."""
    (source / "food").mkdir()
    bomb = make_png(0, size=(30_000, 30_000), header=(1, 0, 0, 0, 0), packed=zlib.compress(bytes(3751 * 30_000)))
    for number in range(6):
        content = encode_image(Image.new("RGB", (5000, 5000 + number), (number, 2, 3)), "PNG", compress_level=1)
        (source / "food" / f"{number}.png").write_bytes(content)
        (source / "food" / f"bomb{number}.png").write_bytes(bomb + b"%d" % number)
    assert measure_mebibytes() < 500
    assert len(read_manifest(paths.MANIFEST)) == 6
    assert {reason for _, reason in read_csv(paths.EXCLUDED, ("path", "reason"))} == {
        "too large: 30000 x 30000 px, at most 250,000,000 pixels are read"
    }


@pytest.mark.slow
def test_memory_of_bombs_in_a_zip(source, set_params):
    """A member of 300 MB, and such of 160 MB that promise 1,000 bytes."""
    set_params({"restructure.source": "bomb.zip"})
    Path("bomb.zip").write_bytes(zip_of_zeros(300 << 20, compression=zipfile.ZIP_DEFLATED, compresslevel=1))
    assert measure_mebibytes() < 100
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        bomb = zip_of_zeros(160 << 20, compression=method, compresslevel=1)
        Path("bomb.zip").write_bytes(patch_zip(bomb, size=1000))
        assert measure_mebibytes() < 100
        assert read_csv(paths.EXCLUDED, ("path", "reason"))[0][1].startswith("cannot be read: Bad CRC-32")


# What is mutated: a valid file of each kind.


def list_valid_files(file_format):
    image = draw_image(1, (24, 18))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "description"
    frames = [draw_image(n, (24, 18)) for n in range(3)]
    animated = {"save_all": True, "append_images": frames}
    smooth = Image.linear_gradient("L").resize((24, 18))
    sixteen = Image.fromarray(np.arange(24 * 18, dtype=np.uint16).reshape(18, 24) * 100)
    transparent = image.convert("RGBA")
    transparent.putalpha(smooth)
    variants = {
        "JPEG": [(image, {}), (smooth, {}), (image, {"progressive": True, "exif": exif}), (image.convert("CMYK"), {})],
        "PNG": [
            (image, {"exif": exif}),
            (smooth, {}),
            (image.convert("P"), {"transparency": 3}),
            (transparent, {}),
            (image.convert("1"), {}),
            (sixteen, {}),
            (frames[0], animated),
        ],
        "GIF": [(image, {}), (smooth, {"interlace": 0}), (frames[0], animated), (image, {"comment": b"x" * 300})],
        "AVIF": [(image, {"exif": exif}), (smooth, {}), (transparent, {"quality": 100}), (frames[0], animated)],
        "HEIC": [(image, {}), (smooth, {}), (transparent, {"quality": -1}), (image, {"exif": exif.tobytes()})],
        "WEBP": [(image, {}), (transparent, {"lossless": True}), (frames[0], animated), (image, {"exif": exif})],
        "BMP": [(image, {}), (smooth, {}), (image.convert("P"), {}), (image.convert("1"), {}), (transparent, {})],
        "TIFF": [
            (image, {"exif": exif}),
            (smooth, {"compression": "tiff_lzw"}),
            (image.convert("P"), {"compression": "packbits"}),
            (transparent, {"compression": "tiff_adobe_deflate"}),
            (sixteen, {}),
            (image, {"compression": "jpeg"}),
            (frames[0], animated),
            (image.convert("1"), {"compression": "group4"}),
            (image, {"big_tiff": True}),
        ],
    }
    return [encode_image(picture, file_format, **options) for picture, options in variants[file_format]]


def repair_checksums(content):
    """Let what is in a PNG's chunks be read, wherever their lengths still lead to the next one."""
    repaired = bytearray(content)
    position = 8
    while position + 12 <= len(repaired):
        end = position + 12 + int.from_bytes(repaired[position : position + 4], "big")
        if end > len(repaired):
            break
        repaired[end - 4 : end] = struct.pack(">I", zlib.crc32(repaired[position + 4 : end - 4]))
        position = end
    return bytes(repaired)


def mutate(content, changes, other):
    """Apply changes of (kind, place as a share, value, bytes) one after the other."""
    for kind, share, value, inserted in changes:
        position = int(share * len(content))
        before, after = content[:position], content[position:]
        match kind:
            case "flip":
                content = before + bytes([value & 0xFF]) + after[1:]
            case "delete":
                content = before + after[value & 0x3F :]
            case "insert":
                content = before + inserted + after
            case "repeat":
                content = before + after[:64] * (value & 0x1F) + after
            case "cut":
                content = before
            case "splice":
                content = before + other[position:]
            case "length":  # a number of four bytes, of either byte order
                content = before + value.to_bytes(4, "big" if inserted else "little") + after[4:]
    return content


SHARES = st.one_of(st.floats(0, 1), st.floats(0, 0.1))  # headers are at the beginning
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]))
KINDS = st.sampled_from(["flip", "flip", "length", "delete", "insert", "repeat", "cut", "splice"])
CHANGES = st.lists(st.tuples(KINDS, SHARES, NUMBERS, st.binary(max_size=12)), min_size=1, max_size=5)
SAME_EACH_TIME = settings(derandomize=True, database=None, deadline=None)


@pytest.mark.campaign
@pytest.mark.parametrize("file_format", FORMATS)
def test_mutated_images_are_read_or_refused(file_format):
    """Whatever bytes come: an RGB image of bounded size or an `ImageError` in one line, nothing else."""
    valid = list_valid_files(file_format)
    others = [content for name in FORMATS for content in list_valid_files(name)]
    counts = Counter()

    @settings(SAME_EACH_TIME, max_examples=choose(100, 400))
    @given(st.sampled_from(valid), CHANGES, st.sampled_from(valid * 8 + others), st.booleans())
    def check(content, changes, other, is_repaired):
        content = mutate(content, changes, other)
        content = repair_checksums(content) if is_repaired and content.startswith(b"\x89PNG") else content
        try:
            decoded = decode_image(content, max_pixels=1_000_000)  # or some examples would take a second each
        except ImageError as error:
            counts["refused"] += 1
            reason = str(error)
            assert reason.isprintable() and reason  # noqa: PT018
            assert " at 0x" not in reason
        else:
            counts["read"] += 1
            width, height = decoded.rgb.size
            assert decoded.rgb.mode == "RGB"
            assert 0 < width * height <= 1_000_000
            assert decoded.format in FORMATS
            assert np.asarray(decoded.rgb).shape == (height, width, 3)

    check()
    assert counts["read"] >= choose(5, 13)
    assert counts["refused"] >= choose(20, 66)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_mutated_archives_are_read_or_refused(tmp_path, kind):
    """Whatever bytes come: files, refusals, or one error that names the archive."""
    members = [(f"food/{n}.png", PNG[: 40 * n]) for n in range(4)]
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    valid = {
        "zip": [make_zip(members, compression=method) for method in methods],
        "tar": [make_tar([*members, ("x" * 300, b"x")]), tar_of_type(tarfile.SYMTYPE), tar_with_record(b"x", 600)],
        "tar.gz": [make_tar(members, "w:gz")],
    }[kind]
    archive = tmp_path / "archive"

    @settings(SAME_EACH_TIME, max_examples=choose(50, 200))
    @given(st.sampled_from(valid), CHANGES, st.sampled_from(valid))
    def check(content, changes, other):
        archive.write_bytes(mutate(content, changes, other))
        try:
            for file in iterate_source(archive):
                assert not holds_control_character(file.path)
                if file.refusal is None:
                    with contextlib.suppress(*READING_ERRORS):
                        file.read()
        except SourceError as error:
            reason = str(error)
            assert reason.startswith(f"{archive}: ")
            assert not holds_control_character(reason)

    check()
