import io
import zipfile

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


def test_reasons_name_what_the_content_seems_to_be():
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    assert describe_other(encode_image(draw_image(1), "ICO")) == "format not read: ICO; save it as JPEG or PNG"
    allowed = "not an image (BMP, GIF, JPEG, PNG, TIFF, WEBP are read)"
    assert describe_other(b"text") == allowed
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("a", b"x")
    assert describe_other(file.getvalue()) == f"{allowed}: a zip archive; unpack it"


@pytest.mark.parametrize("file_format", FORMATS)
def test_prepared_file_has_its_pixels(file_format):
    content = encode_image(draw_image(1), file_format)
    prepared = Image.open(io.BytesIO(prepare(content, file_format)), formats=[file_format])
    assert prepared.convert("RGB").tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
