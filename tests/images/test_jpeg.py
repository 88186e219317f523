import io

import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images import jpeg
from relearn.images.jpeg import trim_jpeg


def insert(content, marker, payload):
    """Put a segment behind the first two bytes."""
    return content[:2] + bytes([0xFF, marker]) + (2 + len(payload)).to_bytes(2, "big") + payload + content[2:]


CONTENT = encode_image(draw_image(1, (40, 30)), "JPEG")


def test_comments_and_profiles_are_dropped_and_the_orientation_is_kept():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode_image(draw_image(1, (40, 30)), "JPEG", exif=exif)
    grown = insert(insert(content, 0xFE, b"a comment"), 0xE2, b"ICC_PROFILE\0" + bytes(1000))
    trimmed = trim_jpeg(grown)
    assert trimmed == trim_jpeg(content)
    assert b"a comment" not in trimmed
    assert Image.open(io.BytesIO(trimmed)).getexif()[0x0112] == 6


def test_pixels_stay():
    trimmed = trim_jpeg(insert(CONTENT, 0xFE, b"x"))
    assert Image.open(io.BytesIO(trimmed)).tobytes() == Image.open(io.BytesIO(CONTENT)).tobytes()


def test_file_without_pixels_is_damaged():
    with pytest.raises(DamagedImage, match="image file is truncated: it has no pixels"):
        trim_jpeg(CONTENT[: CONTENT.index(b"\xff\xda")])


def test_second_frame_header_is_damage():
    start = CONTENT.index(b"\xff\xc0")
    length = int.from_bytes(CONTENT[start + 2 : start + 4], "big")
    header = CONTENT[start : start + 2 + length]
    with pytest.raises(DamagedImage, match="two frame headers"):
        trim_jpeg(CONTENT[:start] + header + CONTENT[start:])


def test_segment_without_a_length_is_damage():
    with pytest.raises(DamagedImage, match="segment 0xfe has no length"):
        trim_jpeg(CONTENT[:2] + b"\xff\xfe\0\1" + CONTENT[2:])


def test_too_many_segments_are_not_read(monkeypatch):
    monkeypatch.setattr(jpeg, "MAX_PARTS", 20)
    content = CONTENT
    for _ in range(30):
        content = insert(content, 0xFE, b"")
    with pytest.raises(UnsupportedImage, match=r"^more than 20 segments; save it again$"):
        trim_jpeg(content)
