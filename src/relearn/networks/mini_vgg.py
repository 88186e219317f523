"""A small network in the manner of VGG (Simonyan and Zisserman 2015), pretrained on CIFAR-10 in `pretraining/`.

Six convolutions of 3 x 3 in three blocks, each of which ends with the maximum over 2 x 2. It was trained with a batch
normalisation behind each convolution (Ioffe and Szegedy 2015), which is folded into the weights that are kept.
"""

from typing import Any

import numpy as np

# Filters of both convolutions of each block.
WIDTHS = (48, 96, 176)
MIN_SIZE_PX = 2 ** len(WIDTHS)


def MiniVGG(  # noqa: N802 (networks of keras are named so)
    weights: None = None,
    include_top: bool = False,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    normalised: bool = False,
) -> Any:
    """Return the network without its top, its weights drawn by keras.

    Parameters
    ----------
    weights, include_top, input_shape
        As the functions of `keras.applications` have them; there are no weights of ImageNet, and there is no top.
    normalised
        With a batch normalisation between each convolution and its ReLU, as it is trained.

    Raises
    ------
    ValueError
        The input is smaller than 8 x 8, or weights or a top are asked for.
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
                activation=None if normalised else "relu",
                use_bias=not normalised,
                kernel_initializer="he_normal",
                name=name,
            )(values)
            if normalised:
                values = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(values)
                values = keras.layers.ReLU(name=f"{name}_relu")(values)
        values = keras.layers.MaxPooling2D(name=f"block{block}_pool")(values)
    return keras.Model(inputs, values, name="mini_vgg")


def preprocess_input(images: np.ndarray) -> np.ndarray:
    """Scale pixels from 0 .. 255 to -1 .. 1, in the array itself where it is of float32."""
    images = np.asarray(images, np.float32)
    images /= 127.5
    images -= 1
    return images
