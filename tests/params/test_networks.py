import hashlib
from pathlib import Path

import pytest

from conftest import ROOT, read_params_error
from relearn.params.networks import BUNDLED_SHA256, BUNDLED_WEIGHTS, IMAGE_SIZES_PX, NETWORKS
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file


def read_extract():
    params = read_params(Path("params.yaml")).extract
    return params.weights, params.weights_sha256, params.layer, params.pooling, params.image_size_px


def test_the_name_of_a_network_is_enough(workspace, set_params):
    assert hash_file(ROOT / BUNDLED_WEIGHTS) == BUNDLED_SHA256
    assert read_extract() == (BUNDLED_WEIGHTS, BUNDLED_SHA256, "block2_pool", "flatten", 32)
    set_params({"extract.network": "mobilenet_v2"})
    assert read_extract() == ("imagenet", None, None, "avg", 224)
    set_params({"extract.network": "xception", "extract.layer": "block13_pool", "extract.pooling": "max"})
    assert read_extract() == ("imagenet", None, "block13_pool", "max", 299)
    set_params({"extract.network": "mini_vgg", "extract.layer": None, "extract.weights": "random"})
    assert read_extract() == ("random", None, None, "max", 32)


def test_sizes_are_of_networks():
    assert IMAGE_SIZES_PX.keys() <= NETWORKS.keys()


@pytest.mark.parametrize(("typed", "meant"), [("mobilnet", "mobilenet"), ("MobileNetV2", "mobilenet_v2")])
def test_a_typo_is_answered_with_what_may_be_meant(workspace, set_params, typed, meant):
    set_params({"extract.network": typed})
    error = read_params_error()
    assert error.startswith("params.yaml: 1 error\n  extract.network: wanted one of ")
    assert error.endswith(f"got '{typed}', did you mean {meant}?")


def test_the_error_that_asks_for_a_hash_has_it(workspace, set_params):
    Path("w.h5").write_bytes(b"weights")
    set_params({"extract.weights": "w.h5"})
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert f"got no hash of w.h5; if this file is the right one, add weights_sha256: {sha256}" in read_params_error()


def test_unknown_network_answers_with_the_list(workspace, set_params):
    set_params({"extract.network": "vgg"})
    assert "extract.network: wanted one of 'convnext_base'" in (error := read_params_error())
    assert "'vgg16', 'vgg19' or 'xception', got 'vgg'" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extract.weights": "w.h5", "extract.weights_sha256": None},
            "extract: wanted weights_sha256 beside the path w.h5, where no file is",
        ),
        (
            {"extract.weights": "random", "extract.weights_sha256": "0" * 64},
            "extract: wanted weights_sha256: null with weights: random",
        ),
        (
            {"extract.weights": "imagenet", "extract.weights_sha256": None},
            "extract: wanted weights: random or a path with mini_vgg, got imagenet, which the other networks",
        ),
        (
            {"extract.weights": "w.h5", "extract.weights_sha256": "abc"},
            "extract.weights_sha256: wanted 64 hexadecimal digits, got 'abc'",
        ),
        ({"extract.image_size_px": 32.5}, "extract.image_size_px: wanted a valid integer, got 32.5"),
        ({"extract.pooling": "mean"}, "extract.pooling: wanted one of 'flatten', 'avg' or 'max', got 'mean'"),
        ({"extract.views": -1}, "extract.views: wanted greater than or equal to 0, got -1"),
    ],
)
def test_values_that_cannot_be(workspace, set_params, changes, message):
    set_params(changes)
    assert message in read_params_error()
