from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conftest import draw_image, encode_image, write_images
from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.errors import IntegrityError, LostFeatures, NetworkError, UnfitFeature
from relearn.features import computation
from relearn.features.computation import compute_missing, find_lost, make_reader, read_prepared
from relearn.features.store import FeatureStore, describe_store
from relearn.features.views import Input, Views
from relearn.images.decoding import decode_image
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_bytes


class Upright:
    """Stands for an extractor: the image as it is."""

    def read_image(self, content):
        return np.asarray(decode_image(content).rgb)


def test_image_is_checked_before_it_is_decoded(workspace):
    content = encode_image(draw_image(1))
    row = ManifestRow("training/a/1.png", "training", "a", hash_bytes(content), len(content), 12, 10, "RGB", "PNG")
    with pytest.raises(IntegrityError, match=r"training/a/1\.png: cannot be read: No such file or directory; run"):
        read_prepared(Upright(), row)
    write_images(paths.DATASET, [row.path], first_seed=2)
    with pytest.raises(IntegrityError, match=rf"1\.png: wanted sha256 {row.sha256} \(data/manifest\.csv\), got other"):
        read_prepared(Upright(), row)
    (paths.DATASET / row.path).write_bytes(content)
    assert np.array_equal(read_prepared(Upright(), row), draw_image(1))


def test_listed_file_that_is_no_image(workspace):
    Path(paths.DATASET).mkdir(parents=True)
    (paths.DATASET / "x").write_bytes(b"text")
    row = ManifestRow("x", "training", "a", hash_bytes(b"text"), 4, 1, 1, "L", "PNG")
    with pytest.raises(IntegrityError, match=r"x: not an image .*, though data/manifest\.csv lists it"):
        read_prepared(Upright(), row)


class SumOfChannels(Upright):
    """Stands for an extractor: an image's features are the sums of its channels."""

    batch_size = 2

    def __init__(self, n_until_unfit=10**6):
        self._n_until_unfit = n_until_unfit

    def compute_batches(self, prepared):
        images = list(prepared)
        for start in range(0, len(images), self.batch_size):
            if start + self.batch_size > self._n_until_unfit:
                raise UnfitFeature("wanted finite features", row=self._n_until_unfit - start)
            yield np.array([image.sum(axis=(0, 1)) for image in images[start : start + self.batch_size]], "<f4")


def write_rows(n_images):
    write_images(paths.DATASET, [f"training/a/{number}.png" for number in range(n_images)])
    rows = []
    for path in sorted(paths.DATASET.rglob("*.png")):
        content = path.read_bytes()
        name = str(path.relative_to(paths.DATASET))
        rows.append(ManifestRow(name, "training", "a", hash_bytes(content), len(content), 12, 10, "RGB", "PNG"))
    return rows


def test_features_are_added_in_order_and_lost_ones_are_found(workspace):
    rows = write_rows(5)
    with FeatureStore(Path("features.sqlite")) as store:
        feature_set = store.open_feature_set({"a": 1})
        assert list(compute_missing(SumOfChannels(), list(map(Input, rows)), feature_set)) == [
            row.sha256 for row in rows
        ]
        read = make_reader(feature_set, {"n_features": 3, "feature_dtype": "float32"})
        for row in rows:
            pixels = read_prepared(SumOfChannels(), row)
            assert (read(row.sha256) == pixels.sum(axis=(0, 1))).all()
        assert find_lost(read, [row.sha256 for row in rows]) == []
        feature_set.forget([rows[3].sha256])
        assert find_lost(read, [row.sha256 for row in rows]) == [rows[3].sha256]
        with pytest.raises(LostFeatures):
            make_reader(feature_set, {"n_features": 4, "feature_dtype": "float32"})(rows[0].sha256)


def test_error_about_a_feature_names_its_image(workspace):
    rows = write_rows(5)
    with FeatureStore(Path("features.sqlite")) as store:
        feature_set = store.open_feature_set({"a": 1})
        with pytest.raises(NetworkError, match=f"^{paths.DATASET / rows[3].path}: wanted finite features$"):
            list(compute_missing(SumOfChannels(3), list(map(Input, rows)), feature_set))
        assert feature_set.find_missing([row.sha256 for row in rows]) == [row.sha256 for row in rows[2:]]


def test_an_image_is_decoded_once_for_its_views_and_more_views_compute_only_the_new_ones(workspace, monkeypatch):
    rows, n_decoded, drawn = write_rows(5), Counter[str](), []
    flip = read_params(Path("params.yaml")).augment.model_copy(update={"horizontal_flip": 0.5, "brightness": 0.5})

    def read(extractor, row):
        n_decoded[row.path] += 1
        return read_prepared(extractor, row)

    def compute(feature_set, n_views):
        inputs = Views(n_views, flip).collect_inputs(rows)
        missing = [inputs[key] for key in feature_set.find_missing(inputs)]
        assert list(compute_missing(SumOfChannels(), missing, feature_set)) == [item.key for item in missing]
        drawn.append(len(missing))
        return inputs

    monkeypatch.setattr(computation, "read_prepared", read)
    with FeatureStore(Path("features.sqlite")) as store:
        feature_set = store.open_feature_set({"a": 1})
        compute(feature_set, 2)
        assert n_decoded == dict.fromkeys([row.path for row in rows], 1)
        inputs = compute(feature_set, 3)
        compute(feature_set, 1)
        assert drawn == [15, 5, 0]
        for key, item in inputs.items():
            pixels = item.draw(read_prepared(SumOfChannels(), item.row))
            assert (feature_set.read(key, np.dtype("<f4")) == pixels.sum(axis=(0, 1))).all()
        (summary,) = store.list_feature_sets()
        assert (summary.n_images, summary.n_views) == (5, 15)
    assert "5 images, 15 views, " in describe_store(Path("features.sqlite"))[1]
