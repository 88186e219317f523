import numpy as np
import pytest

import relearn
from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import IntegrityError, ParamsError
from relearn.features.shards import write_features
from relearn.storage.files import write_folder


def test_one_split_and_all(features):
    rows = read_manifest(paths.MANIFEST)
    for split in ("training", "validation", "evaluation"):
        found = relearn.load_features(split)
        np.testing.assert_array_equal(found.features, features[split].features)
        assert found.labels.tolist() == features[split].labels
        assert found.sha256.tolist() == features[split].sha256
        assert found.paths.tolist() == [row.path for row in rows if row.split == split]
    everything = relearn.load_features()
    assert everything.paths.tolist() == [row.path for row in rows]
    np.testing.assert_array_equal(everything.features, np.concatenate([part.features for part in features.values()]))


def test_another_folder(features, workspace, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(relearn.load_features(folder=workspace / "data" / "features").labels) == 180


def test_a_wrong_split_is_an_error(features):
    with pytest.raises(
        ParamsError, match=r"split: wanted one of training, .*, got 'test'; evaluation is the test split"
    ):
        relearn.load_features("test")


def test_what_does_not_belong_together_is_an_error(features):
    text = paths.MANIFEST.read_text()
    paths.MANIFEST.write_text(text.replace("training,class 0", "training,class 1", 1))
    with pytest.raises(
        IntegrityError, match=r"data/features: wanted the images of data/manifest\.csv, got others; run"
    ):
        relearn.load_features("training")
    paths.MANIFEST.write_text(text)
    index = paths.FEATURES / "index.csv"
    index.write_text(index.read_text().replace("class 0", "class 1"))
    with pytest.raises(IntegrityError, match=r"index\.csv: wanted sha256 "):
        relearn.load_features()


def test_views_come_if_asked_for(features):
    manifest = read_manifest(paths.MANIFEST)
    rows = {row.sha256: number for number, row in enumerate(manifest)}
    record = {"network": "x", "n_features": 2, "feature_dtype": "float32"}

    def list_keys(row):
        return [row.sha256, row.sha256 + "1"] if row.split == "training" else [row.sha256]

    with write_folder(paths.FEATURES) as folder:
        write_features(folder, manifest, lambda key: np.array([rows[key[:64]], len(key) - 64], "f4"), record, list_keys)
    plain, both = relearn.load_features(), relearn.load_features(views=True)
    assert plain.features.tolist() == [[number, 0] for number in range(180)]
    assert plain.paths.tolist() == [row.path for row in manifest]
    assert (len(both.features), both.features[:, 1].sum()) == (240, 60)
    assert both.paths.tolist() == [manifest[int(number)].path for number, _ in both.features]
    assert both.labels.tolist() == [manifest[int(number)].label for number, _ in both.features]
    assert len(relearn.load_features("validation", views=True).labels) == 60
