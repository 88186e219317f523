"""The stage `finetune`, and what comes after it with a tuned network."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import VGG16, write_images
from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import IntegrityError
from relearn.features.shards import hash_features, read_features
from relearn.finetuning.progress import Epoch
from relearn.networks.tuned import RECORD, choose_weights
from relearn.params.pipeline import read_params
from relearn.stages import extract, finetune, restructure, train
from relearn.storage.files import hash_file, read_csv, read_json, write_json

TUNED = paths.NETWORK / paths.TUNED_WEIGHTS


@pytest.fixture
def blocks(workspace, set_params):
    set_params(
        {f"extract.{key}": value for key, value in VGG16.items()}
        | {"restructure.source": "images", "restructure.layout": "split_class_folders", "extract.batch_size": 8}
        | {"extract.image_size_px": 32}
        | {"finetune.epochs": 2, "finetune.from_layer": "block2_conv1", "finetune.keep": "always"}
        | {"augment.horizontal_flip": 0.5, "train.logistic_regression.C": 0.01}
    )
    return read_params(Path("params.yaml"))


def write_world(params):
    for number, (split, count) in enumerate({"training": 7, "validation": 3, "evaluation": 3}.items()):
        names = [f"{split}/{label}/{n}.png" for label in ("cat", "dog") for n in range(count)]
        write_images(Path("images"), names, 100 * number)
    restructure.run(params.restructure)
    write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})


def run(params, **changes):
    finetune.run(params.finetune.model_copy(update=changes), params.augment, params.extract)


def test_nothing_is_trained_by_default(workspace):
    params = read_params(Path("params.yaml"))
    assert params.finetune.epochs == 0
    run(params)
    assert read_json(paths.NETWORK / RECORD) == {"tuned": False, "reason": "finetune.epochs is 0"}
    assert [path.name for path in paths.NETWORK.iterdir()] == [RECORD]
    assert read_json(paths.FINETUNING_METRICS) == {"n_epochs": 0}
    assert read_csv(paths.FINETUNING_CURVE, Epoch._fields) == []
    assert choose_weights(params.extract, paths.NETWORK) == params.extract


def test_tuned_weights_take_the_place_of_others(workspace):
    params = read_params(Path("params.yaml")).extract
    with pytest.raises(IntegrityError, match=r"models/network/network\.json: no such file; run `dvc repro`"):
        choose_weights(params, paths.NETWORK)
    write_json(paths.NETWORK / RECORD, {"tuned": True, "reason": "", "weights_sha256": "1" * 64, "more": 1})
    chosen = choose_weights(params, paths.NETWORK)
    assert (chosen.weights, chosen.weights_sha256) == (str(TUNED), "1" * 64)
    assert chosen.model_copy(update={"weights": params.weights, "weights_sha256": params.weights_sha256}) == params
    write_json(paths.NETWORK / RECORD, {"tuned": True, "reason": ""})
    with pytest.raises(IntegrityError, match="wanted the key weights_sha256, got none; run `dvc repro finetune`"):
        choose_weights(params, paths.NETWORK)


@pytest.mark.slow
def test_a_classifier_takes_its_tuned_network_along(blocks, tmp_path):
    from relearn import load

    write_world(blocks)
    run(blocks, epochs=0)
    extract.run(blocks.extract)
    plain = read_features(paths.FEATURES, "training").features
    assert not (paths.FEATURES / paths.TUNED_WEIGHTS).exists()

    run(blocks)
    record = read_json(paths.NETWORK / RECORD)
    assert record["tuned"] is True
    assert record["weights_sha256"] == hash_file(TUNED)
    assert record["first_layer"] == "block2_conv1"
    assert (record["batch_size"], record["deterministic"]) == (blocks.finetune.batch_size, True)
    assert len(read_csv(paths.FINETUNING_CURVE, Epoch._fields)) == 2
    assert [path for path in (paths.find_cache() / "finetune").iterdir() if path.is_dir()] == []
    extract.run(blocks.extract)
    tuned = read_features(paths.FEATURES, "training").features
    assert np.abs(tuned - plain).max() > 1e-3
    extractor = read_json(paths.FEATURES / "extractor.json")
    assert (extractor["weights"], extractor["weights_sha256"]) == (str(TUNED), record["weights_sha256"])

    write_json(paths.VERIFICATION_REPORT, {"passed": True, **hash_features(paths.FEATURES)})
    train.run(blocks.train)
    shutil.rmtree(paths.NETWORK)
    shutil.move(paths.CLASSIFIER, tmp_path / "elsewhere")
    images = [paths.DATASET / row.path for row in read_manifest(paths.MANIFEST) if row.split == "training"]
    assert np.array_equal(load(tmp_path / "elsewhere").features(images), tuned)


@pytest.mark.slow
def test_a_network_that_is_no_better_is_not_kept(blocks):
    """Six validation images of noise show nothing."""
    write_world(blocks)
    run(blocks, keep="if_better", epochs=1)
    record = read_json(paths.NETWORK / RECORD)
    assert record["tuned"] is False
    assert record["reason"].startswith("fine-tuning did not pay: ")
    assert not TUNED.exists()
    assert read_json(paths.FINETUNING_METRICS)["tuned"] is False
