import io
import zipfile

import pillow_heif
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn.images.formats import FORMATS, describe_other, prepare, recognize_format


@pytest.mark.parametrize("file_format", FORMATS)
def test_format_is_detected_from_the_content(file_format):
    assert recognize_format(encode_image(draw_image(1), file_format)) == file_format


@pytest.mark.parametrize("content", [b"", b"BM is how this text begins, and it is long enough", b"RIFF0000WAVEfmt "])
def test_other_content_has_no_format(content):
    assert recognize_format(content) is None


BOX = b"\0\0\0\x1cftyp"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BOX + b"heic\0\0\0\0mif1heicmiaf", "HEIC"),
        (BOX + b"mif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (BOX + b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (BOX + b"avis\0\0\0\0avifavismsf1", "AVIF"),
        (BOX + b"msf1\0\0\0\0msf1hevcmp41", "HEIC"),
        (BOX + b"mp42\0\0\0\0mp41isom", None),
    ],
)
def test_brands_tell_heic_from_avif_and_video(content, expected):
    assert recognize_format(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"%PDF-1.7", "a PDF; save its pages as PNG"),
        (BOX + b"mp42\0\0\0\0mp41isom", "a video; save frames of it as JPEG"),
        (BOX + b"qt  \0\0\0\0qt  ", "a video; save frames of it as JPEG"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86", "a video; save frames of it as JPEG"),
        (b"RIFF\0\0\0\0AVI LIST", "a video; save frames of it as JPEG"),
        (b"\0\0\1\xba\x44", "a video; save frames of it as JPEG"),
        (b"\xfd7zXZ\0\0", "an xz archive; unpack it"),
    ],
)
def test_videos_pages_and_archives_are_named(content, expected):
    assert describe_other(content).endswith(f"are read): {expected}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (bytes(128) + b"DICM", "DICOM"),
        (BOX + b"crx \0\0\0\1crx isom", "raw photo"),
    ],
)
def test_formats_that_are_not_read_are_named(content, expected):
    assert describe_other(content) == f"format not read: {expected}; save it as JPEG or PNG"


def test_reasons_name_what_the_content_seems_to_be():
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    assert describe_other(encode_image(draw_image(1), "ICO")) == "format not read: ICO; save it as JPEG or PNG"
    allowed = "not an image (AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP are read)"
    assert describe_other(b"text") == allowed
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("a", b"x")
    assert describe_other(file.getvalue()) == f"{allowed}: a zip archive; unpack it"


@pytest.mark.parametrize("file_format", FORMATS)
def test_prepared_file_has_its_pixels(file_format):
    content = encode_image(draw_image(1), file_format)
    pillow_heif.register_heif_opener()
    prepared = Image.open(io.BytesIO(prepare(content, file_format)))
    assert prepared.convert("RGB").tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
