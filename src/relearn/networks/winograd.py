"""3x3 convolutions with a quarter of the multiplications: Winograd's minimal filtering, F(4x4, 3x3).

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv 1509.09308): 4x4 outputs y of a channel
come from 6x6 inputs d and the kernel g by y = A^T [(G g G^T) * (B^T d B)] A, with 36 products in place of 144. Summed
over the channels each of the 36 is a matrix product. cuDNN does so on GPUs; oneDNN, which TensorFlow uses on CPUs, does
not.

XLA compiles the transformations. As separate operations of TensorFlow, each sum in them would pass over memory, and the
bits would depend on the number of threads.
"""

import functools
from typing import Any

import numpy as np

from relearn.networks.hardware import find_backend, list_gpus, read_instructions
from relearn.networks.rewriting import rewrite_network

TILE = 4

# With fewer per image, a few hundred images do not make up for the compilation (up to a second per layer).
_MIN_MULTIPLICATIONS = 4e8
# The transformations cost the same for each input and output channel, the products for each pair of them.
_MIN_CHANNELS = 160
# Tiles that hang over the border compute outputs that are dropped.
_MAX_OVERHANG = 1.4

G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def is_supported(precision: str) -> bool:
    """Return whether it gains and keeps the bits: float32 in TensorFlow on a CPU with AVX-512.

    With AVX2 alone it gains as well, but oneDNN's matrix products were seen to depend on the number of threads.
    """
    return (
        precision == "float32"
        and find_backend()[0] == "tensorflow"
        and "avx512f" in read_instructions()
        and not list_gpus()
    )


def is_worthwhile(height_px: int, width_px: int, n_in: int, n_out: int) -> bool:
    """Return whether a 3x3 convolution with outputs of this size gains by the transformation.

    The bounds were measured (`benchmarks/README.md`): the harmonic mean of the numbers of channels must be above 160,
    the tiles must not hang far over the border, and there must be enough to compute.
    """
    overhang = _count_tiles(height_px) * _count_tiles(width_px) * TILE**2 / (height_px * width_px)
    return (
        9 * height_px * width_px * n_in * n_out >= _MIN_MULTIPLICATIONS
        and 2 / (1 / n_in + 1 / n_out) > _MIN_CHANNELS
        and overhang <= _MAX_OVERHANG
    )


def transform_kernel(kernel: np.ndarray) -> np.ndarray:
    """Return G g G^T for each pair of channels, computed in float64.

    Parameters
    ----------
    kernel : ndarray of shape (3, 3, n_in, n_out)

    Returns
    -------
    ndarray of shape (36, n_in, n_out), float32
    """
    transformed: np.ndarray = np.kron(G, G) @ kernel.reshape(9, -1)
    return transformed.reshape(36, *kernel.shape[2:]).astype(np.float32)


def transform_convolutions(keras: Any, model: Any) -> Any:
    """Return an equivalent network with fewer multiplications; the model itself if no layer gains.

    The features differ by some millionths of the largest, as they do between libraries.
    """
    gaining = {layer.name for layer in model.layers if type(layer) is keras.layers.Conv2D and _gains(layer)}
    if not gaining:
        return model
    convolution = _define_layer(keras)
    return rewrite_network(keras, model, lambda layer: convolution(layer) if layer.name in gaining else None)


def _gains(layer: Any) -> bool:
    return (
        layer.kernel_size == (3, 3)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.padding == "same"
        and is_worthwhile(layer.output.shape[1], layer.output.shape[2], layer.input.shape[-1], layer.filters)
    )


def _define_layer(keras: Any) -> Any:
    """Return the class of layers that replace a convolution."""
    ops = keras.ops

    class WinogradConv2D(keras.layers.Layer):  # type: ignore[misc]
        """A 3x3 `Conv2D` with stride 1 and padding `same`, only for inference."""

        def __init__(self, convolution: Any) -> None:
            super().__init__(name=convolution.name)
            kernel = np.asarray(convolution.kernel)
            bias = np.zeros(kernel.shape[-1], np.float32) if convolution.bias is None else convolution.bias
            self._kernels = [ops.convert_to_tensor(part) for part in transform_kernel(kernel)]
            self._bias = ops.convert_to_tensor(np.asarray(bias))
            self._activation = convolution.activation

        def compute_output_spec(self, inputs: Any) -> Any:
            """Return shape and type of the output, as keras asks for them."""
            return keras.KerasTensor((*inputs.shape[:-1], self._bias.shape[0]), self.compute_dtype)

        def call(self, inputs: Any) -> Any:
            """Return the output of the convolution."""
            transform_rows, transform_columns, transform_back = _compile_transformations(keras)
            products = [
                ops.matmul(part, self._kernels[6 * i + j])
                for i, rows in enumerate(transform_rows(inputs))
                for j, part in enumerate(transform_columns(rows))
            ]
            return transform_back(products, self._bias, tuple(inputs.shape[1:3]), self._activation)

    return WinogradConv2D


