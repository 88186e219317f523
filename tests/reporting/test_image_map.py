import base64
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from conftest import write_images
from relearn import paths
from relearn.reporting import image_map
from relearn.reporting.image_map import SPAN, draw_sprite, map_images


def make_features(n_images, n_features=20):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n_images, n_features)) * np.linspace(5, 1, n_features)).astype(np.float32)


def test_points_are_the_principal_components():
    features = make_features(300)
    found = map_images([features[:100], features[100:]], 300)
    exact = PCA(2, svd_solver="full").fit(features.astype(np.float64))
    expected = exact.transform(features)
    expected -= expected.min(axis=0)
    expected *= SPAN / expected.max()
    assert np.abs(found.points - expected).max() <= 1  # they are whole numbers
    assert found.points.max() == SPAN
    assert found.points.min() == 0
    assert found.share == pytest.approx(exact.explained_variance_ratio_.sum(), abs=1e-4)
    assert found.rows.tolist() == list(range(300))


def test_of_many_images_some_are_taken_evenly(monkeypatch):
    monkeypatch.setattr(image_map, "MAX_POINTS", 11)
    found = map_images([make_features(101)], 101)
    assert found.rows.tolist() == list(range(0, 101, 10))
    monkeypatch.setattr(image_map, "MAX_BYTES", 5 * 20 * 8)
    assert map_images([make_features(101)], 101).rows.tolist() == [0, 25, 50, 75, 100]


@pytest.mark.parametrize("features", [np.ones((3, 4), np.float32), np.ones((1, 4), np.float32), np.ones((3, 1))])
def test_what_cannot_be_placed(features):
    assert map_images([features], len(features)) is None


def test_sprite_has_each_image_in_its_place(workspace):
    write_images(paths.DATASET, ["evaluation/a/0.png", "evaluation/a/1.png"])
    sprite = draw_sprite(["evaluation/a/0.png", "evaluation/gone.png", "evaluation/a/1.png"])
    assert (sprite.side_px, sprite.n_columns) == (48, 2)
    sheet = Image.open(io.BytesIO(base64.b64decode(sprite.uri.partition(",")[2])))
    assert sheet.size == (96, 96)
    pixels = np.asarray(sheet)
    for place, path in (((0, 0), "0.png"), ((48, 0), "1.png")):
        image = Image.open(paths.DATASET / "evaluation/a" / path).convert("RGB").resize((48, 48))
        shown = pixels[place[0] : place[0] + 48, place[1] : place[1] + 48].astype(int)
        assert np.abs(shown - np.asarray(image)).mean() < 12
    assert pixels[:48, 48:].std() < 5  # gray
    assert draw_sprite([f"{n}" for n in range(5000)]).side_px == 20
