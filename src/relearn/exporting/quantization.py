"""A network with 8-bit integers in place of float32."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relearn.heads.graph import Graph
from relearn.inference.model_screening import FEATURES, IMAGE, UINT8
from relearn.inference.screening import FLOAT, IR_VERSION, OPSETS

MAX_CALIBRATION_IMAGES = 200


def quantize_network(graph: Graph, images: Sequence[np.ndarray], size_px: int | None, n_features: int) -> Graph:
    """Return the network with quantized convolutions: static, per channel, with the ranges seen on images.

    Weights are 7-bit integers, activations 8-bit ones without a sign: with 8-bit weights, the sums of pairs of products
    overflow on processors with AVX2 or AVX-512 but without VNNI.

    Parameters
    ----------
    graph
        From `image` to `features`; the preprocessing, before the first other convolution, stays in float32.
    images
        Training images of the network's size, uint8, that the ranges of the activations are measured on.
    """
    from onnx import helper, load_model, numpy_helper, save_model

    height, width = (size_px, size_px) if size_px else ("height", "width")
    for node in graph.nodes:
        node.name = node.output[0]  # the quantizer finds nodes by their names
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info(IMAGE, UINT8, ["batch", height, width, 3])],
            [helper.make_tensor_value_info(FEATURES, FLOAT, ["batch", n_features])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSETS[""])],
        ir_version=IR_VERSION,
    )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "network.onnx", Path(folder) / "quantized.onnx"
        save_model(model, source)
        _quantize(source, target, images, list_kept(graph))
        quantized = load_model(target).graph
    result = Graph()
    result.nodes = list(quantized.node)
    # All as bytes; the quantizer writes some as lists of numbers.
    result.constants = [
        numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name) for tensor in quantized.initializer
    ]
    return result


def list_kept(graph: Graph) -> list[str]:
    """Return the names of the nodes that stay in float32: the preprocessing, if it is a convolution."""
    first = next(node for node in graph.nodes if node.op_type == "Conv")
    kernel = next(constant for constant in graph.constants if constant.name == first.input[1])
    return [first.name] if list(kernel.dims) == [3, 3, 1, 1] else []


def _quantize(source: Path, target: Path, images: Sequence[np.ndarray], kept: list[str]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class _Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {IMAGE: image[np.newaxis]}

    with _silence_root_logger():
        quantize_static(
            source,
            target,
            _Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )


@contextlib.contextmanager
def _silence_root_logger() -> Iterator[None]:
    """Keep what the quantizer says on the root logger (advice to preprocess, done here) from the terminal."""
    root: Any = logging.getLogger()
    before, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = before