@functools.cache
def _compile_transformations(keras: Any) -> tuple[Any, ...]:
    """Return the steps before and after the products; all layers share them, so that each shape is compiled once."""
    import tensorflow as tf

    ops = keras.ops

    def transform_rows(images: Any) -> list[Any]:
        """Pad images, cut them into tiles of rows and return B^T d: six of (n, tiles, columns, channels)."""
        _, height, width, n_channels = images.shape
        n_rows, n_columns = _count_tiles(height), _count_tiles(width)
        below, right = TILE * (n_rows + 1) - height - 1, TILE * (n_columns + 1) - width - 1
        padded = ops.pad(images, [[0, 0], [1, below], [1, right], [0, 0]])
        tiles = ops.reshape(padded, (-1, n_rows + 1, TILE, TILE * (n_columns + 1), n_channels))
        return _multiply_by_b([tiles[:, :-1, i] for i in range(4)] + [tiles[:, 1:, i] for i in range(2)])

    def transform_columns(rows: Any) -> list[Any]:
        """Cut rows into tiles and return d B: six of (n x tiles, channels)."""
        _, n_rows, width, n_channels = rows.shape
        tiles = ops.reshape(rows, (-1, n_rows, width // TILE, TILE, n_channels))
        parts = _multiply_by_b([tiles[:, :, :-1, i] for i in range(4)] + [tiles[:, :, 1:, i] for i in range(2)])
        return [ops.reshape(part, (-1, n_channels)) for part in parts]

    def transform_back(products: list[Any], bias: Any, size_px: tuple[int, int], activation: Any) -> Any:
        """Return the layer's output from A^T m A of the 36 products, joined to (n, height, width, channels)."""
        height, width = size_px
        n_rows, n_columns, n_channels = _count_tiles(height), _count_tiles(width), bias.shape[0]
        parts = [ops.reshape(product, (-1, n_rows, n_columns, n_channels)) for product in products]
        columns = [_multiply_by_a(parts[j::6]) for j in range(6)]
        rows = [ops.stack(_multiply_by_a([column[i] for column in columns]), axis=3) for i in range(TILE)]
        whole = ops.reshape(ops.stack(rows, axis=2), (-1, TILE * n_rows, TILE * n_columns, n_channels))
        return activation(whole[:, :height, :width] + bias)

    steps = (transform_rows, transform_columns, transform_back)
    return tuple(tf.function(step, jit_compile=True, autograph=False) for step in steps)


def _count_tiles(size_px: int) -> int:
    return -(-size_px // TILE)


def _multiply_by_b(d: list[Any]) -> list[Any]:
    """Return B^T d of six arrays, the last two of which begin the next tile."""
    even, even_4 = d[4] - d[2], d[4] - 4.0 * d[2]
    odd, odd_4 = 2.0 * (d[3] - d[1]), d[3] - 4.0 * d[1]
    return [
        4.0 * (d[0] - d[2]) + even,
        even_4 + odd_4,
        even_4 - odd_4,
        even + odd,
        even - odd,
        (d[5] - d[3]) - 2.0 * odd,
    ]


def _multiply_by_a(m: list[Any]) -> list[Any]:
    """Return A^T m of six arrays."""
    sum_1, difference_1 = m[1] + m[2], m[1] - m[2]
    sum_2, difference_2 = m[3] + m[4], 2.0 * (m[3] - m[4])
    return [
        m[0] + sum_1 + sum_2,
        difference_1 + difference_2,
        sum_1 + 4.0 * sum_2,
        difference_1 + 4.0 * difference_2 + m[5],
    ]
