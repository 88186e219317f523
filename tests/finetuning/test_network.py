"""A network in two parts, with a head of its own, learns what it should and nothing else."""

import numpy as np
import pytest

from relearn.errors import NetworkError
from relearn.features.computation import read_prepared
from relearn.finetuning.exact_head import Labeled, fold_standardization, search_exact_head
from relearn.finetuning.network import TunableNetwork
from relearn.networks.extractor import Extractor, build_network
from relearn.runtime.backend import use_keras
from relearn.storage.files import hash_file

pytestmark = pytest.mark.slow


def compute_features(network, images):
    return np.concatenate([network.compute_features(part) for part in network.compute_crossing(images)])


@pytest.fixture
def data(stripes):
    training = [row for row in stripes if row.split == "training"]
    validation = [row for row in stripes if row.split == "validation"]
    classes = sorted({row.label for row in stripes})
    labels = [np.array([classes.index(row.label) for row in rows]) for rows in (training, validation)]
    return training, validation, *labels


@pytest.mark.parametrize("name", ["mini_vgg", "mobilenet_v2"])
def test_before_the_first_step_it_answers_as_the_exact_head(name, data, make):
    """Its features are those of `extract`, and its own head gives what the exact head gives."""
    from scipy.special import softmax

    training, validation, training_labels, validation_labels = data
    extractor = Extractor(make.extract(name))
    network = make.network(name)
    images = [[read_prepared(network, row) for row in rows] for rows in (training, validation)]
    wanted = [np.stack(list(extractor.compute_rows(part))) for part in images]
    head = search_exact_head(Labeled(wanted[0], training_labels), Labeled(wanted[1], validation_labels), 3)
    network.set_head(*fold_standardization(head.fitted))
    found = network.compute_logits(compute_features(network, images[1]))
    scores = head.fitted.compute_scores(wanted[1])
    assert np.abs(softmax(found, axis=1) - softmax(scores, axis=1)).max() < 1e-4
    assert np.array_equal(found.argmax(axis=1), scores.argmax(axis=1))


def take_steps(network, images, labels, n_steps=3):
    crossing = next(network.compute_crossing(images))
    return [network.train_batch([part[:8] for part in crossing], labels[:8], 1.0).loss for _ in range(n_steps)]


def test_a_step_moves_what_learns_by_its_own_rate(data, make):
    """The first step of Adam is the rate itself, for each weight whose gradient is not about 0."""
    network = make.network("mini_vgg", layer_decay=0.5, weight_decay=0.0, from_layer="block2_conv1")
    images = [read_prepared(network, row) for row in data[0]]
    before = network.read_weights()
    names = [weight.path for weight in network._model.trainable_weights]
    held = [np.array(weight) for weight in network._lower.weights]
    take_steps(network, images, data[2], 1)
    moved = {
        name: np.abs(new - old).max() for name, old, new in zip(names, before, network.read_weights(), strict=True)
    }
    assert moved["block3_conv2/kernel"] == pytest.approx(1e-3, rel=0.01)
    assert moved["block3_conv1/kernel"] == pytest.approx(1e-3, rel=0.01)
    assert moved["block2_conv1/kernel"] == pytest.approx(0.5e-3, rel=0.01)
    assert all(np.array_equal(old, new) for old, new in zip(held, network._lower.weights, strict=True))


def test_kernels_decay_by_their_rate_and_nothing_else_does(data, make):
    network = make.network("mini_vgg", weight_decay=0.5, learning_rate=1e-2, head_learning_rate=1e-2)
    plain = make.network("mini_vgg", weight_decay=0.0, learning_rate=1e-2, head_learning_rate=1e-2)
    before = network.read_weights()
    images = [read_prepared(network, row) for row in data[0]]
    for each in (network, plain):
        take_steps(each, images, data[2], 1)
    for old, new, without in zip(before, network.read_weights(), plain.read_weights(), strict=True):
        wanted = old * -0.5e-2 if old.ndim > 1 else 0 * old
        assert new - without == pytest.approx(wanted, abs=1e-6)


