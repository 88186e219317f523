"""The layers of keras as nodes of ONNX, with channels first, as onnxruntime computes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from relearn.errors import NetworkError
from relearn.heads.graph import Graph


def _add_clip(graph: Graph, values: str, largest: float) -> str:
    return graph.add("Clip", values, np.array(0, np.float32), np.array(largest, np.float32))


def _add_gelu(graph: Graph, values: str) -> str:
    """Add x (1 + erf(x / sqrt(2))) / 2."""
    share = graph.add("Erf", graph.add("Mul", values, np.array(math.sqrt(0.5), np.float32)))
    share = graph.add("Mul", graph.add("Add", share, np.array(1, np.float32)), np.array(0.5, np.float32))
    return graph.add("Mul", values, share)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "linear": lambda graph, values: graph.add("Identity", values),
    "relu": lambda graph, values: graph.add("Relu", values),
    "relu6": lambda graph, values: _add_clip(graph, values, 6.0),
    "sigmoid": lambda graph, values: graph.add("Sigmoid", values),
    "silu": lambda graph, values: graph.add("Mul", values, graph.add("Sigmoid", values)),
    "hard_sigmoid": lambda graph, values: graph.add("HardSigmoid", values, alpha=1 / 6, beta=0.5),
    "hard_silu": lambda graph, values: graph.add("HardSwish", values),
    "gelu": _add_gelu,
}
# They do nothing once the training is over.
IDLE = ("Dropout", "Identity", "SpatialDropout2D", "StochasticDepth")


class LayerConverter:
    """Adds the nodes of one layer after the other to a graph.

    The values of the graph are (batch, channels, height, width) where keras has (batch, height, width, channels), and
    alike where they have no positions.
    """

    def __init__(self, keras: Any, graph: Graph) -> None:
        self._keras = keras
        self._graph = graph
        self._kinds: dict[str, Callable[[Any, list[str]], str]] = {
            "Activation": lambda layer, inputs: self._activate(layer, inputs[0]),
            "Add": self._add_sum,
            "AveragePooling2D": self._pool,
            "BatchNormalization": self._add_batch_norm,
            "Concatenate": self._concatenate,
            "Conv2D": self._add_convolution,
            "Cropping2D": self._crop,
            "CustomScaleLayer": self._add_scaled,
            "Dense": self._add_dense,
            "DepthwiseConv2D": self._add_depthwise,
            "Flatten": lambda _, inputs: self._flatten(self._put_channels_last(inputs[0])),
            "GlobalAveragePooling2D": self._pool_all,
            "GlobalMaxPooling2D": self._pool_all,
            "LayerNormalization": self._add_layer_norm,
            "LayerScale": lambda layer, inputs: self._scale(inputs[0], layer.gamma),
            "MaxPooling2D": self._pool,
            "Multiply": self._multiply,
            "Normalization": self._standardize,
            "ReLU": self._add_relu,
            "Rescaling": lambda layer, inputs: self._scale(inputs[0], layer.scale, layer.offset),
            "Reshape": self._reshape,
            "SeparableConv2D": self._add_separable,
            "Sequential": self._add_sequence,
            "ZeroPadding2D": self._pad,
        }

    def add_layer(self, layer: Any, inputs: list[str], n_uses: int = 2) -> str:
        """Add the nodes of a layer; return the name of its output.

        Parameters
        ----------
        inputs
            Names of values; of an operation that is no layer also numbers, as arrays without axes.
        n_uses
            How many layers take the input. Only what no other layer takes is fused with batch norm.

        Raises
        ------
        NetworkError
            There is no such layer in `keras.applications`, or it has settings that none there has.
        """
        kind = type(layer).__name__
        if kind in IDLE:
            return inputs[0]
        if kind not in self._kinds:
            raise refuse_layer(layer, "a layer of keras.applications")
        if kind == "BatchNormalization" and n_uses == 1 and (fused := self._fuse(layer, inputs[0])):
            return fused
        return self._kinds[kind](layer, inputs)

    def _add_sequence(self, layer: Any, inputs: list[str]) -> str:
        (values,) = inputs
        for inner in layer.layers:
            values = self.add_layer(inner, [values])
        return values

    def _activate(self, layer: Any, values: str) -> str:
        name = getattr(layer.activation, "__name__", None)
        if name not in ACTIVATIONS:
            raise refuse_layer(layer, f"an activation among {', '.join(ACTIVATIONS)}")
        return values if name == "linear" else ACTIVATIONS[name](self._graph, values)

    def _add_relu(self, layer: Any, inputs: list[str]) -> str:
        if layer.negative_slope or layer.threshold:
            raise refuse_layer(layer, "no slope and threshold 0")
        if layer.max_value is None:
            return self._graph.add("Relu", inputs[0])
        return _add_clip(self._graph, inputs[0], float(layer.max_value))

    def _read(self, array: Any, dtype: type = np.float32) -> np.ndarray:
        """Return a weight or constant of keras as an array."""
        return np.asarray(self._keras.ops.convert_to_numpy(array)).astype(dtype)

    # --- convolutions

    def _convolve(self, layer: Any, values: str, kernel: np.ndarray, bias: Any, group: int = 1) -> str:
        """Add a convolution with a kernel (outputs, inputs of a group, height, width), and `layer`'s window."""
        arrays = [np.ascontiguousarray(kernel, np.float32)]
        if bias is not None:
            arrays.append(self._read(bias))
        window = _describe_window(layer, kernel.shape[2:], layer.dilation_rate)
        return self._graph.add("Conv", values, *arrays, group=group, dilations=list(layer.dilation_rate), **window)

    def _add_convolution(self, layer: Any, inputs: list[str]) -> str:
        kernel = self._read(layer.kernel).transpose(3, 2, 0, 1)
        return self._activate(layer, self._convolve(layer, inputs[0], kernel, layer.bias, layer.groups))

    def _add_depthwise(self, layer: Any, inputs: list[str]) -> str:
        kernel = _turn_depthwise(self._read(layer.kernel))
        group = layer.kernel.shape[2]
        return self._activate(layer, self._convolve(layer, inputs[0], kernel, layer.bias, group))

    def _add_separable(self, layer: Any, inputs: list[str]) -> str:
        kernel = _turn_depthwise(self._read(layer.depthwise_kernel))
        values = self._convolve(layer, inputs[0], kernel, None, layer.depthwise_kernel.shape[2])
        pointwise = [self._read(layer.pointwise_kernel).transpose(3, 2, 0, 1)]
        if layer.bias is not None:
            pointwise.append(self._read(layer.bias))
        return self._activate(layer, self._graph.add("Conv", values, *pointwise))

    def _add_dense(self, layer: Any, inputs: list[str]) -> str:
        """Add a layer over the channels of each position, which is a 1x1 convolution."""
        if len(layer.input.shape) != 4:
            raise refuse_layer(layer, "a layer over positions")
        kernel = self._read(layer.kernel).T[:, :, np.newaxis, np.newaxis]
        bias = [] if layer.bias is None else [self._read(layer.bias)]
        return self._activate(layer, self._graph.add("Conv", inputs[0], np.ascontiguousarray(kernel), *bias))

    # --- normalization, scales

    def _compute_batch_norm(self, layer: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift of each channel, float64; see `relearn.networks.batch_norm`."""
        if layer.axis not in (-1, 3):
            raise refuse_layer(layer, "batch norm of the channels")
        mean, variance = self._read(layer.moving_mean, np.float64), self._read(layer.moving_variance, np.float64)
        scale = (self._read(layer.gamma, np.float64) if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
        shift = (self._read(layer.beta, np.float64) if layer.center else 0.0) - mean * scale
        return scale, shift

    def _fuse(self, layer: Any, values: str) -> str | None:
        """Make batch norm part of the convolution that computes `values`, if one does; return its output's name."""
        from onnx import numpy_helper

        node = self._graph.nodes[-1] if self._graph.nodes else None
        if node is None or node.op_type != "Conv" or node.output[0] != values:
            return None
        scale, shift = self._compute_batch_norm(layer)
        n_constants = len(node.input) - 1
        kernel, *bias = (numpy_helper.to_array(tensor) for tensor in self._graph.constants[-n_constants:])
        kernel = kernel.astype(np.float64) * scale[:, np.newaxis, np.newaxis, np.newaxis]
        fused = [kernel.astype(np.float32), ((bias[0] if bias else 0.0) * scale + shift).astype(np.float32)]
        attributes: dict[str, Any] = {a.name: a.i if a.name == "group" else list(a.ints) for a in node.attribute}
        self._graph.nodes.pop()
        del self._graph.constants[-n_constants:]
        return self._graph.add("Conv", node.input[0], *fused, **attributes)

    def _add_batch_norm(self, layer: Any, inputs: list[str]) -> str:
        return self._scale(inputs[0], *self._compute_batch_norm(layer))

    def _scale(self, values: str, scale: Any, offset: Any = 0.0) -> str:
        """Multiply and add numbers or arrays of one number per channel."""
        scale, offset = (_put_by_channel(self._read(array)) for array in (scale, offset))
        values = self._graph.add("Mul", values, scale)
        return self._graph.add("Add", values, offset) if offset.any() else values

    def _standardize(self, layer: Any, inputs: list[str]) -> str:
        if layer.invert:
            raise refuse_layer(layer, "invert: false")
        mean, variance = self._read(layer.mean, np.float64), self._read(layer.variance, np.float64)
        scale = 1 / np.maximum(np.sqrt(variance), 1e-7)  # keras.config.epsilon()
        return self._scale(inputs[0], scale, -mean * scale)

    def _add_layer_norm(self, layer: Any, inputs: list[str]) -> str:
        n_axes = len(layer.input.shape)
        if [axis % n_axes for axis in layer.axis] != [n_axes - 1]:
            raise refuse_layer(layer, "layer norm of the channels")
        gamma = self._read(layer.gamma) if layer.scale else np.ones(layer.input.shape[-1], np.float32)
        beta = self._read(layer.beta) if layer.center else np.zeros_like(gamma)
        values = self._put_channels_last(inputs[0]) if n_axes == 4 else inputs[0]
        values = self._graph.add("LayerNormalization", values, gamma, beta, axis=-1, epsilon=layer.epsilon)
        return self._graph.add("Transpose", values, perm=[0, 3, 1, 2]) if n_axes == 4 else values

    # --- shapes

    def _put_channels_last(self, values: str) -> str:
        return self._graph.add("Transpose", values, perm=[0, 2, 3, 1])

    def _flatten(self, values: str) -> str:
        return self._graph.add("Flatten", values, axis=1)

    def _reshape(self, layer: Any, inputs: list[str]) -> str:
        if len(layer.output.shape) != 4 or tuple(layer.output.shape[1:3]) != (1, 1):
            raise refuse_layer(layer, "a shape of one position")
        return self._graph.add("Reshape", inputs[0], np.array([0, layer.output.shape[-1], 1, 1]))

    def _pad(self, layer: Any, inputs: list[str]) -> str:
        (top, bottom), (left, right) = layer.padding
        return self._graph.add("Pad", inputs[0], np.array([0, 0, top, left, 0, 0, bottom, right]), mode="constant")

    def _crop(self, layer: Any, inputs: list[str]) -> str:
        (top, bottom), (left, right) = layer.cropping
        _, height, width, _ = layer.input.shape
        ends = np.array([height - bottom, width - right])
        return self._graph.add("Slice", inputs[0], np.array([top, left]), ends, np.array([2, 3]))

    # --- several positions or values into one

    def _pool(self, layer: Any, inputs: list[str]) -> str:
        window = _describe_window(layer, layer.pool_size, (1, 1))
        if type(layer).__name__ == "MaxPooling2D":
            return self._graph.add("MaxPool", inputs[0], **window)
        return self._graph.add("AveragePool", inputs[0], count_include_pad=0, **window)

    def _pool_all(self, layer: Any, inputs: list[str]) -> str:
        kind = "GlobalMaxPool" if "Max" in type(layer).__name__ else "GlobalAveragePool"
        values = self._graph.add(kind, inputs[0])
        return values if layer.keepdims else self._flatten(values)

    def _add_sum(self, _: Any, inputs: list[str]) -> str:
        return self._chain("Add", inputs)

    def _multiply(self, _: Any, inputs: list[str]) -> str:
        return self._chain("Mul", inputs)

    def _chain(self, operator: str, inputs: list[str]) -> str:
        values, *others = inputs
        for other in others:
            values = self._graph.add(operator, values, other)
        return values

    def _add_scaled(self, layer: Any, inputs: list[str]) -> str:
        """Add the second input times a number to the first, as InceptionResNetV2's residuals are."""
        return self._graph.add("Add", inputs[0], self._scale(inputs[1], layer.scale))

    def _concatenate(self, layer: Any, inputs: list[str]) -> str:
        n_axes = len(layer.output.shape)
        if layer.axis % n_axes != n_axes - 1:
            raise refuse_layer(layer, "a concatenation of the channels")
        return self._graph.add("Concat", *inputs, axis=1)


def refuse_layer(layer: Any, wanted: str) -> NetworkError:
    """Return the error about a layer that cannot be exported."""
    return NetworkError(
        where=f"layer {layer.name}", wanted=wanted, got=type(layer).__name__, advice="choose another extract.network"
    )


def _put_by_channel(array: np.ndarray) -> np.ndarray:
    """Return a number, or (channels, 1, 1) of an array of as many numbers."""
    return array.reshape(-1, 1, 1).astype(np.float32) if array.size > 1 else array.reshape(()).astype(np.float32)


def _turn_depthwise(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel (height, width, inputs, multiplier) as (inputs x multiplier, 1, height, width)."""
    height, width, n_in, multiplier = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(n_in * multiplier, 1, height, width)


def _describe_window(layer: Any, size: Sequence[int], dilation: Sequence[int]) -> dict[str, Any]:
    """Return size, strides and padding of a layer's window; `same` pads as TensorFlow does, more at the end.

    TensorFlow: the output has ceil(n / stride) positions, so max((outputs - 1) stride + window - n, 0) are added.
    """
    pads = []
    for n, stride, span, step in zip(layer.input.shape[1:3], layer.strides, size, dilation, strict=True):
        window = (span - 1) * step + 1
        n_pad = max((math.ceil(n / stride) - 1) * stride + window - n, 0) if layer.padding == "same" else 0
        pads.append((n_pad // 2, n_pad - n_pad // 2))
    (top, bottom), (left, right) = pads
    return {"kernel_shape": list(size), "strides": list(layer.strides), "pads": [top, left, bottom, right]}
