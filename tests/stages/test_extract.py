import itertools
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from conftest import VGG16, draw_image, encode_image
from relearn import paths
from relearn.dataset.manifest import ManifestRow, read_manifest, write_manifest
from relearn.errors import NetworkError, ParamsError, StoreError, UnfitFeature
from relearn.features import computation
from relearn.features.shards import read_features
from relearn.features.store import FeatureSet, FeatureStore
from relearn.images.decoding import decode_image
from relearn.networks import recipe
from relearn.networks.augmentation import augment_image
from relearn.networks.tuned import RECORD
from relearn.params.pipeline import read_params
from relearn.stages import extract
from relearn.storage.files import hash_bytes, hash_file, write_json


class Record(BaseModel):
    """Stands for the record of an extractor."""

    network: str
    batch_size: int
    n_features: int = 3
    n_parameters: int = 0
    precision: str = "float32"
    feature_dtype: str = "float32"
    weights: str = "random"
    network_sha256: str = "0" * 64


class Fake:
    """Stands for an extractor: an image's features are the sums of its channels."""

    n_built = n_computed = 0
    n_until_death = largest_batch = 10**6
    n_until_large = 0
    sha256 = "0" * 64

    def __init__(self, params):
        self.batch_size, self.n_features, self.dtype = params.batch_size, 3, np.dtype("<f4")
        self.record = Record(
            network=params.network, batch_size=params.batch_size, weights=params.weights, network_sha256=self.sha256
        )
        type(self).n_built += 1

    def read_image(self, content):
        return np.asarray(decode_image(content).rgb)

    def compute_batches(self, prepared):
        arriving = iter(prepared)
        while batch := list(itertools.islice(arriving, self.batch_size)):
            if self.batch_size > self.largest_batch and self.n_computed >= self.n_until_large:
                raise MemoryError(f"a batch of {self.batch_size} images")
            if self.n_computed + len(batch) > self.n_until_death:
                raise KeyboardInterrupt
            type(self).n_computed += len(batch)
            yield np.array([image.sum(axis=(0, 1)) for image in batch], "<f4")


@pytest.fixture
def fake(workspace, monkeypatch):
    """A class of its own for each test, in the place of the real one."""
    own = type("Own", (Fake,), {})
    monkeypatch.setattr(computation, "Extractor", own)
    return own


@pytest.fixture
def block(root):
    return read_params(root / "params.yaml").extract.model_copy(update=VGG16 | {"batch_size": 4})


@pytest.fixture
def brighter(root):
    return read_params(root / "params.yaml").augment.model_copy(update={"brightness": 0.9})


def write_set(n_images, n_copies=0):
    """Write a data set that passed the gate."""
    rows = []
    for number in range(n_images + n_copies):
        content = encode_image(draw_image(number % n_images))
        name = f"training/a/{number}.png"
        (paths.DATASET / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.DATASET / name).write_bytes(content)
        rows.append(ManifestRow(name, "training", "a", hash_bytes(content), len(content), 12, 10, "RGB", "PNG"))
    write_manifest(paths.MANIFEST, rows)
    write_json(paths.NETWORK / RECORD, {"tuned": False, "reason": "finetune.epochs is 0"})
    write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})


def read_results():
    return {path.name: path.read_bytes() for path in paths.FEATURES.iterdir()}


def test_features_are_those_of_their_images(fake, block):
    write_set(11)
    extract.run(block)
    part = read_features(paths.FEATURES, "training")
    for image, row in zip(read_manifest(paths.MANIFEST), part.features, strict=True):
        content = (paths.DATASET / image.path).read_bytes()
        assert (row == np.asarray(decode_image(content).rgb).sum(axis=(0, 1))).all()


def test_nothing_new_needs_no_network(fake, block, caplog):
    write_set(11)
    extract.run(block)
    results = read_results()
    with caplog.at_level("INFO"):
        extract.run(block)
    assert (fake.n_built, fake.n_computed) == (1, 11)
    assert "11 different images, 0 of them new to the store" in caplog.text
    assert read_results() == results


def test_one_image_more_is_one_image_through_the_network(fake, block):
    write_set(11)
    extract.run(block)
    write_set(12)
    extract.run(block)
    assert fake.n_computed == 12
    grown = read_results()
    shutil.rmtree(paths.find_cache())
    extract.run(block)
    assert read_results() == grown


