import numpy as np
import pytest

from conftest import ROOT, draw_image
from relearn.networks.extractor import Extractor
from relearn.networks.mini_vgg import MiniVGG, preprocess_input
from relearn.params.networks import ExtractParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file, read_json

pytestmark = pytest.mark.slow

WEIGHTS = ROOT / "pretraining" / "mini_vgg.weights.h5"


def make_extractor(**changes):
    block = read_params(ROOT / "params.yaml").extract.model_dump() | {"batch_size": 4, "layer": None, "pooling": "avg"}
    weights = {"network": "mini_vgg", "weights": str(WEIGHTS), "weights_sha256": hash_file(WEIGHTS)}
    return Extractor(ExtractParams.model_validate(block | weights | changes))


def prepare(extractor, n_images=4):
    return [extractor.prepare_image(draw_image(seed, (40, 50))) for seed in range(n_images)]


def test_it_is_small_and_its_layers_have_names():
    network = MiniVGG()
    assert network.count_params() == 577_936 <= 600_000
    blocks = [[f"block{n}_conv1", f"block{n}_conv2", f"block{n}_pool"] for n in (1, 2, 3)]
    assert [layer.name for layer in network.layers] == ["input", *blocks[0], *blocks[1], *blocks[2]]
    assert network.output.shape == (None, 4, 4, 176)


def test_what_it_has_not_is_told():
    with pytest.raises(ValueError, match="Input size must be at least 8x8; got"):
        MiniVGG(input_shape=(32, 7, 3))
    with pytest.raises(ValueError, match="wanted weights None and include_top False, got imagenet and False"):
        MiniVGG(weights="imagenet")
    with pytest.raises(ValueError, match="got None and True"):
        MiniVGG(include_top=True)


def test_pixels_become_minus_one_to_one():
    assert preprocess_input(np.array([0, 127.5, 255], np.float32)).tolist() == [-1, 0, 1]
    pixels = np.array([0, 255], np.uint8)
    assert preprocess_input(pixels).tolist() == [-1, 1]
    assert pixels.tolist() == [0, 255]


def test_pretrained_weights_are_loaded_through_the_extractor():
    pretrained, random = make_extractor(), make_extractor(weights="random", weights_sha256=None)
    assert pretrained.record.network_sha256 != random.record.network_sha256
    assert pretrained.n_features == 176
    images = prepare(pretrained)
    network = MiniVGG()
    network.load_weights(WEIGHTS)
    maps = network.predict_on_batch(np.stack(images) / np.float32(127.5) - 1)
    np.testing.assert_allclose(pretrained.compute_features(images), maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "n_features"), [("input", 32 * 32 * 3), ("block1_conv1", 32 * 32 * 48), ("block3_pool", 4 * 4 * 176)]
)
def test_every_layer_can_be_the_features(layer, n_features):
    extractor = make_extractor(layer=layer, pooling="flatten")
    images = prepare(extractor, 2)
    features = extractor.compute_features(images)
    assert features.shape == (2, n_features)
    if layer == "input":
        np.testing.assert_allclose(features[0], images[0].ravel() / 127.5 - 1, atol=1e-6)


def test_committed_weights_are_those_of_params_and_of_the_model_card():
    params = read_params(ROOT / "params.yaml").extract
    assert (params.network, ROOT / params.weights, params.weights_sha256) == ("mini_vgg", WEIGHTS, hash_file(WEIGHTS))
    assert WEIGHTS.stat().st_size <= 1_500_000
    assert read_json(ROOT / "metrics" / "evaluation.json")["accuracy_score"] >= 0.985
    metrics = read_json(ROOT / "pretraining" / "metrics.json")
    card = (ROOT / "pretraining" / "README.md").read_text()
    assert metrics["accuracy_score"] >= 0.88
    for key in ("accuracy_score", "accuracy_score_ci95_low", "accuracy_score_ci95_high"):
        assert f"{metrics[key]:.4f}" in card
    assert hash_file(WEIGHTS) in card
