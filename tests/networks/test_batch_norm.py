import numpy as np
import pytest

from conftest import ROOT, VGG16, draw_image
from relearn.networks.batch_norm import fuse_batch_norm
from relearn.networks.extractor import Extractor
from relearn.networks.mini_vgg import MiniVGG
from relearn.networks.weights import set_random_weights
from relearn.params.networks import NETWORKS, ExtractParams
from relearn.params.pipeline import read_params

pytestmark = pytest.mark.slow

BASE = read_params(ROOT / "params.yaml").extract.model_dump() | VGG16 | {"batch_size": 4}


def make_extractor(**changes):
    return Extractor(ExtractParams.model_validate(BASE | changes))


@pytest.mark.parametrize(
    ("network", "n_left"),
    [
        ("mobilenet_v2", 0),
        pytest.param("resnet50", 0, marks=pytest.mark.long),
        ("efficientnet_b0", 0),
        pytest.param("densenet121", None, marks=pytest.mark.long),
        ("xception", None),
        ("vgg16", 0),
    ],
)
def test_network_without_batch_norm_computes_the_same(network, n_left):
    import keras

    size = 75
    application = getattr(keras.applications, NETWORKS[network])
    model = application(weights=None, include_top=False, input_shape=(size, size, 3))
    set_random_weights(model, 0)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            low, high = (0.5, 1.5), (-0.2, 0.2)
            ranges = {"gamma": low, "beta": high, "moving_mean": high, "moving_variance": low}
            for weight in layer.weights:
                weight.assign(rng.uniform(*ranges[weight.name], weight.shape))
    fused = fuse_batch_norm(keras, model)
    left = [layer.name for layer in fused.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(left) == n_left if n_left is not None else len(left) < len(before)
    images = rng.uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    wanted, got = model.predict_on_batch(images), fused.predict_on_batch(images)
    assert np.abs(wanted).max() > 1e-6
    assert np.abs(got - wanted).max() < 1e-3 * np.abs(wanted).max()  # seen is 2e-4, after 50 layers


def test_layer_before_batch_norm_stays_as_it_is():
    extractor = make_extractor(network="mobilenet_v2", layer="Conv1", pooling="avg", image_size_px=64)
    assert not any("bn" in layer.name.lower() for layer in extractor._model.layers)
    after = make_extractor(network="mobilenet_v2", layer="bn_Conv1", pooling="avg", image_size_px=64)
    images = [extractor.prepare_image(draw_image(seed, (50, 40))) for seed in range(2)]
    # At random weights the mean is 0 and the variance 1.
    assert np.allclose(after.compute_features(images) * np.sqrt(1.001), extractor.compute_features(images), rtol=1e-4)
    assert after.record.n_parameters > extractor.record.n_parameters


def test_batch_norm_is_fused_into_the_kept_weights():
    import keras

    trained, kept = MiniVGG(batch_norm=True), MiniVGG()
    rng = np.random.default_rng(0)
    for weight in trained.weights:  # as they may be after training
        weight.assign(np.asarray(weight) + 0.1 * np.abs(rng.standard_normal(weight.shape)))
    fused = fuse_batch_norm(keras, trained)
    for layer in kept.layers:
        layer.set_weights(fused.get_layer(layer.name).get_weights())
    images = rng.uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(kept.predict_on_batch(images), trained.predict_on_batch(images), rtol=1e-4)
