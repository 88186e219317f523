"""Preprocessing and layers of keras as ONNX. All networks are compared in tests/networks/test_rewriting.py."""

import numpy as np
import pytest

from exporting.networks import compute_exported
from relearn.errors import NetworkError
from relearn.exporting.network import measure_preprocessing
from relearn.networks.mini_vgg import preprocess_input


def test_preprocessing_is_a_matrix_and_an_offset():
    matrix, offset = measure_preprocessing(lambda image: image[..., ::-1] * 2 - [10, 20, 30])
    np.testing.assert_allclose(matrix, 2 * np.eye(3)[::-1])
    np.testing.assert_allclose(offset, [-10, -20, -30])


def test_preprocessing_of_another_kind_is_refused():
    with pytest.raises(NetworkError, match="preprocessing by a scale and an offset"):
        measure_preprocessing(lambda image: image**2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conv", "depthwise", "separable", "pools", "shapes", "activations", "numbers"])
def test_layers_compute_what_keras_computes(kind):
    """Odd sizes, strides, dilations and paddings, more than any network has."""
    import keras
    from keras import layers

    inputs = keras.Input((17, 14, 3))
    match kind:
        case "conv":
            values = layers.Conv2D(6, (3, 2), strides=2, padding="same", use_bias=False)(inputs)
            values = layers.BatchNormalization()(values)
            values = layers.Conv2D(4, 3, dilation_rate=2, padding="same", groups=2, activation="relu6")(values)
        case "depthwise":
            values = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(inputs)
        case "separable":
            values = layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2, activation="silu")(inputs)
            values = layers.BatchNormalization(scale=False)(layers.ReLU()(values))
        case "pools":
            pools = [layers.AveragePooling2D(3, 2, "same"), layers.MaxPooling2D(3, 2, "same")]
            values = layers.Concatenate()([pool(inputs) for pool in pools])
            values = layers.Multiply()([values, layers.GlobalAveragePooling2D(keepdims=True)(values)])
        case "shapes":
            values = layers.ZeroPadding2D(((0, 1), (2, 0)))(layers.Cropping2D(((1, 0), (0, 2)))(inputs))
            values = layers.Flatten()(layers.LayerNormalization()(values))
        case "activations":
            names = ("gelu", "hard_silu", "hard_sigmoid", "sigmoid", "silu", "linear")
            values = layers.Concatenate()([layers.Activation(name)(inputs) for name in names])
        case "numbers":
            values = layers.Multiply()([inputs, layers.ReLU(6.0)(inputs + 3.0) * (1 / 6)])
    model = keras.Model(inputs, values)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.2, 0.9, weight.shape))
    images = rng.integers(0, 256, (2, 17, 14, 3)).astype(np.uint8)
    wanted = np.asarray(model(preprocess_input(images.astype(np.float32)), training=False)).reshape(2, -1)
    got = compute_exported(model, preprocess_input, images)
    np.testing.assert_allclose(got, wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.slow
def test_a_layer_of_another_kind_is_refused():
    import keras

    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.UpSampling2D()(inputs))
    with pytest.raises(NetworkError, match="got UpSampling2D"):
        compute_exported(model, preprocess_input, np.zeros((1, 8, 8, 3), np.uint8))
