import io
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn.errors import ImageError, OutOfMemory
from relearn.images import decoding as images
from relearn.images.decoding import decode_image, resize_image
from relearn.images.formats import FORMATS


def solid(mode, color, size=(4, 3)):
    return Image.new(mode, size, color)


@pytest.mark.parametrize("file_format", FORMATS)
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
        (b"no image at all", r"^not an image \(AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP are read\)$"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^format not read: SVG; save it as JPEG or PNG$"),
        (encode_image(draw_image(1), "ICO"), "^format not read: ICO; save it as JPEG or PNG$"),
        (encode_image(draw_image(1), "JPEG")[:-30], "^damaged JPEG file: .*truncated"),
        (encode_image(draw_image(1), "PNG")[:60], "^damaged PNG file: "),
        (png_of_size(20_000, 20_000), r"^too large: 20000 x 20000 px, at most 250,000,000 pixels are read$"),
        (png_of_size(20_000, 12_501), r"^too large: 20000 x 12501 px, at most 250,000,000 pixels are read$"),
        (
            encode_image(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF"),
            "^unsupported TIFF file: floating-point samples .*; save it with",
        ),
        (
            encode_image(Image.fromarray(np.zeros((3, 4), np.int32)), "TIFF"),
            "^unsupported TIFF file: signed samples .*; save it with",
        ),
    ],
)
def test_refusals_say_why(content, reason):
    with pytest.raises(ImageError, match=reason):
        decode_image(content)


CUT_WITHOUT_A_LOSS = {"GIF": 1}  # bytes that may be missing at the end: the trailer, after the only frame


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("BMP", {}),
        ("GIF", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("is_smooth", [False, True])
def test_cut_at_any_byte_is_an_error(file_format, options, is_smooth):
    image = Image.linear_gradient("L").resize((20, 15)) if is_smooth else draw_image(1, (20, 15))
    content = encode_image(image, file_format, **options)
    n_needed = len(content) - CUT_WITHOUT_A_LOSS.get(file_format, 0)
    for n_bytes in range(n_needed):
        with pytest.raises(ImageError, match=r"^damaged|^not an image|^empty file$"):
            decode_image(content[:n_bytes])
    assert decode_image(content[:n_needed]).rgb.size == (20, 15)


def test_cut_after_the_first_frame_is_harmless():
    frames = [draw_image(n) for n in range(3)]
    content = encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content[:-50]).rgb.tobytes() == decode_image(content).rgb.tobytes()


def test_large_images_are_converted_in_strips(monkeypatch):
    transparent = draw_image(1, (31, 23), "RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((31, 23)))
    sixteen = Image.fromarray(np.arange(31 * 23, dtype=np.uint16).reshape(23, 31) * 90)
    palette = draw_image(2, (31, 23), "P")
    contents = [
        encode_image(image) for image in (transparent, sixteen, draw_image(3, (31, 23)), draw_image(4, mode="1"))
    ]
    contents += [encode_image(palette, transparency=bytes(range(200))), encode_image(palette, "GIF", transparency=7)]
    contents += [encode_image(draw_image(5, (31, 23), "CMYK"), "JPEG"), encode_image(transparent, "WEBP")]
    whole = [decode_image(content).rgb.tobytes() for content in contents]
    monkeypatch.setattr(images, "_STRIP_PIXELS", 100)
    assert [decode_image(content).rgb.tobytes() for content in contents] == whole


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(images, "LARGE_PIXELS", 100)
    load, at_work, most = images._load, [], []

    def count(*arguments):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.005)
        decoded = load(*arguments)
        at_work.pop()
        return decoded

    monkeypatch.setattr(images, "_load", count)
    contents = [encode_image(draw_image(n), file_format) for n, file_format in enumerate(2 * FORMATS)]
    with ThreadPoolExecutor(8) as executor:
        decoded = list(executor.map(decode_image, contents))
    assert [image.rgb.size for image in decoded] == [(12, 10)] * len(contents)
    assert most == [1] * len(contents)
    png = contents[FORMATS.index("PNG")]
    with pytest.raises(ImageError, match="damaged PNG file"):  # errors come through, and let the next one in
        decode_image(png[:-20])
    assert decode_image(png).rgb.size == (12, 10)


