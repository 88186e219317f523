"""A small world with a classifier in it."""

import os
import shutil
from pathlib import Path

import pytest

from conftest import ROOT, VGG16, read_yaml, write_images
from relearn import paths
from relearn.features.shards import hash_features
from relearn.params.pipeline import Params
from relearn.stages import evaluate, extract, finetune, restructure, train
from relearn.storage.files import hash_file, write_json


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder where every stage but the gates has run over 26 small images of cats and dogs."""
    folder = tmp_path_factory.mktemp("trained")
    content = read_yaml(ROOT / "params.yaml")
    content["restructure"] |= {"source": "images", "layout": "split_class_folders"}
    content["extract"] |= VGG16 | {"batch_size": 8, "image_size_px": 32}
    content["train"]["logistic_regression"] |= {"C": 0.01}
    content["evaluate"] |= {"n_resamples": 100}
    params = Params.model_validate(content)
    for number, (split, count) in enumerate({"training": 7, "validation": 3, "evaluation": 3}.items()):
        names = [f"{split}/{label}/{n}.png" for label in ("cat", "dog") for n in range(count)]
        write_images(folder / "images", names, 100 * number)
    (folder / paths.MANIFEST.parent).mkdir()
    shutil.copy(ROOT / params.restructure.corrections, folder / params.restructure.corrections)
    before = Path.cwd()
    os.chdir(folder)
    try:
        restructure.run(params.restructure)
        write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})
        finetune.run(params.finetune, params.augment, params.extract)
        extract.run(params.extract)
        write_json(paths.VERIFICATION_REPORT, {"passed": True, **hash_features(paths.FEATURES)})
        train.run(params.train)
        evaluate.run(params.evaluate, params.train)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