def test_statistics_of_batch_norm_stay(data, make):
    network = make.network("mobilenet_v2")
    norms = [layer for layer in network._upper.layers if type(layer).__name__ == "BatchNormalization"]
    rng = np.random.default_rng(0)
    for layer in norms:
        layer.moving_mean.assign(rng.normal(0, 0.2, layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    before = [np.array(weight) for layer in norms for weight in layer.weights]
    images = [read_prepared(network, row) for row in data[0]]
    losses = take_steps(network, images, data[2])
    assert losses[0] != losses[1] != losses[2]
    after = [weight for layer in norms for weight in layer.weights]
    assert len(norms) > 10
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_short_batch_counts_its_images_alone(data, make):
    network = make.network("mini_vgg")
    images = [read_prepared(network, row) for row in data[0]][:3]
    (crossing,) = network.compute_crossing(images)
    network.set_head(np.random.default_rng(0).normal(size=(176, 3)), np.zeros(3))
    logits = network.compute_logits(network.compute_features(crossing))
    wanted = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), data[2][:3]])
    assert network.train_batch(crossing, data[2][:3], 1e-6).loss == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["mini_vgg", pytest.param("mobilenet_v2", marks=pytest.mark.long)])
def test_a_state_put_back_goes_on_with_the_same_bits(name, data, make, tmp_path):
    """In a network that is built a second time; the weights that it saves are those that keras and `extract` load."""
    networks = [make.network(name) for _ in range(2)]
    images = [read_prepared(networks[0], row) for row in data[0]]
    before = compute_features(networks[0], images)
    take_steps(networks[0], images, data[2])
    networks[1].write_state(networks[0].read_state())
    paths = [tmp_path / f"{number}.weights.h5" for number in range(2)]
    for network, path in zip(networks, paths, strict=True):
        take_steps(network, images, data[2])
        network.save_weights(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()

    params = make.extract(name, weights=str(paths[0]), weights_sha256=hash_file(paths[0]))
    extractor = Extractor(params)
    wanted = compute_features(networks[0], images)
    found = np.stack(list(extractor.compute_rows(images)))
    largest = float(np.abs(wanted).max())
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5 * largest)
    assert np.abs(before - wanted).max() > 0.05 * largest
    with use_keras("float32") as keras:
        loaded = build_network(keras, make.extract(name))
    loaded.load_weights(paths[0])
    assert all(map(np.array_equal, loaded.get_weights(), networks[0]._whole.get_weights()))


@pytest.mark.parametrize("name", ["mini_vgg", "mobilenet_v2"])
def test_with_bfloat16_loss_and_head_stay_float32(name, data, make):
    losses = []
    for precision in ("float32", "bfloat16"):
        network = TunableNetwork(make.extract(name, precision=precision), make.finetune(), 3)
        images = [read_prepared(network, row) for row in data[0]]
        features = compute_features(network, images)
        weights = np.random.default_rng(0).normal(
            0, 1 / np.linalg.norm(features, axis=1).mean(), (features.shape[1], 3)
        )
        network.set_head(weights, np.zeros(3))
        losses.append(take_steps(network, images, data[2], 2))
    assert {layer.compute_dtype for layer in network._upper.layers if layer.weights} == {"bfloat16"}
    assert network._head.compute_dtype == network._model.loss.dtype == "float32"
    assert {weight.dtype for weight in network.read_weights()} == {np.dtype("float32")}
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert losses[0][0] != losses[0][1]


def test_a_layer_after_which_nothing_learns_is_an_error(make):
    with pytest.raises(NetworkError, match=r"finetune.from_layer: wanted a layer .*, got block3_pool, after which"):
        make.network("mini_vgg", from_layer="block3_pool")
