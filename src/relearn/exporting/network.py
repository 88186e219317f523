"""A network of keras with its preprocessing as nodes of ONNX."""

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from relearn.errors import IntegrityError, NetworkError
from relearn.exporting.layers import LayerConverter, refuse_layer
from relearn.heads.graph import Graph
from relearn.inference.model_screening import FEATURES, FLOAT16, IMAGE
from relearn.inference.screening import FLOAT
from relearn.networks.extractor import build_network, cut_network, find_preprocessing
from relearn.networks.recipe import ExtractorRecord
from relearn.networks.weights import hash_network
from relearn.runtime.backend import use_keras

PREFIX = "network_"  # of the names of values and constants; those of heads have none
# Filters of Pillow that ONNX has too, as attributes of `Resize`.
RESIZE: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}
IDLE_ARGUMENTS = {"training", "mask"}
PREPROCESSING_TOLERANCE = 1e-6  # of the largest value


def convert_network(record: ExtractorRecord, *, any_size: bool) -> Graph:
    """Return the network that a record describes, in float32: `image` uint8 to `features` float32.

    Names are numbers in the order of the computation, so that the same network gives the same bytes in each process.

    Parameters
    ----------
    any_size
        Whether images of any size are resized first, as Pillow does but for the rounding between its two passes.

    Raises
    ------
    IntegrityError
        The network that keras builds here has other weights than the recorded one.
    NetworkError
        It cannot be built, or not be exported.
    """
    if any_size and record.resize_filter not in RESIZE:
        raise NetworkError(
            where="--any-size",
            wanted=f"extract.resize_filter {' or '.join(RESIZE)}",
            got=record.resize_filter,
            advice="leave it out, and resize images before the model",
        )
    graph = Graph(PREFIX)
    with use_keras("float32") as keras:
        model = cut_network(keras, build_network(keras, record), record)
        if (found := hash_network(model)) != record.network_sha256:
            wanted = f"network_sha256 {record.network_sha256}"
            advice = "install the versions that the classifier was trained with"
            raise IntegrityError(where=record.network, wanted=wanted, got=found, advice=advice)
        values = graph.add("Transpose", graph.add("Cast", IMAGE, to=FLOAT), perm=[0, 3, 1, 2])
        if any_size:
            values = _add_resize(graph, values, record)
        values = add_preprocessing(graph, values, find_preprocessing(keras, record.network))
        values = add_model(keras, graph, model, values)
    if record.feature_dtype == "float16":
        values = graph.add("Cast", values, to=FLOAT16)
    graph.add("Cast", values, to=FLOAT, output=FEATURES)
    return graph


def add_model(keras: Any, graph: Graph, model: Any, values: str) -> str:
    """Add the layers of a functional model with one input and one output; return the name of its output."""
    converter = LayerConverter(keras, graph)
    # Besides layers there may be operations on a value and a number, such as x + 3 in MobileNetV3.
    nodes = list(chain.from_iterable(model._nodes_by_depth[depth] for depth in sorted(model._nodes_by_depth)[::-1]))
    n_uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    names = {id(model.input): values}
    for node in nodes:
        if node.is_input:
            continue
        inputs: list[Any] = [
            names[id(argument)] if id(argument) in names else np.array(argument, np.float32)
            for argument in keras.tree.flatten(node.arguments.args)
        ]
        if len(inputs) < len(node.input_tensors) or node.arguments.kwargs.keys() - IDLE_ARGUMENTS:
            raise refuse_layer(node.operation, "a call with positional arguments")
        (output,) = node.output_tensors
        names[id(output)] = converter.add_layer(node.operation, inputs, n_uses[id(node.input_tensors[0])])
    return names[id(model.output)]


def measure_preprocessing(preprocess: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return preprocessing as a matrix (3, 3) and an offset (3,), float64: of each pixel, matrix @ rgb + offset.

    All of `keras.applications` is of this form: scales, offsets, and the order of the channels.

    Raises
    ------
    NetworkError
        It is of another form.
    """

    def _apply(pixels: np.ndarray) -> np.ndarray:
        image = np.array(pixels, np.float32).reshape(1, 1, -1, 3)
        return np.asarray(preprocess(image), np.float64).reshape(-1, 3)

    offset, *colors = _apply(np.vstack([np.zeros(3), 255 * np.eye(3)]))
    matrix = (np.array(colors) - offset).T / 255
    pixels = np.arange(256)[:, np.newaxis] * [1, 3, 5] % 256
    wanted = _apply(pixels)
    if not np.abs(pixels @ matrix.T + offset - wanted).max() <= PREPROCESSING_TOLERANCE * np.abs(wanted).max():
        where = "extract.network"
        raise NetworkError(where=where, wanted="preprocessing by a scale and an offset", got="another kind")
    return matrix, offset


def add_preprocessing(graph: Graph, values: str, preprocess: Callable[[np.ndarray], np.ndarray]) -> str:
    """Add a network's preprocessing of pixels from 0 to 255; return the name of its output."""
    matrix, offset = measure_preprocessing(preprocess)
    if (matrix == np.eye(3)).all() and not offset.any():
        return values
    kernel = matrix.astype(np.float32)[:, :, np.newaxis, np.newaxis]
    return graph.add("Conv", values, kernel, offset.astype(np.float32))


def _add_resize(graph: Graph, values: str, record: ExtractorRecord) -> str:
    """Resize to the network's size, with the filter widened as the image shrinks, and round to whole levels."""
    sizes = np.array([record.image_size_px, record.image_size_px])
    settings: dict[str, Any] = {"antialias": 1, "axes": [2, 3], "coordinate_transformation_mode": "half_pixel"}
    values = graph.add("Resize", values, "", "", sizes, **settings, **RESIZE[record.resize_filter])
    values = graph.add("Round", values)
    return graph.add("Clip", values, np.array(0, np.float32), np.array(255, np.float32))