def test_lack_of_memory_is_reported(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(images, "_load", fail)
    with pytest.raises(OutOfMemory, match=r"^too large: there is not enough memory"):
        decode_image(encode_image(draw_image(1)))


def test_warnings_that_are_errors_do_not_leak():
    code = "import sys, warnings; from relearn.images.decoding import decode_image\n"
    code += "from relearn.errors import ImageError\n"
    code += "warnings.simplefilter('error')\n"
    code += "try: decode_image(sys.stdin.buffer.read())\nexcept ImageError: pass"
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 4000
    content = encode_image(draw_image(1), "WEBP", exif=exif)
    assert subprocess.run([sys.executable, "-c", code], input=content, check=False).returncode == 0


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ImageError, match="too large: 11 bytes, at most 10"):
        decode_image(b"x" * 11)


def test_resize_gives_a_square_of_bytes():
    resized = resize_image(draw_image(1, (30, 20)), 8, "bilinear")
    assert resized.shape == (8, 8, 3)
    assert resized.dtype == np.uint8


def test_resize_filters_differ():
    image = draw_image(1, (31, 23))
    results = {resize_image(image, 8, name).tobytes() for name in images.RESIZE_FILTERS}
    assert len(results) == len(images.RESIZE_FILTERS)


def test_large_jpeg_may_be_decoded_at_a_part_of_its_size():
    image = draw_image(1, (8, 6)).resize((600, 450))
    content = encode_image(image, "JPEG", quality=95)
    whole, part = decode_image(content), decode_image(content, 64)
    assert whole.rgb.size == (600, 450)
    assert part.rgb.size == (150, 113)
    assert (part.mode, part.format) == (whole.mode, whole.format)
    difference = np.abs(resize_image(whole.rgb, 64, "box").astype(int) - resize_image(part.rgb, 64, "box"))
    assert difference.mean() < 3
    assert decode_image(content, 500).rgb.size == (600, 450)
    assert np.array_equal(decode_image(encode_image(image), 64).rgb, image)  # a PNG


def test_part_of_a_jpeg_is_still_checked():
    content = encode_image(draw_image(1, (60, 45)).resize((600, 450)), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        decode_image(content[: len(content) // 2], 64)


def test_jpeg_at_a_reduced_scale_is_the_same_picture():
    """Half, a quarter and an eighth of 640 x 512 px are 80 x 64 at the least, and never below what is asked."""
    rows, columns = np.mgrid[:512, :640]
    picture = np.stack([rows // 2, columns // 3, (rows + columns) // 5], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    whole = decode_image(file.getvalue()).rgb
    for min_px, size in ((512, (640, 512)), (256, (320, 256)), (200, (320, 256)), (128, (160, 128)), (1, (80, 64))):
        rgb = decode_image(file.getvalue(), min_px).rgb
        assert rgb.size == size
        difference = np.asarray(rgb, float) - np.asarray(whole.resize(size, Image.Resampling.BOX), float)
        assert np.abs(difference).max() < 8
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    assert decode_image(file.getvalue(), 64).rgb.size == (640, 512)


def test_a_jpeg_of_more_than_100_megapixels_is_decoded_at_half_its_size(monkeypatch):
    monkeypatch.setattr(images, "DRAFT_PIXELS", 40 * 60 - 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = draw_image(1, (5, 8)).resize((40, 60), Image.Resampling.BICUBIC)
    large = decode_image(encode_image(image, "JPEG", quality=95, exif=exif))
    assert large.size == (60, 40)
    assert large.rgb.size == (30, 20)
    expected = np.asarray(image.reduce(2).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(large.rgb) - expected).max() < 12
    assert decode_image(encode_image(image)).rgb.size == (40, 60)  # other formats have no such way


def test_a_lower_limit_of_pixels_holds():
    content = encode_image(draw_image(1))
    assert decode_image(content, max_pixels=120).size == (12, 10)
    with pytest.raises(ImageError, match=r"^too large: 12 x 10 px, at most 119 pixels are read$"):
        decode_image(content, max_pixels=119)