def test_copies_are_computed_once(fake, block):
    write_set(5, n_copies=3)
    extract.run(block)
    assert fake.n_computed == 5
    assert len(read_features(paths.FEATURES, "training").labels) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"network": "vgg19"},
        {"layer": "x"},
        {"pooling": "avg"},
        {"image_size_px": 33},
        {"resize_filter": "box"},
        {"batch_size": 5},
        {"precision": "bfloat16"},
        {"feature_dtype": "float16"},
        {"jpeg_draft": True},
        {"seed": 1},
        {"weights": "imagenet"},
    ],
)
def test_another_recipe_and_back_again(fake, block, change):
    write_set(5)
    extract.run(block)
    results = read_results()
    extract.run(block.model_copy(update=change))
    assert fake.n_computed == 10
    extract.run(block)
    assert fake.n_computed == 10
    assert read_results() == results


@pytest.mark.parametrize("name", ["describe_hardware", "find_backend", "version"])
def test_another_machine_is_another_recipe(fake, block, monkeypatch, name):
    write_set(5)
    extract.run(block)
    monkeypatch.setattr(recipe, name, lambda *arguments: {"x": 1} if name == "describe_hardware" else ("x", "2"))
    extract.run(block)
    assert fake.n_computed == 10


def test_what_was_computed_before_a_death_is_kept(fake, block):
    write_set(23)
    extract.run(block)
    results = read_results()
    shutil.rmtree(paths.find_cache())
    fake.n_computed = 0
    for n_done in (8, 16, 20):
        fake.n_until_death = n_done + 2
        with pytest.raises(KeyboardInterrupt):
            extract.run(block)
        assert fake.n_computed == n_done
        assert read_results() == results  # the old ones stay until the new ones are whole
    fake.n_until_death = 10**6
    extract.run(block)
    assert fake.n_computed == 23
    assert read_results() == results


def test_damaged_features_are_computed_again_all_at_once(fake, block, caplog):
    write_set(23)
    extract.run(block)
    results = read_results()
    with sqlite3.connect(paths.find_feature_store()) as database:
        assert database.execute("UPDATE feature SET content = zeroblob(12) WHERE rowid % 2 = 0").rowcount == 11
    database.close()
    extract.run(block)
    assert (fake.n_built, fake.n_computed) == (2, 23 + 11)
    assert "damaged in the store; computed again" in caplog.text
    assert read_results() == results


def test_weights_that_changed_under_their_name_mix_no_features(fake, block, caplog):
    """As those of ImageNet may, where the file in the folder of keras is another."""
    write_set(5)
    extract.run(block)
    write_set(6)
    fake.sha256 = "1" * 64
    extract.run(block)
    assert fake.n_computed == 5 + 6
    assert "the weights random have changed; all images are computed again" in caplog.text
    assert json.loads((paths.FEATURES / "extractor.json").read_text())["network_sha256"] == "1" * 64


def test_record_names_the_weights_where_they_are_now(fake, block, workspace):
    write_set(5)
    for name in ("a.h5", "b.h5"):
        Path(name).write_bytes(b"weights")
        extract.run(block.model_copy(update={"weights": name, "weights_sha256": hash_bytes(b"weights")}))
        assert json.loads((paths.FEATURES / "extractor.json").read_text())["weights"] == name
    assert fake.n_computed == 5
    Path("b.h5").unlink()
    with pytest.raises(NetworkError, match=r"extract\.weights: b\.h5: no such file"):
        extract.run(block.model_copy(update={"weights": "b.h5", "weights_sha256": hash_bytes(b"weights")}))


def test_store_that_keeps_nothing_is_reported(fake, block, monkeypatch):
    write_set(3)
    monkeypatch.setattr(FeatureSet, "read", lambda *arguments: None)
    with pytest.raises(StoreError, match=r"features were lost 5 times, the last time in a new file"):
        extract.run(block)
    assert paths.find_feature_store().with_name(f"{paths.find_feature_store().name}.damaged").exists()


def test_store_with_random_bytes_in_it_heals(fake, block, caplog):
    write_set(23)
    extract.run(block)
    results = read_results()
    path = paths.find_feature_store()
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(content), 200)] = rng.integers(0, 256, 200)
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
        path.write_bytes(damaged.tobytes())
        extract.run(block)
        assert read_results() == results


