import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import draw_image, encode_image
from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images.tiff import TiffReader, check_tiff, check_tiff_strips

SAMPLES = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)


def write_tiff(samples=SAMPLES, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sound_files_pass(byteorder):
    content = write_tiff(byteorder=byteorder, rowsperstrip=5)
    assert check_tiff(content) == content
    image = TiffReader(io.BytesIO(content))
    check_tiff_strips(image, content)
    assert np.array_equal(np.asarray(image), SAMPLES)


def test_big_tiff_is_read_in_one_byte_order():
    content = write_tiff(bigtiff=True, byteorder="<")
    assert check_tiff(content) == content
    with pytest.raises(
        UnsupportedImage, match=r"^BigTIFF in big-endian byte order; save it in little-endian byte order"
    ):
        check_tiff(write_tiff(bigtiff=True, byteorder=">"))


def make_directory(*tags):
    entries = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tags_that_are_cut_off_are_damage():
    content = make_directory((256, 3, 1, 5), (257, 3, 1, 5))
    assert check_tiff(content) == content
    for n_bytes in (6, 9, 20, len(content) - 1):
        with pytest.raises(DamagedImage, match="image file is truncated: its tags are cut off"):
            check_tiff(content[:n_bytes])


def test_many_values_of_one_tag_are_damage_unless_they_are_bytes():
    with pytest.raises(DamagedImage, match=r"^600,000 values in tag 273, at most 500,000 are read$"):
        check_tiff(make_directory((273, 4, 600_000, 0)))
    check_tiff(make_directory((700, 1, 600_000, 0)))


def test_strips_that_are_cut_off_are_damage():
    content = encode_image(Image.fromarray(SAMPLES), "TIFF")
    image = TiffReader(io.BytesIO(content))
    with pytest.raises(DamagedImage, match="image file is truncated"):
        check_tiff_strips(image, content[: image.tag_v2[273][0] + 10])


def test_missing_strips_are_damage():
    content = write_tiff(rowsperstrip=5)
    image = TiffReader(io.BytesIO(content))
    image.tag_v2[257] = 40
    with pytest.raises(DamagedImage, match="image file is truncated: strips are missing"):
        check_tiff_strips(image, content)


def test_tiles_much_larger_than_the_image_are_damage():
    content = write_tiff(tile=(16, 16))
    image = TiffReader(io.BytesIO(content))
    image.tag_v2[322] = image.tag_v2[323] = 16_000
    with pytest.raises(DamagedImage, match=r"^tiles of 16000 x 16000 px in an image of 30 x 20 px$"):
        check_tiff_strips(image, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode_image(draw_image(1, mode="LAB"), "TIFF"), r"L\*a\*b\* colors; save it as RGB"),
        (write_tiff(SAMPLES.astype(np.int16)), "signed samples have no fixed range; save it with unsigned samples"),
        (write_tiff(SAMPLES.astype(np.float32)), "floating-point samples have no fixed range; save it with unsigned"),
        (write_tiff(SAMPLES.astype(np.uint32)), "32 bits a sample; save it with samples of 8 or 16 bits"),
    ],
)
def test_samples_that_pillow_misreads_are_refused(content, message):
    with pytest.raises(UnsupportedImage, match=rf"^{message}"):
        TiffReader(io.BytesIO(content))
