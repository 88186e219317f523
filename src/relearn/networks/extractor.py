"""A pretrained network without its top, bound to the preprocessing that it was trained with.

keras is imported inside the functions: it costs seconds and half a gigabyte.
"""

import contextlib
import difflib
import hashlib
import inspect
import json
import math
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from relearn.errors import NetworkError, UnfitFeature
from relearn.images.decoding import decode_image, resize_image
from relearn.networks.batch_norm import fuse_batch_norm
from relearn.networks.hardware import choose_precision, describe_hardware, find_backend
from relearn.networks.mini_vgg import MiniVGG
from relearn.networks.rewriting import rewrite_network
from relearn.networks.winograd import is_supported, transform_convolutions
from relearn.params import NETWORKS, NetworkParams, Sha256
from relearn.runtime.backend import import_keras
from relearn.runtime.code import hash_code
from relearn.runtime.threads import Item, prefetch
from relearn.storage.files import hash_file

# What TensorFlow and torch raise, and what the text of more general errors holds: of JAX, and of torch's other
# allocators (the host's memory, cuDNN, cuBLAS, the driver).
OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError", "MemoryError")
OUT_OF_MEMORY_TEXTS = ("RESOURCE_EXHAUSTED", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")


class ExtractorRecord(NetworkParams):
    """All that a prediction needs to be made the same way; goes to `extractor.json` and into `classifier.json`.

    Attributes
    ----------
    network_sha256
        Of the layers, their settings, their connections and their weights; see `hash_network`.
    constants
        The layers that scale and shift by constants, in their order: a network's own preprocessing.
    """

    n_features: int
    n_parameters: int
    network_sha256: Sha256
    constants: list[dict[str, str | float | list[float]]]
    pillow: str
    keras: str
    backend: str


# The packages that decide a feature. Errors, paths, params and storage decide none.
CODE = ("images", "networks", "runtime")


def describe_way(params: NetworkParams) -> dict[str, Any]:
    """Return all that decides a feature, apart from the image, without building the network.

    Weights are told by their file's hash, or by the seed and the code that draws them. Those of ImageNet are told by
    the version of keras, which does not hold the hash of each: whoever builds the network compares its
    `network_sha256` with the record of the features that there are.
    """
    idle = {"weights"} if params.weights_are_file else set()
    idle |= {"seed"} if params.weights != "random" else set()
    return {
        **params.model_dump(include=set(NetworkParams.model_fields) - idle),
        "application": NETWORKS[params.network],
        "precision": choose_precision(params.precision),
        "code": hash_code(*CODE),
        "versions": {name: version(name) for name in ("keras", "numpy", "pillow")},
        "backend": list(find_backend()),
        **describe_hardware(),
    }


def group_items(items: Iterable[Item], n_items: int) -> Iterator[list[Item]]:
    """Yield items in lists of so many, the last of which may be shorter."""
    arriving = iter(items)
    while group := list(islice(arriving, n_items)):
        yield group


class Extractor:
    """Images in, features out: the network, its cut, its pooling and its preprocessing as one thing.

    Attributes
    ----------
    n_features, batch_size : int
    dtype : numpy.dtype
        Of the features.
    record : ExtractorRecord
    """

    def __init__(self, params: NetworkParams) -> None:
        if params.weights_are_file:
            check_weights_file(Path(params.weights), str(params.weights_sha256))
        precision = choose_precision(params.precision)
        keras = import_keras(precision)
        params = params.model_copy(update={"precision": precision})
        self._params = params
        self.batch_size = params.batch_size
        self.dtype = np.dtype(params.feature_dtype).newbyteorder("<")
        application = _find_application(keras, params.network)
        self._preprocess = _find_preprocessing(application)
        network = _build_network(keras, application, params)
        model = _cut_network(keras, network, params)
        self._model = fuse_batch_norm(keras, model)
        if is_supported(precision):
            self._model = transform_convolutions(keras, self._model)
        self.n_features: int = model.output.shape[-1]
        backend_name, backend_version = find_backend()
        self.record = ExtractorRecord(
            **params.model_dump(include=set(NetworkParams.model_fields)),
            n_features=self.n_features,
            n_parameters=model.count_params(),
            network_sha256=hash_network(model),
            constants=list_constants(keras, self._model),
            pillow=PIL.__version__,
            keras=keras.__version__,
            backend=f"{backend_name} {backend_version}",
        )

    def prepare_image(self, rgb: Image.Image) -> np.ndarray:
        """Resize an upright RGB image to the network's input: uint8 of shape (image_size_px, image_size_px, 3)."""
        return resize_image(rgb, self._params.image_size_px, self._params.resize_filter)

    def read_image(self, content: bytes) -> np.ndarray:
        """Decode the bytes of an image file for the network: uint8 of shape (image_size_px, image_size_px, 3)."""
        min_px = self._params.image_size_px if self._params.jpeg_draft else None
        return self.prepare_image(decode_image(content, min_px).rgb)

    def compute_rows(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of each prepared image, in order: (n_features,)."""
        for features in self.compute_batches(images):
            yield from features

    def compute_batches(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of prepared images, `batch_size` rows at a time; the next two are stacked meanwhile."""
        stacked = (self._stack(group) for group in group_items(images, self.batch_size))
        for batch, n_images in prefetch(stacked, 2):
            yield self._run(batch, n_images)

    def compute_features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Run the network over at most `batch_size` prepared images.

        A shorter batch is filled up with black images, whose rows are dropped: the shape of a batch decides in which
        order a backend adds, so one fixed shape gives each image the same bits in whatever company it comes.

        Returns
        -------
        ndarray of shape (len(images), n_features), of `extract.feature_dtype`

        Raises
        ------
        UnfitFeature
            A feature is NaN or infinite, or too large for the type.
        MemoryError
            There is not enough for a batch of this size.
        """
        return self._run(*self._stack(images))

    def _stack(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        size = self._params.image_size_px
        # Of a whole batch keras would return a view with its channels reversed, which the thread that runs the network
        # then has to copy before each batch.
        batch = np.empty((self.batch_size, size, size, 3), np.float32)
        for row, image in zip(batch[: len(images)], images, strict=True):
            row[...] = self._preprocess(image.astype(np.float32))
        if len(images) < self.batch_size:
            batch[len(images) :] = self._preprocess(np.zeros((1, size, size, 3), np.float32))
        return batch, len(images)

    def _run(self, batch: np.ndarray, n_images: int) -> np.ndarray:
        try:
            computed = self._model.predict_on_batch(batch)
        except Exception as error:
            if type(error).__name__ in OUT_OF_MEMORY or any(text in str(error) for text in OUT_OF_MEMORY_TEXTS):
                raise MemoryError(f"a batch of {self.batch_size} images") from error
            raise
        features = np.asarray(computed, np.float32)[:n_images]
        with np.errstate(over="ignore"):
            stored = features.astype(self.dtype)
        if not np.isfinite(stored).all():
            row = int(np.flatnonzero(~np.isfinite(stored).all(axis=1))[0])
            if np.isfinite(features[row]).all():
                found = f"{np.abs(features[row]).max():g}, too large for {self._params.feature_dtype}"
                advice = "take extract.feature_dtype float32"
            else:
                found, advice = "NaN or infinity", "look at extract.weights"
            raise UnfitFeature(
                f"extract.network {self._params.network}: wanted finite features, got {found}; {advice}", row
            )
        return stored


def _find_application(keras: Any, network: str) -> Any:
    """Return the function that builds a network: one of `keras.applications`, or our own."""
    return MiniVGG if network == "mini_vgg" else getattr(keras.applications, NETWORKS[network])


def _find_preprocessing(application: Any) -> Any:
    """Return the `preprocess_input` that stands in the same module as the network."""
    return _find_module(application).preprocess_input


def _find_module(application: Any) -> Any:
    return inspect.getmodule(inspect.unwrap(application))


def _build_network(keras: Any, application: Any, params: NetworkParams) -> Any:
    size = params.image_size_px
    weights = "imagenet" if params.weights == "imagenet" else None
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # keras tells there how far a download is
            network = application(weights=weights, include_top=False, input_shape=(size, size, 3))
    except OSError as error:
        raise NetworkError(
            f"extract.weights: imagenet: the file of {params.network} in {folder} cannot be read: {_shorten(error)}; "
            "remove it, and it is downloaded again"
        ) from None
    except ValueError as error:
        if least := re.search(r"Input size must be at least (\d+)x", str(error)):
            raise NetworkError(
                f"extract.image_size_px: wanted at least {least[1]} for {params.network}, got {size}"
            ) from None
        raise NetworkError(f"extract.network: {params.network} cannot be built: {_shorten(error)}") from None
    except Exception as error:  # keras.utils.get_file raises no narrower one
        failure = re.search(r"URL fetch failure on (\S+): (.*)", str(error))
        if failure is None:
            raise
        url, reason = failure.groups()
        name = url.rsplit("/", 1)[-1]
        raise NetworkError(
            f"extract.weights: imagenet: the weights of {params.network} are not on this machine and cannot be "
            f"downloaded from {url} ({reason}); put that file at {folder / name}"
        ) from None
    if params.weights == "imagenet":
        return network
    if params.network.startswith("efficientnet_b"):
        network = _scale_as_imagenet(keras, application, network)
    if params.weights == "random":
        set_random_weights(network, params.seed)
    else:
        load_weights_file(network, params)
    return network


def _scale_as_imagenet(keras: Any, application: Any, network: Any) -> Any:
    """Return an EfficientNet as `weights="imagenet"` builds it.

    keras divides its input once more by the root of the standard deviation, and does so for that word alone: the same
    weights from a file would make another network (https://github.com/tensorflow/tensorflow/issues/49930 and 62193).
    """
    deviations = _find_module(application).IMAGENET_STDDEV_RGB

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        outputs = layer(*arguments, **options)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling([1 / math.sqrt(deviation) for deviation in deviations])(outputs)
        return outputs

    return rewrite_network(keras, network, call=call)


def load_weights_file(network: Any, params: NetworkParams) -> None:
    """Load a weights file that `check_weights_file` has let pass into a network that it must fit whole.

    Raises
    ------
    NetworkError
        It is no weights file, or does not hold every weight of the network.
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
            f"extract.weights: {path}: wanted a Keras weights file (HDF5), got: {_shorten(error)}"
        ) from None
    except (ValueError, KeyError) as error:
        raise NetworkError(unfit + _shorten(error)) from None
    if missing := [weight.path for weight in network.weights if np.isnan(np.asarray(weight)).any()]:
        raise NetworkError(f"{unfit}it lacks {len(missing)} of {len(network.weights)}, the first is {missing[0]}")


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def check_weights_file(path: Path, sha256: str) -> None:
    """Raise `NetworkError` unless the file is there and has the hash."""
    if not path.is_file():
        raise NetworkError(f"extract.weights: {path}: no such file; put the weights there, or set extract.weights")
    found = hash_file(path)
    if found != sha256:
        raise NetworkError(
            f"extract.weights: {path}: wanted sha256 {sha256} (extract.weights_sha256), got {found}; "
            "fetch the file again, or set the hash if this file is the right one"
        )


def set_random_weights(network: Any, seed: int) -> None:
    """Draw every kernel anew from N(0, 2 / fan_in), so that activations keep their scale through layers with ReLU.

    He et al. 2015, "Delving deep into rectifiers", equation 10. Gates (EfficientNet, MobileNetV3) halve the activations
    all the same; `train.scale` makes up for it. The numbers come from numpy, so that each backend of keras gets the
    same. Everything that is no kernel stays as keras initialises it: biases at 0, normalisations at mean 0 and
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


def _cut_network(keras: Any, network: Any, params: NetworkParams) -> Any:
    names = [layer.name for layer in network.layers]
    if params.layer is not None and params.layer not in names:
        close = difflib.get_close_matches(params.layer, names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise NetworkError(
            f"extract.layer: wanted a layer of {params.network}, got {params.layer}{hint}; it has {', '.join(names)}"
        )
    output = network.output if params.layer is None else network.get_layer(params.layer).output
    if params.pooling != "flatten" and len(output.shape) != 4:
        raise NetworkError(
            f"extract.pooling: {params.layer} of {params.network} has the shape {tuple(output.shape)}, not (images, "
            f"height, width, channels); take pooling flatten, got {params.pooling}"
        )
    pool = {
        "flatten": keras.layers.Flatten,
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
    }[params.pooling]
    # Sums over an image's whole height and width keep float32 also where the network computes in bfloat16.
    return keras.Model(network.input, pool(dtype="float32")(output))


# Keys of a layer's configuration that do not decide its output, or that are recorded by themselves (size, precision).
# A name may count how many networks were built before.
_IRRELEVANT = re.compile(
    "batch_shape|build_config|build_input_shape|dtype|module|momentum|name|registered_name|seed|synchronized|trainable|"
    ".*_(constraint|initializer|regularizer)"
)


def hash_network(model: Any) -> str:
    """Return the SHA-256 of a functional model's layers and weights, in the network's order.

    Of each layer its class, what it is called with (the places of the layers before it, and constants) and its
    configuration as JSON (without what does not decide an output, and without None and False, which a later keras may
    add), then shape and little-endian bytes of each weight.
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


def list_constants(keras: Any, model: Any) -> list[dict[str, Any]]:
    """Return class and constants, of each channel or of all, of a model's layers that scale and shift by constants."""
    kinds = {keras.layers.Rescaling: ("scale", "offset"), keras.layers.Normalization: ("mean", "variance")}

    def read(layer: Any, name: str) -> Any:
        return keras.ops.convert_to_numpy(getattr(layer, name)).astype(np.float32).squeeze().tolist()

    return [
        {"layer": kind.__name__, **{name: read(layer, name) for name in names}}
        for layer in model.layers
        for kind, names in kinds.items()
        if isinstance(layer, kind)
    ]