def test_store_whose_index_hides_what_is_written_is_recreated(fake, block, monkeypatch, caplog):
    write_set(3)
    read = FeatureSet.read
    hidden = [True]
    monkeypatch.setattr(FeatureSet, "read", lambda *arguments: None if hidden else read(*arguments))
    set_aside = FeatureStore.set_aside

    def reveal(store, reason):
        set_aside(store, reason)
        hidden.clear()

    monkeypatch.setattr(FeatureStore, "set_aside", reveal)
    extract.run(block)
    assert "damaged (features were lost 4 times); moved to" in caplog.text
    assert len(read_results()) > 1


def test_batch_without_enough_memory_is_halved_and_that_is_remembered(fake, block, caplog):
    write_set(11)
    fake.largest_batch, fake.n_until_large = 2, 8
    extract.run(block)
    assert "too little memory for a batch of 4 images" in caplog.text
    assert json.loads((paths.FEATURES / "extractor.json").read_text())["batch_size"] == 2
    results = read_results()
    assert (fake.n_built, fake.n_computed) == (2, 8 + 11)
    with caplog.at_level("INFO"):
        extract.run(block)
    assert "extract.batch_size 4 was too large for memory, so it is 2; `relearn store prune " in caplog.text
    assert (fake.n_built, fake.n_computed) == (2, 8 + 11)
    assert read_results() == results


def test_no_memory_for_a_single_image(fake, block):
    write_set(3)
    fake.largest_batch = 0
    with pytest.raises(
        NetworkError, match=r"extract\.image_size_px: there is too little memory for a batch of 1 images"
    ):
        extract.run(block)
    assert fake.n_built == 3


def test_feature_that_cannot_be_kept_names_its_image(fake, block, monkeypatch):
    write_set(7)
    compute = fake.compute_batches

    def fail(self, prepared):
        batches = compute(self, prepared)
        yield next(batches)
        raise UnfitFeature("wanted finite features", row=1)

    monkeypatch.setattr(fake, "compute_batches", fail)
    path = paths.DATASET / read_manifest(paths.MANIFEST)[5].path
    with pytest.raises(NetworkError, match=f"^{path}: wanted finite features$"):
        extract.run(block)


def test_views_are_computed_once_and_of_training_alone(fake, block, brighter):
    write_set(6, n_copies=2)
    rows = read_manifest(paths.MANIFEST)
    rows[:2] = [row._replace(split=split) for row, split in zip(rows[:2], ("validation", "evaluation"), strict=True)]
    write_manifest(paths.MANIFEST, rows)
    write_json(paths.NETWORK / RECORD, {"tuned": False, "reason": "finetune.epochs is 0"})
    write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})
    extract.run(block, brighter)
    plain = read_results()
    extract.run(block.model_copy(update={"views": 2}), brighter)
    training = read_features(paths.FEATURES, "training")
    assert (training.n_views, len(training.labels)) == (2, 3 * 6)
    n_views = 2 * len(set(training.sha256))
    assert fake.n_computed == 6 + n_views
    for split in ("validation", "evaluation"):
        assert read_features(paths.FEATURES, split).n_views == 0
        assert (paths.FEATURES / f"{split}.npy").read_bytes() == plain[f"{split}.npy"]
    with_views = read_results()
    by_path = {row.sha256: row.path for row in rows}
    for number, sha256 in enumerate(training.sha256):
        image = decode_image((paths.DATASET / by_path[sha256]).read_bytes()).rgb
        view = augment_image(image, brighter, sha256, number % 3) if number % 3 else image
        assert (training.features[number] == np.asarray(view).sum(axis=(0, 1))).all()
    extract.run(block.model_copy(update={"views": 3}), brighter)
    assert fake.n_computed == 6 + n_views * 3 // 2
    extract.run(block.model_copy(update={"views": 2}), brighter)
    assert read_results() == with_views
    extract.run(block, brighter)
    assert read_results() == plain
    assert fake.n_computed == 6 + n_views * 3 // 2


def test_lost_views_are_computed_again(fake, block, brighter):
    write_set(5)
    extract.run(block.model_copy(update={"views": 1}), brighter)
    before = read_results()
    with FeatureStore(paths.find_feature_store()) as store:
        store._database.execute("UPDATE feature SET content = x'00' WHERE length(image) > 32")
    extract.run(block.model_copy(update={"views": 1}), brighter)
    assert (read_results(), fake.n_computed) == (before, 15)


def test_views_without_augmentation_are_an_error(fake, block, root):
    write_set(5)
    with pytest.raises(ParamsError, match=r"augment: wanted at least one option that is on, for 2 views"):
        extract.run(block.model_copy(update={"views": 2}), read_params(root / "params.yaml").augment)
