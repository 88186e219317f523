import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from conftest import draw_image, encode_image
from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images import png
from relearn.images.decoding import decode_image
from relearn.images.png import check_png_rows, trim_png


def make_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*chunk) for chunk in chunks)


def make_header(width, height, bits=8, color=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)


CONTENT = encode_image(draw_image(1))


def test_texts_are_dropped():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000)
    content = encode_image(draw_image(1), pnginfo=info)
    assert b"x" * 1000 in content
    assert trim_png(content) == trim_png(CONTENT) == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:8] + make_chunk(b"tEXt", b"") + CONTENT[8:], "the header is cut short or wrong"),
        (make_png(make_header(2, 2), make_header(2, 2)), "two headers"),
        (make_png(make_header(2, 2), (b"WXYZ", b"")), "unknown chunk b'WXYZ'"),
        (CONTENT[:-20], "image file is truncated"),
        (CONTENT.replace(b"IDAT", b"IDAT\0", 1)[:-1], "wrong checksum of chunk IDAT|image file is truncated"),
    ],
)
def test_damage_is_an_error(content, message):
    with pytest.raises(DamagedImage, match=message):
        trim_png(content)


def test_metadata_with_a_wrong_checksum_are_dropped():
    chunk = make_chunk(b"eXIf", b"Exif")
    wrong = chunk[:-1] + bytes([chunk[-1] ^ 1])
    assert trim_png(CONTENT[:33] + wrong + CONTENT[33:]) == CONTENT


def test_too_many_chunks_are_not_read(monkeypatch):
    monkeypatch.setattr(png, "MAX_PARTS", 2)
    with pytest.raises(UnsupportedImage, match=r"^more than 2 chunks; save it again$"):
        trim_png(make_png(make_header(2, 2), (b"tEXt", b""), (b"tEXt", b""), (b"IEND", b"")))


@pytest.mark.parametrize(("n_rows", "is_whole"), [(4, True), (3, False)])
def test_missing_rows_are_damage(n_rows, is_whole):
    """All rows are black, as Pillow makes those that are missing."""
    content = make_png(make_header(5, 4), (b"IDAT", zlib.compress(bytes(6 * n_rows))), (b"IEND", b""))
    image = Image.new("L", (5, 4))
    if is_whole:
        check_png_rows(image, content)
    else:
        with pytest.raises(DamagedImage, match="image file is truncated: rows are missing"):
            check_png_rows(image, content)


@pytest.mark.parametrize(("bits", "level"), [(1, 1), (2, 3), (4, 9)])
def test_transparent_level_of_gray_is_scaled_with_the_pixels(bits, level):
    row = bytes([0, level << (8 - bits)])
    content = make_png(
        make_header(1, 1, bits), (b"tRNS", bytes([0, level])), (b"IDAT", zlib.compress(row)), (b"IEND", b"")
    )
    assert Image.open(io.BytesIO(content)).size == (1, 1)
    assert decode_image(content).rgb.getpixel((0, 0)) == (255, 255, 255)
