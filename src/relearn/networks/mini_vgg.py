"""A small network in the style of VGG (Simonyan and Zisserman 2015), pretrained on CIFAR-10 in `pretraining/`.

Six 3x3 convolutions in three blocks, each of which ends with 2x2 max pooling. It was trained with batch norm after each
convolution (Ioffe and Szegedy 2015), which is fused into the weights that are kept.
"""

from typing import Any

import numpy as np

# Filters of both convolutions of each block.
WIDTHS = (48, 96, 176)
MIN_SIZE_PX = 2 ** len(WIDTHS)


def MiniVGG(  # noqa: N802 (as the functions of keras.applications)
    weights: None = None,
    include_top: bool = False,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    batch_norm: bool = False,
) -> Any:
    """Return the network without its top, with random weights from keras.

    Parameters
    ----------
    weights, include_top, input_shape
        As in `keras.applications`; there are no ImageNet weights and no top.
    batch_norm
        Whether batch norm stands between each convolution and its ReLU, as in training.

    Raises
    ------
    ValueError
        The input is smaller than 8x8, or weights or a top are requested.
    """
    import keras

    if weights is not None or include_top:
        raise ValueError(f"wanted weights None and include_top False, got {weights} and {include_top}")
    if min(input_shape[:2]) < MIN_SIZE_PX:
        raise ValueError(f"Input size must be at least {MIN_SIZE_PX}x{MIN_SIZE_PX}; got {input_shape}")
    values = inputs = keras.Input(input_shape, name="input")
    for block, n_filters in enumerate(WIDTHS, start=1):
        for number in (1, 2):
            name = f"block{block}_conv{number}"
            values = keras.layers.Conv2D(
                n_filters,
                3,
                padding="same",
                activation=None if batch_norm else "relu",
                use_bias=not batch_norm,
                kernel_initializer="he_normal",
                name=name,
            )(values)
            if batch_norm:
                values = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(values)
                values = keras.layers.ReLU(name=f"{name}_relu")(values)
        values = keras.layers.MaxPooling2D(name=f"block{block}_pool")(values)
    return keras.Model(inputs, values, name="mini_vgg")


def preprocess_input(images: np.ndarray) -> np.ndarray:
    """Scale pixels from 0 .. 255 to -1 .. 1, in place if the array is float32."""
    images = np.asarray(images, np.float32)
    images /= 127.5
    images -= 1
    return images
