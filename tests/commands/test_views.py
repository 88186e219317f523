import base64
import io

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import restructure
from relearn import cli, paths
from relearn.commands.views import N_VIEWS, choose_images, draw_example
from relearn.dataset.manifest import read_manifest
from relearn.errors import ParamsError
from relearn.features.views import Views
from relearn.params.pipeline import read_params

pytestmark = pytest.mark.usefixtures("forty")


def test_the_page_needs_nothing_but_itself(set_params):
    set_params({"augment.horizontal_flip": 0.5, "augment.rotation_degrees": 20.0})
    restructure()
    answer = CliRunner().invoke(cli.app, ["views", "--images", "3"])
    assert answer.output == f"reports/views.html: {N_VIEWS} views of 3 images\n"
    page = paths.VIEWS_PAGE.read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 3 * (1 + N_VIEWS)
    assert "rotation_degrees 20.0" in page
    assert "http" not in page


def test_pictures_are_those_of_the_image_and_of_its_views(set_params):
    set_params({"augment.vertical_flip": 1.0})
    restructure()
    params = read_params(paths.PARAMS)
    (row,) = choose_images(read_manifest(paths.MANIFEST), 1)
    example = draw_example(row, params.extract, Views(1, params.augment))
    pictures = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in example.uris]
    assert [picture.size for picture in pictures] == [(params.extract.image_size_px,) * 2] * 2
    image, view = (np.asarray(picture).astype(int) for picture in pictures)
    assert np.abs(image[::-1] - view).mean() < 3 < np.abs(image - view).mean()  # as far as JPEG keeps it


def test_images_are_of_all_classes_and_of_training_alone():
    restructure()
    manifest = read_manifest(paths.MANIFEST)
    chosen = choose_images(manifest, 6)
    assert [row.label for row in chosen] == ["a", "b", "c", "d", "a", "b"]
    assert len(choose_images(manifest, 100)) == sum(row.split == "training" for row in manifest)
    assert {row.split for row in choose_images(manifest, 100)} == {"training"}


def test_nothing_to_show_is_an_error():
    restructure()
    answer = CliRunner().invoke(cli.app, ["views"])
    assert isinstance(answer.exception, ParamsError)
    assert str(answer.exception).startswith("augment: wanted at least one option that is on, for 8 views")
    assert not paths.VIEWS_PAGE.exists()
