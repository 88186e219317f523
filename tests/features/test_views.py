import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, draw_image
from relearn.dataset.manifest import ManifestRow
from relearn.errors import ParamsError
from relearn.features.views import Input, Views
from relearn.networks.augmentation import augment_image
from relearn.params.pipeline import read_params

OFF = read_params(ROOT / "params.yaml").augment
FLIP = OFF.model_copy(update={"horizontal_flip": 0.5})


def make_row(split, digit="1"):
    return ManifestRow(f"{split}/a/{digit}.png", split, "a", digit * 64, 1, 1, 1, "L", "PNG")


def test_only_training_images_have_views():
    rows = [make_row("training"), make_row("validation", "2"), make_row("evaluation", "3")]
    inputs = Views(2, FLIP).collect_inputs(rows)
    assert [(item.row.split, item.number) for item in inputs.values()] == [
        ("training", 0),
        ("training", 1),
        ("training", 2),
        ("validation", 0),
        ("evaluation", 0),
    ]
    assert all(item.key == key for key, item in inputs.items())
    assert list(Views().collect_inputs(rows)) == [row.sha256 for row in rows]


def test_copies_share_their_views():
    copy = make_row("training")._replace(path="training/a/copy.png")
    assert len(Views(3, FLIP).collect_inputs([make_row("training"), copy])) == 4


def test_key_names_image_number_and_parameters():
    row = make_row("training")
    other = FLIP.model_copy(update={"horizontal_flip": 0.4})
    keys = {Input(*which).key for which in ((row,), (row, 1, FLIP), (row, 2, FLIP), (row, 1, other))}
    assert len(keys) == 4
    assert all(key.startswith(row.sha256) for key in keys)
    assert Views(1, FLIP).list_keys(row) == Views(9, FLIP).list_keys(row)[:2]


def test_pixels_are_those_of_the_image_or_of_its_view():
    row, prepared = make_row("training"), np.asarray(draw_image(0))
    assert Input(row).draw(prepared) is prepared
    view = augment_image(Image.fromarray(prepared), FLIP, row.sha256, 3)
    assert np.array_equal(Input(row, 3, FLIP).draw(prepared), np.asarray(view))


@pytest.mark.parametrize("augment", [None, OFF, OFF.model_copy(update={"erased_area_max": 0.3, "seed": 1})])
def test_views_that_would_be_the_image_itself_are_an_error(augment):
    message = r"^augment: wanted at least one option that is on, for 4 views of each training image, got none; turn"
    with pytest.raises(ParamsError, match=message):
        Views(4, augment).check()
    Views(0, augment).check()
    Views(4, FLIP).check()
