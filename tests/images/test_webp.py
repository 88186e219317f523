import pytest

from conftest import draw_image, encode_image
from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images import webp
from relearn.images.webp import check_webp, read_webp_size


def encode_animation(**options):
    frames = [draw_image(n, (21, 13), "RGBA") for n in range(2)]
    frames[0].putpixel((0, 0), (0, 0, 0, 0))
    return encode_image(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, **options)


SIMPLE = encode_image(draw_image(1, (21, 13)), "WEBP")
LOSSLESS = encode_image(draw_image(1, (21, 13)), "WEBP", lossless=True)
EXTENDED = encode_animation()


@pytest.mark.parametrize(
    ("content", "kind"), [(SIMPLE, b"VP8 "), (LOSSLESS, b"VP8L"), (EXTENDED, b"VP8X")], ids=["VP8", "VP8L", "VP8X"]
)
def test_size_is_read_from_the_header(content, kind):
    assert content[12:16] == kind
    assert read_webp_size(content) == (21, 13)


@pytest.mark.parametrize("content", [SIMPLE, LOSSLESS, EXTENDED], ids=["VP8", "VP8L", "VP8X"])
def test_sound_file_stays_and_a_shorter_one_is_damaged(content):
    assert check_webp(content) == content
    with pytest.raises(DamagedImage, match="image file is truncated"):
        check_webp(content[:-1])


def test_alpha_flag_is_set_if_the_first_frame_has_alpha():
    without = EXTENDED[:20] + bytes([EXTENDED[20] & ~0x10]) + EXTENDED[21:]
    assert without != EXTENDED
    assert check_webp(without) == EXTENDED


def test_too_many_chunks_are_not_read(monkeypatch):
    monkeypatch.setattr(webp, "MAX_PARTS", 1)
    without = EXTENDED[:20] + bytes([EXTENDED[20] & ~0x10]) + EXTENDED[21:]
    with pytest.raises(UnsupportedImage, match=r"^more than 1 chunks before the first frame; save it again$"):
        check_webp(without)
