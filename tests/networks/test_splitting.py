"""A network in two parts computes what the whole does; every network has its last block."""

import gc

import numpy as np
import pytest

from conftest import RARE, choose, mark_large
from relearn.errors import NetworkError
from relearn.networks.splitting import (
    choose_first_layer,
    count_blocks_above,
    find_last_block,
    hold_batch_norm,
    split_network,
)
from relearn.params.networks import NETWORKS

pytestmark = pytest.mark.slow

# A chain, inverted residuals, residuals with projections, squeeze and excitation, dense connections, our own.
FEW = ("vgg16", "mobilenet_v2", "resnet50", "efficientnet_b0", "densenet121", "mini_vgg")


@pytest.fixture(autouse=True)
def freed():
    import keras

    yield
    keras.backend.clear_session()
    gc.collect()


def build(network, size=96):
    import keras

    from relearn.networks.mini_vgg import MiniVGG

    keras.config.set_dtype_policy("float32")
    application = MiniVGG if network == "mini_vgg" else getattr(keras.applications, NETWORKS[network])
    base = application(weights=None, include_top=False, input_shape=(size, size, 3))
    return keras, keras.Model(base.input, keras.layers.GlobalAveragePooling2D()(base.output))


def run(model, values):
    computed = model.predict_on_batch(values)
    return [np.asarray(part) for part in (computed if isinstance(computed, list) else [computed])]


# In the middle of a block other values than the layer's own cross the cut: those of residual connections.
# And how many values that are.
MIDDLES = {
    "mobilenet_v2": ("block_15_project", 2),
    "resnet50": ("conv5_block2_2_conv", 2),
    "efficientnet_b0": ("block6b_se_reduce", 3),
    "densenet121": ("conv5_block9_2_conv", 2),
    "vgg16": ("block1_conv1", 1),
    "mini_vgg": ("block2_conv2", 1),
}


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=RARE) if name in ("densenet121", "efficientnet_b0") else name for name in FEW]
)
def test_the_parts_give_the_bits_of_the_whole(network):
    keras, model = build(network, 64)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    (wanted,) = run(model, images)
    middle, n_crossing = MIDDLES[network]
    for first, n_wanted in ((find_last_block(network), 1), (middle, n_crossing)):
        lower, upper = split_network(keras, model, choose_first_layer(model, network, first))
        crossing = run(lower, images)
        assert len(crossing) == n_wanted
        (got,) = run(upper, crossing)
        assert got.tobytes() == wanted.tobytes()
        assert first in [layer.name for layer in upper.layers]
        assert not {id(w) for w in lower.weights} & {id(w) for w in upper.weights}
        assert len(lower.weights) + len(upper.weights) == len(model.weights)


@pytest.mark.campaign
@pytest.mark.parametrize("network", choose(FEW, mark_large(NETWORKS)))
def test_every_network_has_its_last_block(network):
    keras, model = build(network)
    lower, upper = split_network(keras, model, choose_first_layer(model, network, None))
    n_blocks = count_blocks_above(upper)
    assert min(n_blocks.values()) == 0
    assert len(n_blocks) == len(upper.trainable_weights)
    hold_batch_norm(keras, upper)
    assert upper.trainable_weights
    # All that see the image at the last resolution, and at most the few layers that halve it to this.
    size = model.layers[-2].output.shape[1]
    coarse = [
        layer.name
        for layer in lower.layers[1:]
        if len(layer.output.shape) == 4 and 1 < layer.output.shape[1] <= size and layer.output.shape[-1] > 1
    ]
    assert len(coarse) <= (35 if network.startswith("nasnet") else 12)  # a whole reduction cell


def test_blocks_are_counted_from_the_top():
    keras, model = build("mobilenet_v2", 64)
    _, upper = split_network(keras, model, "block_13_expand")
    counts = {path.rsplit("/", 1)[0]: count for path, count in count_blocks_above(upper).items()}
    assert counts["Conv_1"] == counts["block_16_project"] == 0
    assert counts["block_14_expand"] == 2
    assert counts["block_13_depthwise_BN"] == counts["block_13_expand"] == 3


def test_batch_norm_is_held_while_the_rest_learns():
    keras, model = build("mobilenet_v2", 64)
    lower, upper = split_network(keras, model, "block_16_expand")
    rng = np.random.default_rng(0)
    norms = [layer for layer in upper.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    hold_batch_norm(keras, upper)
    before = [np.array(weight) for layer in norms for weight in layer.weights]
    kernel = np.array(upper.get_layer("block_16_project").kernel)
    head = keras.Sequential([upper, keras.layers.Dense(2)])
    head.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    crossing = run(lower, rng.normal(size=(4, 64, 64, 3)))[0]
    head.train_on_batch(crossing, np.ones((4, 2)))
    assert all(
        np.array_equal(old, new) for old, new in zip(before, [w for layer in norms for w in layer.weights], strict=True)
    )
    assert not np.array_equal(kernel, upper.get_layer("block_16_project").kernel)


def test_a_wrong_layer_answers_with_the_list():
    _, model = build("mini_vgg", 32)
    with pytest.raises(NetworkError, match=r"got block3_conv \(did you mean block3_conv\d\?\); it has block1_conv1, "):
        choose_first_layer(model, "mini_vgg", "block3_conv")


@pytest.mark.parametrize(
    ("network", "layer", "wanted"),
    [
        ("mini_vgg", "block2_pool", "block2_conv1"),
        ("mobilenet_v2", "block_12_add", "block_12_expand"),
        ("mobilenet_v2", "block_16_project_BN", "block_13_expand"),
        ("resnet50", "conv4_block6_out", "conv4_block6_1_conv"),
    ],
)
def test_of_a_cut_network_the_last_block_learns_that_is_left(network, layer, wanted):
    keras, model = build(network, 64)
    cut = keras.Model(model.input, model.get_layer(layer).output)
    assert choose_first_layer(cut, network, None) == wanted


def test_a_cut_may_leave_no_block():
    keras, model = build("resnet50", 64)
    cut = keras.Model(model.input, model.get_layer("pool1_pool").output)
    with pytest.raises(NetworkError, match=r"got null, which is conv5_block1_1_conv; it has conv1_pad, conv1_conv, "):
        choose_first_layer(cut, "resnet50", None)
