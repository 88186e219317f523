import os
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT, VGG16, draw_image
from relearn.networks import winograd
from relearn.networks.extractor import Extractor
from relearn.networks.hardware import find_backend
from relearn.networks.weights import set_random_weights
from relearn.networks.winograd import (
    _multiply_by_a,
    _multiply_by_b,
    is_worthwhile,
    transform_convolutions,
    transform_kernel,
)
from relearn.params.networks import ExtractParams
from relearn.params.pipeline import read_params

BASE = read_params(ROOT / "params.yaml").extract.model_copy(update=VGG16)


def test_a_tile_is_that_of_the_sum_of_products():
    rng = np.random.default_rng(0)
    tile, kernel = rng.standard_normal((6, 6, 5)), rng.standard_normal((3, 3, 5, 2))
    rows = np.array(_multiply_by_b(list(tile)))  # B^T d; what follows is that times B
    transformed = np.array([_multiply_by_b(list(row)) for row in rows])
    products = np.einsum("abc,abck->abk", transformed, transform_kernel(kernel).reshape(6, 6, 5, 2))
    got = np.array([_multiply_by_a(list(row)) for row in np.array(_multiply_by_a(list(products)))])
    wanted = [[np.einsum("ijc,ijck->k", tile[y : y + 3, x : x + 3], kernel) for x in range(4)] for y in range(4)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)  # the kernel is float32


@pytest.mark.parametrize(
    ("size", "n_in", "n_out", "wanted"),
    [
        (224, 64, 64, False),
        (112, 128, 128, False),
        (56, 128, 256, True),
        (28, 512, 512, True),
        (14, 512, 512, True),
        (9, 1024, 1024, False),  # three tiles for two and a quarter
        (16, 256, 256, False),  # too little to compute
    ],
)
def test_what_gains(size, n_in, n_out, wanted):
    assert is_worthwhile(size, size, n_in, n_out) is wanted


@pytest.mark.slow
@pytest.mark.parametrize("size", [(9, 14), (12, 8), (3, 4)])
def test_a_convolution_is_the_same_at_any_size(size, monkeypatch):
    import keras

    monkeypatch.setattr(winograd, "is_worthwhile", lambda *_: True)
    layers = keras.layers
    inputs = layers.Input((*size, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2D(5, 3, padding="same", use_bias=False, name="second")(x)
    model = keras.Model(
        inputs,
        [
            layers.Conv2D(4, 3, padding="same", activation="swish", bias_initializer="ones", name="third")(x),
            layers.Conv2D(4, 3, padding="same", strides=2, name="strided")(x),
            layers.Conv2D(5, 3, padding="same", groups=5, name="grouped")(x),
            layers.Conv2D(4, 3, padding="same", dilation_rate=2, name="dilated")(x),
            layers.Conv2D(4, 5, padding="same", name="large")(x),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x),
        ],
    )
    transformed = transform_convolutions(keras, model)
    changed = {layer.name for layer in transformed.layers if type(layer).__name__ == "WinogradConv2D"}
    assert changed == {"first", "second", "third"}
    images = np.random.default_rng(0).uniform(-1, 1, (3, *size, 3)).astype(np.float32)
    for wanted, got in zip(model.predict_on_batch(images), transformed.predict_on_batch(images), strict=True):
        assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.slow
def test_a_network_without_such_a_convolution_stays_as_it_is():
    import keras

    model = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))
    assert transform_convolutions(keras, model) is model


def make_extractor(precision):
    changes = {"image_size_px": 224, "batch_size": 2, "pooling": "flatten", "layer": None, "precision": precision}
    return Extractor(ExtractParams.model_validate(BASE.model_dump() | changes))


def list_transformed(extractor):
    return [layer.name for layer in extractor._model.layers if type(layer).__name__ == "WinogradConv2D"]


def compute_features():
    """Return features of VGG16 with random weights; runs in a process of its own as well."""
    extractor = make_extractor("float32")
    assert len(list_transformed(extractor)) == (9 if winograd.is_supported("float32") else 0)
    return extractor, extractor.compute_features([np.asarray(draw_image(n, (224, 224))) for n in range(2)])


@pytest.mark.slow
@pytest.mark.skipif(find_backend()[0] != "tensorflow", reason="only where oneDNN convolves")
def test_features_of_vgg16_are_near_those_of_keras_on_any_number_of_threads():
    import keras

    extractor, features = compute_features()
    plain = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    set_random_weights(plain, extractor.record.seed)
    images = np.array([np.asarray(draw_image(n, (224, 224))) for n in range(2)], np.float32)
    wanted = plain.predict_on_batch(keras.applications.vgg16.preprocess_input(images)).reshape(2, -1)
    assert np.abs(features - wanted).max() < 2e-5 * np.abs(wanted).max()  # seen is 4e-6
    code = "import sys, test_winograd; sys.stdout.buffer.write(test_winograd.compute_features()[1].tobytes())"
    for n_threads in ("1", "5"):
        environment = os.environ | {"TF_NUM_INTRAOP_THREADS": n_threads, "TF_NUM_INTEROP_THREADS": n_threads}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "networks"), *sys.path])
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment).stdout
        assert printed == features.tobytes()


def test_processors_without_avx512_convolve_as_usual(monkeypatch):
    monkeypatch.setattr(winograd, "list_gpus", lambda: ())
    for instructions, wanted in ((("avx2", "avx512f"), True), (("avx2",), False), (("asimd",), False)):
        monkeypatch.setattr(winograd, "read_instructions", lambda found=instructions: found)
        assert winograd.is_supported("float32") is (wanted and find_backend()[0] == "tensorflow")
        assert not winograd.is_supported("bfloat16")


@pytest.mark.slow
def test_bfloat16_is_multiplied_as_usual():
    assert list_transformed(make_extractor("bfloat16")) == []
