import io
import re
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from conftest import draw_image, encode_image
from relearn.errors import ImageError
from relearn.images.decoding import decode_image

LOSSLESS = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIC": {"quality": -1, "chroma": 444}}


def make_profile(description=b"test", swap=False):
    """Return the profile of sRGB under another name, or with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert b"s\0R\0G\0B\0" in profile or b"sRGB" in profile
    profile = profile.replace(b"sRGB", description).replace(b"s\0R\0G\0B", b"t\0e\0s\0t")
    if swap:
        profile = profile.replace(b"rXYZ", b"####").replace(b"gXYZ", b"rXYZ").replace(b"####", b"gXYZ")
    return profile


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_the_color_profile_is_applied(file_format):
    image = draw_image(1, (24, 18))
    plain = encode_image(image, file_format, **LOSSLESS[file_format])
    expected = np.asarray(decode_image(plain).rgb).astype(int)
    for swap in (False, True):
        content = encode_image(image, file_format, icc_profile=make_profile(swap=swap), **LOSSLESS[file_format])
        rgb = np.asarray(decode_image(content).rgb).astype(int)
        assert np.abs(rgb - (expected[..., [1, 0, 2]] if swap else expected)).max() <= 2


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_a_profile_that_cannot_be_read_is_told(file_format):
    content = encode_image(draw_image(1), file_format, icc_profile=b"no profile" * 20, **LOSSLESS[file_format])
    with pytest.raises(ImageError, match=f"^damaged {file_format} file: its color profile cannot be read"):
        decode_image(content)
    content = encode_image(draw_image(1), file_format, icc_profile=bytes(5 << 20), **LOSSLESS[file_format])
    with pytest.raises(ImageError, match="its color profile has 5,242,880 bytes, at most 4,194,304 are read"):
        decode_image(content)


# Linear light of Display P3 in that of sRGB; source: CSS Color Module Level 4, section 18.
P3_TO_SRGB = np.array([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09827]])


def test_primaries_of_display_p3_become_srgb():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 24, 3), np.uint8))
    content = encode_image(image, "HEIC", color_primaries=12, transfer_characteristics=13, **LOSSLESS["HEIC"])
    plain = encode_image(image, "HEIC", **LOSSLESS["HEIC"])
    level = np.asarray(decode_image(plain).rgb) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    mixed = (linear @ P3_TO_SRGB.T).clip(0, 1)
    expected = 255 * np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(decode_image(content).rgb) - expected).max() <= 1


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_refused(transfer):
    content = encode_image(draw_image(1), "HEIC", color_primaries=9, transfer_characteristics=transfer)
    reason = r"^unsupported HEIC file: high dynamic range \(PQ or HLG\); save it as JPEG$"
    with pytest.raises(ImageError, match=reason):
        decode_image(content)


def test_the_exif_orientation_of_a_heic_file_does_not_count():
    """Its own property does, which libheif applies; ISO/IEC 23008-12, 6.5.10 and annex A."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    draw_image(1).save(buffer, "HEIF", exif=exif)
    assert exif.tobytes() in buffer.getvalue()
    assert b"irot" not in buffer.getvalue()
    assert decode_image(buffer.getvalue()).rgb.size == (12, 10)


def test_the_size_that_a_heic_file_states_is_held_against_its_pixels():
    content = encode_image(draw_image(1, (64, 48)), "HEIC")
    larger = re.sub(rb"ispe\0{4}.{8}", b"ispe" + struct.pack(">4xII", 20_000, 20_000), content, flags=re.DOTALL)
    with pytest.raises(ImageError, match=r"^too large: 20000 x 20000 px"):
        decode_image(larger)
    smaller = re.sub(rb"ispe\0{4}.{8}", b"ispe" + struct.pack(">4xII", 32, 32), content, flags=re.DOTALL)
    with pytest.raises(ImageError, match=r"^damaged HEIC file: "):
        decode_image(smaller)


def test_the_primary_image_of_several_is_read():
    images = [draw_image(n) for n in range(3)]
    heif = pillow_heif.from_pillow(images[0])
    for image in images[1:]:
        heif.add_from_pillow(image)
    buffer = io.BytesIO()
    heif.save(buffer, primary_index=1, **LOSSLESS["HEIC"])
    rgb = np.asarray(decode_image(buffer.getvalue()).rgb).astype(int)
    assert np.abs(rgb - np.asarray(images[1])).max() <= 3
