"""The weights of a network: from a file or at random, and their hash."""

import hashlib
import json
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from relearn.errors import NetworkError
from relearn.params.networks import NetworkParams
from relearn.storage.files import hash_file


def check_weights_file(path: Path, sha256: str) -> None:
    """Raise `NetworkError` unless the file exists and has the hash."""
    where = f"extract.weights: {path}"
    if not os.path.isfile(path):  # unlike Path's, False for a name that is too long
        raise NetworkError("no such file", where=where, advice="put the weights there, or set extract.weights")
    if (found := hash_file(path)) != sha256:
        raise NetworkError(
            where=where,
            wanted=f"sha256 {sha256} (extract.weights_sha256)",
            got=found,
            advice="fetch the file again, or set the hash if this file is the right one",
        )


def load_weights_file(network: Any, params: NetworkParams) -> None:
    """Load a weights file that passed `check_weights_file` into a network, every weight of which it must hold.

    Raises
    ------
    NetworkError
        It is not a weights file, or does not hold every weight of the network.
    """
    path = Path(params.weights)
    # keras leaves a weight that the file lacks as it was, with a warning at best. NaN shows which.
    for weight in network.weights:
        if "float" in str(weight.dtype):
            weight.assign(np.full(weight.shape, np.nan, np.float32))
    unfit = (
        f"extract.weights: {path} does not hold the weights of {params.network} without its top (name the file that "
        "does, with its hash, or -S extract.weights=imagenet -S extract.weights_sha256=null, or random): "
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network.load_weights(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise NetworkError(
            where=f"extract.weights: {path}", wanted="a Keras weights file (HDF5)", got=shorten_error(error)
        ) from None
    except (ValueError, KeyError) as error:
        raise NetworkError(unfit + shorten_error(error)) from None
    if missing := [weight.path for weight in network.weights if np.isnan(np.asarray(weight)).any()]:
        raise NetworkError(f"{unfit}it lacks {len(missing)} of {len(network.weights)}, the first is {missing[0]}")


def shorten_error(error: Exception) -> str:
    """Return the text of a library's error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def set_random_weights(network: Any, seed: int) -> None:
    """Draw every kernel from N(0, 2 / fan_in), so that activations keep their scale through layers with ReLU.

    He et al. 2015, "Delving deep into rectifiers", equation 10. Gates (EfficientNet, MobileNetV3) halve the activations
    all the same; `train.scale` makes up for it. The numbers come from numpy, so that they are the same for each
    backend of keras. All other weights stay as keras initializes them: biases at 0, batch norm at mean 0 and
    variance 1.
    """
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        for weight in layer.weights:
            if not weight.name.endswith("kernel"):
                continue
            # A depthwise kernel (height, width, channels, multiplier) sums over its window alone.
            depthwise = "depthwise" in weight.name or type(layer).__name__ == "DepthwiseConv2D"
            fan_in = int(np.prod(weight.shape[:2] if depthwise else weight.shape[:-1]))
            values = rng.standard_normal(tuple(weight.shape), np.float32)
            weight.assign(values * np.float32(np.sqrt(2 / fan_in)))


# Keys of a layer's configuration that do not decide its output, or that are recorded on their own (size, precision).
# A name may count how many networks were built before.
_IRRELEVANT = re.compile(
    "batch_shape|build_config|build_input_shape|dtype|module|momentum|name|registered_name|seed|synchronized|trainable|"
    ".*_(constraint|initializer|regularizer)"
)


def hash_network(model: Any) -> str:
    """Return the SHA-256 of a functional model's layers and weights, in the network's order.

    Each layer gives its class, its arguments (the places of the layers before it, and constants) and its configuration
    as JSON (without keys that decide no output, and without None and False, which a later keras may add), then the
    shape and the little-endian bytes of each weight.
    """
    digest = hashlib.sha256()
    places = {layer.name: place for place, layer in enumerate(model.operations)}
    for layer in model.operations:
        arguments = [value for node in layer._inbound_nodes for value in _list_arguments(node, places)]
        description = [type(layer).__name__, arguments, _describe_config(layer.get_config())]
        digest.update(json.dumps(description, sort_keys=True).encode())
        for weight in getattr(layer, "weights", ()):
            values = np.asarray(weight)
            if values.dtype.kind in "iu":  # of whatever size the backend's integers are
                values = values.astype(np.int64)
            digest.update(repr(values.shape).encode())
            digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _list_arguments(node: Any, places: dict[str, int]) -> list[Any]:
    inputs = [places.get(tensor._keras_history.operation.name) for tensor in node.input_tensors]
    values = [*node.arguments.args, *(value for _, value in sorted(node.arguments.kwargs.items()))]
    return [inputs, [value for value in values if isinstance(value, int | float) and value is not False]]


def _describe_config(config: Any) -> Any:
    match config:
        case dict():
            kept = {key: value for key, value in config.items() if not _IRRELEVANT.fullmatch(key)}
            return {key: _describe_config(v) for key, v in kept.items() if v is not None and v is not False}
        case list() | tuple():
            return [_describe_config(value) for value in config]
        case np.ndarray():
            return config.tolist()
        case _:
            return config
