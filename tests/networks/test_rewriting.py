"""Every network gives what keras' own model gives, whatever is rewritten in it for speed, and as ONNX.

Weights, statistics and constants are drawn, saved and loaded by path: at their start (a mean of 0, a variance of 1) a
layer that forgot them would not be noticed.
"""

import gc
import warnings

import numpy as np
import pytest

from conftest import RARE, ROOT, choose, mark_large
from exporting.networks import compute_exported
from relearn.networks.extractor import Extractor, _find_module
from relearn.networks.mini_vgg import MiniVGG
from relearn.params.networks import NETWORKS, ExtractParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file

pytestmark = pytest.mark.slow

BASE = read_params(ROOT / "params.yaml").extract.model_dump()
# Shifted so, most values pass each ReLU: deep networks of drawn weights amplify rounding a thousandfold otherwise.
RANGES = {"gamma": (0.3, 0.6), "beta": (0.5, 1.0), "moving_variance": (0.5, 1.5), "variance": (0.5, 1.5)}


def make_params(network, size, path=None, **changes):
    weights = {"weights": "random"} if path is None else {"weights": str(path), "weights_sha256": hash_file(path)}
    base = BASE | {"weights_sha256": None, "layer": None, "pooling": "flatten", "batch_size": 2, "precision": "float32"}
    return ExtractParams.model_validate(base | {"network": network, "image_size_px": size} | weights | changes)


def build_as_imagenet(network, size, monkeypatch):
    """Return what keras builds for weights="imagenet", all but the file's content, and how it wants its input."""
    import keras

    if network == "mini_vgg":
        return MiniVGG(input_shape=(size, size, 3)), _find_module(MiniVGG).preprocess_input
    application = getattr(keras.applications, NETWORKS[network])
    module = _find_module(application)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is not one for this size
        patch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: "weights.h5")
        patch.setattr(keras.Model, "load_weights", lambda *_, **__: None)
        model = application(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    return model, module.preprocess_input


def draw_weights(keras, model, images):
    """Draw every weight; statistics are those of the images, so that values keep their scale at any depth."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        for weight in layer._trainable_variables + layer._non_trainable_variables:
            if weight.name.endswith("kernel"):
                window = "depthwise" in weight.name or isinstance(layer, keras.layers.DepthwiseConv2D)
                fan_in = np.prod(weight.shape[:2] if window else weight.shape[:-1])
                weight.assign(rng.standard_normal(weight.shape, np.float32) * np.sqrt(2 / fan_in))
            elif weight.name == "count":
                weight.assign(7)
            else:
                weight.assign(rng.uniform(*RANGES.get(weight.name, (-0.2, 0.2)), weight.shape))
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        model(images, training=True)


def compute_beside_keras(network, size, folder, monkeypatch, **changes):
    """Return keras' features, ours and those of ONNX, keras' noise (all relative to the greatest), and our record."""
    import keras

    model, preprocess = build_as_imagenet(network, size, monkeypatch)
    pixels = np.random.default_rng(1).integers(0, 256, (16, size, size, 3)).astype(np.uint8)
    draw_weights(keras, model, preprocess(pixels.astype(np.float32)))
    path = folder / "drawn.weights.h5"
    model.save_weights(path)
    extractor = Extractor(make_params(network, size, path, **changes))
    path.unlink()
    if layer := changes.get("layer"):
        model = keras.Model(model.input, model.get_layer(layer).output)
    images = preprocess(pixels[:2].astype(np.float32))
    nearby = images * np.random.default_rng(2).choice(np.float32([1 - 1e-7, 1, 1 + 1e-7]), images.shape)
    wanted, moved = (np.asarray(model(batch, training=False)).reshape(2, -1) for batch in (images, nearby))
    got = np.asarray(extractor._model(images, training=False))
    exported = compute_exported(model, preprocess, pixels[:2])
    scale = np.abs(wanted).max()
    assert wanted.std() > 1e-3 * scale
    return wanted / scale, got / scale, exported / scale, np.abs(moved - wanted).max() / scale, extractor.record


@pytest.fixture(autouse=True)
def freed():
    import keras

    yield
    keras.backend.clear_session()
    gc.collect()


# With means of channels, scaled, with layers that normalize, and our own.
FEW = ("efficientnet_b0", "mini_vgg", "mobilenet_v2", "vgg16")


@pytest.mark.campaign
@pytest.mark.parametrize(
    "network",
    # Its parts are all in other networks, but a thousand of them take a minute.
    choose(FEW, [pytest.param(n, marks=RARE) if n == "nasnet_mobile" else n for n in mark_large(NETWORKS)]),
)
def test_every_network_gives_what_keras_gives(network, tmp_path, monkeypatch):
    size = 224 if network.startswith("vgg") else 75  # at which Winograd's convolutions gain
    wanted, got, exported, noise, _ = compute_beside_keras(network, size, tmp_path, monkeypatch)
    assert noise < 1e-4, "the weights drawn here amplify too much to show a difference"
    differences = [np.abs(features - wanted).max() for features in (got, exported)]
    print(f"| {network} | {differences[0]:.1e} | {differences[1]:.1e} | {noise:.1e} |")
    assert max(differences) <= 1e-4


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ("efficientnet_b0", "block3a_expand_activation"),
        ("mobilenet_v2", "block_6_expand_relu"),
        pytest.param("resnet50", "conv3_block2_out", marks=pytest.mark.long),
        ("vgg16", "block4_conv2"),
        pytest.param("convnext_tiny", "convnext_tiny_stage_1_block_1_identity", marks=pytest.mark.long),
    ],
)
def test_a_cut_network_gives_what_keras_gives(network, layer, tmp_path, monkeypatch):
    wanted, got, exported, _, _ = compute_beside_keras(network, 96, tmp_path, monkeypatch, layer=layer)
    assert np.abs(got - wanted).max() <= 1e-4
    assert np.abs(exported - wanted).max() <= 1e-4


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_constants_are_kept_and_recorded(precision, tmp_path, monkeypatch):
    *_, record = compute_beside_keras("efficientnet_b0", 64, tmp_path, monkeypatch, precision=precision)
    first, second, third = record.constants
    assert [constants["layer"] for constants in record.constants] == ["Rescaling", "Normalization", "Rescaling"]
    assert first["scale"] == pytest.approx(1 / 255, rel=0.01)
    assert 0.01 < max(np.abs(second["mean"])) < 0.25
    assert max(np.abs(np.subtract(second["variance"], 1))) > 0.1
    assert third["scale"] == pytest.approx([0.229**-0.5, 0.224**-0.5, 0.225**-0.5], rel=0.01)
