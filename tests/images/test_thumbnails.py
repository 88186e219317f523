import base64
import io

import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn import paths
from relearn.images.thumbnails import THUMBNAIL_PX, draw_picture


@pytest.fixture
def dataset(workspace):
    paths.DATASET.mkdir(parents=True)
    return paths.DATASET


@pytest.mark.parametrize(("size", "expected"), [((400, 200), (THUMBNAIL_PX, THUMBNAIL_PX // 2)), ((12, 10), (12, 10))])
def test_large_images_are_reduced_and_small_ones_are_not_enlarged(dataset, size, expected):
    (dataset / "a.png").write_bytes(encode_image(draw_image(1, size)))
    kind, encoded = draw_picture("a.png").split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == expected


def test_files_that_cannot_be_read_have_no_picture(dataset):
    (dataset / "text.png").write_bytes(b"text")
    assert draw_picture("text.png") == draw_picture("missing.png") == draw_picture("zero\0.png") == ""


def test_files_outside_the_dataset_have_no_picture(dataset):
    outside = dataset.parent / "outside.png"
    outside.write_bytes(encode_image(draw_image(1)))
    assert draw_picture("../outside.png") == draw_picture(str(outside.resolve())) == ""
