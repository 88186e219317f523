import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn import images
from relearn.errors import ImageError
from relearn.images import decode_image, resize_image


def solid(mode, colour, size=(4, 3)):
    return Image.new(mode, size, colour)


@pytest.mark.parametrize("file_format", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_every_format_is_read(file_format):
    decoded = decode_image(encode_image(draw_image(1), file_format))
    assert decoded.format == file_format
    assert decoded.rgb.mode == "RGB"
    assert decoded.rgb.size == (12, 10)


def test_lossless_rgb_is_untouched():
    image = draw_image(2)
    assert np.array_equal(decode_image(encode_image(image)).rgb, image)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (solid("L", 100), (100, 100, 100)),
        (solid("1", 1), (255, 255, 255)),
        (solid("RGBA", (255, 0, 0, 0)), (255, 255, 255)),
        (solid("RGBA", (255, 0, 0, 255)), (255, 0, 0)),
        (solid("RGBA", (0, 0, 0, 128)), (127, 127, 127)),
        (solid("LA", (0, 128)), (127, 127, 127)),
        (Image.fromarray(np.full((3, 4), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 25700, np.uint16)), (100, 100, 100)),
        (Image.fromarray(np.full((3, 4), 300, np.uint16)), (1, 1, 1)),
    ],
)
def test_modes_become_rgb(image, expected):
    rgb = decode_image(encode_image(image)).rgb
    assert rgb.mode == "RGB"
    assert rgb.getpixel((1, 1)) == expected


def test_transparent_palette_is_composed_on_white():
    image = solid("P", 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert decode_image(encode_image(image, transparency=1)).rgb.getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(encode_image(image, transparency=0)).rgb.getpixel((0, 0)) == (200, 0, 0)


def test_cmyk_becomes_rgb():
    red, green, blue = decode_image(encode_image(solid("CMYK", (0, 255, 255, 0)), "JPEG")).rgb.getpixel((0, 0))
    assert red > 200
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    image = solid("RGB", "black", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = decode_image(encode_image(image, exif=exif)).rgb
    corner = {1: (0, 0), 2: (5, 0), 3: (5, 3), 4: (0, 3), 5: (0, 0), 6: (3, 0), 7: (3, 5), 8: (0, 5)}[orientation]
    assert rgb.size == ((6, 4) if orientation < 5 else (4, 6))
    assert rgb.getpixel(corner) == (255, 255, 255)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\xff" * 60000])
def test_broken_exif_is_harmless(exif):
    assert decode_image(encode_image(draw_image(3), "JPEG", exif=exif)).rgb.size == (12, 10)


def test_first_frame_of_an_animation_is_taken():
    frames = [solid("RGB", "red"), solid("RGB", "blue")]
    content = encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content).rgb.getpixel((0, 0)) == (255, 0, 0)


def png_of_size(width, height):
    """A PNG whose header promises more than its bytes hold."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "^empty file$"),
        (b"no image at all", r"^not an image \(BMP, GIF, JPEG, PNG, TIFF, WEBP are read\)$"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^not an image"),
        (encode_image(draw_image(1), "ICO"), "^not an image"),
        (encode_image(draw_image(1), "JPEG")[:-30], "^damaged JPEG file: .*truncated"),
        (encode_image(draw_image(1), "PNG")[:60], "^damaged PNG file: "),
        (png_of_size(20_000, 20_000), r"^too large: at most 100,000,000 pixels are read$"),
        (png_of_size(12_000, 10_000), r"^too large: 12000 x 10000 px, at most 100,000,000 pixels are read$"),
        (encode_image(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF"), "^mode F .* no fixed range"),
        (encode_image(Image.fromarray(np.zeros((3, 4), np.int32)), "TIFF"), "^mode I .* no fixed range"),
    ],
)
def test_refusals_say_why(content, reason):
    with pytest.raises(ImageError, match=reason):
        decode_image(content)


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ImageError, match="too large: 11 bytes, at most 10"):
        decode_image(b"x" * 11)


@pytest.mark.parametrize("file_format", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_mutated_files_are_read_or_refused(file_format):
    """Whatever bytes come: an RGB image or an `ImageError`, nothing else."""
    content = encode_image(draw_image(5, (40, 30)), file_format)
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(150):
        mutated = bytearray(content[: rng.integers(1, len(content) + 1)] if rng.random() < 0.3 else content)
        for position in rng.integers(0, len(mutated), rng.integers(1, 6)):
            mutated[position] = rng.integers(0, 256)
        try:
            assert decode_image(bytes(mutated)).rgb.mode == "RGB"
        except ImageError:
            n_refused += 1
    assert n_refused > 10


def test_resize_gives_a_square_of_bytes():
    resized = resize_image(draw_image(1, (30, 20)), 8, "bilinear")
    assert resized.shape == (8, 8, 3)
    assert resized.dtype == np.uint8


def test_resize_filters_differ():
    image = draw_image(1, (31, 23))
    results = {resize_image(image, 8, name).tobytes() for name in images.RESIZE_FILTERS}
    assert len(results) == len(images.RESIZE_FILTERS)
