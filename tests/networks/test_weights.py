import numpy as np
import pytest

from conftest import RARE, ROOT, VGG16, draw_image
from relearn.errors import NetworkError
from relearn.networks.extractor import Extractor
from relearn.networks.weights import check_weights_file, hash_network, set_random_weights
from relearn.params.networks import ExtractParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file

pytestmark = pytest.mark.slow

BASE = read_params(ROOT / "params.yaml").extract.model_dump() | VGG16 | {"layer": None, "batch_size": 4}


def make_extractor(**changes):
    return Extractor(ExtractParams.model_validate(BASE | changes))


def prepare(extractor, n_images):
    return [extractor.prepare_image(draw_image(seed, (50, 40))) for seed in range(n_images)]


@pytest.mark.parametrize("network", ["vgg16", "mobilenet_v2", pytest.param("densenet121", marks=RARE)])
def test_random_weights_are_seeded_and_keep_the_scale(network):
    first, same, other = (make_extractor(network=network, pooling="avg", seed=seed) for seed in (1, 1, 2))
    assert first.record.network_sha256 == same.record.network_sha256 != other.record.network_sha256
    features = np.array(list(first.compute_rows(prepare(first, 4))))
    assert 1e-3 < features.std() < 1e4
    assert (features.std(axis=0) > 0).mean() > 0.3


def test_he_normal_counts_what_is_summed():
    import keras

    network = keras.Sequential(
        [
            keras.layers.Input((8, 8, 32)),
            keras.layers.DepthwiseConv2D(3, depth_multiplier=16, name="depthwise"),
            keras.layers.Conv2D(64, 3, name="full"),
            keras.layers.SeparableConv2D(256, 3, depth_multiplier=4, name="separable"),
        ]
    )
    set_random_weights(network, 0)
    deviations = {
        f"{layer.name}/{weight.name}": float(np.std(weight)) for layer in network.layers for weight in layer.weights
    }
    assert deviations["depthwise/kernel"] == pytest.approx(np.sqrt(2 / 9), rel=0.05)
    assert deviations["full/kernel"] == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.05)
    assert deviations["separable/depthwise_kernel"] == pytest.approx(np.sqrt(2 / 9), rel=0.05)
    assert deviations["separable/pointwise_kernel"] == pytest.approx(np.sqrt(2 / 256), rel=0.05)
    assert deviations["full/bias"] == 0


def test_weights_file_is_checked_before_it_is_parsed(tmp_path):
    path = tmp_path / "weights.h5"
    with pytest.raises(NetworkError, match=r"weights\.h5: no such file; put the weights there"):
        check_weights_file(path, "0" * 64)
    path.write_bytes(b"not even HDF5")
    with pytest.raises(NetworkError, match=r"wanted sha256 0{64} \(extract\.weights_sha256\), got [0-9a-f]{64}; fetch"):
        make_extractor(weights=str(path), weights_sha256="0" * 64)
    with pytest.raises(NetworkError, match=r"weights\.h5: wanted a Keras weights file \(HDF5\)"):
        make_extractor(weights=str(path), weights_sha256=hash_file(path))


def test_weights_that_are_no_keras_archive_are_told(tmp_path):
    path = tmp_path / "weights.keras"
    path.write_bytes(b"not even a zip")
    with pytest.raises(NetworkError, match=r"weights\.keras"):
        make_extractor(weights=str(path), weights_sha256=hash_file(path))


def test_weights_of_another_network_are_told(tmp_path):
    import keras

    path = tmp_path / "vgg19.weights.h5"
    keras.applications.VGG19(weights=None, include_top=False, input_shape=(32, 32, 3)).save_weights(path)
    with pytest.raises(NetworkError, match=r"does not hold the weights of vgg16 without its top"):
        make_extractor(weights=str(path), weights_sha256=hash_file(path))


def test_weights_from_a_path_are_those_that_were_saved(tmp_path):
    import keras

    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    set_random_weights(network, 5)
    path = tmp_path / "vgg16.weights.h5"
    network.save_weights(path)
    loaded = make_extractor(weights=str(path), weights_sha256=hash_file(path))
    assert loaded.record.network_sha256 == make_extractor(seed=5).record.network_sha256


def test_network_hash_is_of_layers_settings_and_weights():
    import keras

    def build(scale=1.0, epsilon=1e-3, name="b", join=keras.layers.Add, added=3.0, top=None):
        inputs = keras.Input((8, 8, 3))
        values = keras.layers.Rescaling(scale)(inputs)
        values = keras.layers.Conv2D(4, 3, kernel_initializer="ones", name=name, padding="same")(values)
        normal = keras.layers.BatchNormalization(epsilon=epsilon)(values)
        if top is not None:
            normal = keras.layers.ReLU(max_value=top)(normal)
        return keras.Model(inputs, join()([values, normal]) + added)

    first = hash_network(build())
    assert first == hash_network(build(name="c"))
    assert first == hash_network(keras.models.clone_model(build()))
    others = [build(scale=2.0), build(epsilon=1e-5), build(join=keras.layers.Multiply), build(added=4.0)]
    others += [build(scale=np.array([1.0, 2.0, 3.0])), build(top=0), build(top=6)]
    hashes = {first, *map(hash_network, others)}
    others[0].layers[2].kernel.assign(np.zeros((3, 3, 3, 4)))
    assert len(hashes | {hash_network(others[0])}) == 9


def test_network_hash_is_the_same_in_either_precision():
    first, second = (
        make_extractor(network="efficientnet_b0", image_size_px=64, precision=p) for p in ("float32", "bfloat16")
    )
    assert first.record.network_sha256 == second.record.network_sha256
