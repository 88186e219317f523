import io

import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images import gif
from relearn.images.gif import trim_gif


def encode_frames(n_frames, **options):
    frames = [draw_image(n) for n in range(n_frames)]
    return encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:], **options)


def test_first_frame_alone_is_kept():
    content = encode_frames(3, comment=b"a comment")
    trimmed = trim_gif(content)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    image = Image.open(io.BytesIO(trimmed))
    assert image.n_frames == 1
    assert image.convert("RGB").tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
    assert b"a comment" not in trimmed


def test_transparency_of_the_first_frame_is_kept():
    image = draw_image(1, mode="RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    content = encode_image(image, "GIF")
    transparency = Image.open(io.BytesIO(content)).info["transparency"]
    assert Image.open(io.BytesIO(trim_gif(content))).info["transparency"] == transparency


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode_frames(1)[:-20], "image file is truncated"),
        (b"GIF89a" + bytes(7) + b";", "image file is truncated: it has no frame"),
    ],
)
def test_damage_is_an_error(content, message):
    with pytest.raises(DamagedImage, match=message):
        trim_gif(content)


def test_frame_without_a_palette_is_not_read():
    frame = b"," + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
    with pytest.raises(UnsupportedImage, match=r"^a frame without a palette; save it as PNG$"):
        trim_gif(b"GIF89a\1\0\1\0\0\0\0" + frame + b";")


@pytest.mark.parametrize(("name", "message"), [("MAX_PARTS", "extensions"), ("_MAX_BLOCKS", "blocks of a frame")])
def test_too_many_parts_are_not_read(monkeypatch, name, message):
    monkeypatch.setattr(gif, name, 0)
    content = encode_image(draw_image(1, (60, 50)), "GIF", transparency=3, comment=b"x")
    with pytest.raises(UnsupportedImage, match=rf"^more than 0 {message}.*; save it again$"):
        trim_gif(content)
