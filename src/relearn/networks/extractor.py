"""A pretrained network without its top, bound to the preprocessing that it was trained with.

keras is imported inside the functions: it costs seconds and half a gigabyte.
"""

import contextlib
import difflib
import inspect
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from relearn.errors import NetworkError, UnfitFeature
from relearn.networks.batch_norm import fuse_batch_norm
from relearn.networks.hardware import choose_precision, find_backend
from relearn.networks.mini_vgg import MiniVGG
from relearn.networks.reading import ImageReader, group_items
from relearn.networks.recipe import ExtractorRecord, list_constants
from relearn.networks.rewriting import rewrite_network
from relearn.networks.weights import (
    check_weights_file,
    hash_network,
    load_weights_file,
    set_random_weights,
    shorten_error,
)
from relearn.networks.winograd import is_supported, transform_convolutions
from relearn.params.networks import NETWORKS, NetworkParams
from relearn.runtime.backend import use_keras
from relearn.runtime.threads import prefetch

# The errors of TensorFlow and torch, and texts in more general errors: from JAX and from torch's other allocators (of
# host memory, cuDNN, cuBLAS, the driver).
OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError", "MemoryError")
OUT_OF_MEMORY_TEXTS = ("RESOURCE_EXHAUSTED", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")


class Extractor(ImageReader):
    """A network, its cut, its pooling and its preprocessing as one object: images in, features out.

    Attributes
    ----------
    n_features, batch_size : int
    map_shape : (height, width, channels) or None
        The shape of the feature map that is pooled; None if the layer's output has no positions.
    dtype : numpy.dtype
        The type of the features.
    record : ExtractorRecord
    """

    def __init__(self, params: NetworkParams) -> None:
        if params.weights_are_file:
            check_weights_file(Path(params.weights), str(params.weights_sha256))
        params = params.model_copy(update={"precision": choose_precision(params.precision)})
        self.dtype = np.dtype(params.feature_dtype).newbyteorder("<")
        with use_keras(params.precision) as keras:
            self._build(keras, params)

    def _build(self, keras: Any, params: NetworkParams) -> None:
        super().__init__(params, find_preprocessing(keras, params.network))
        model = cut_network(keras, build_network(keras, params), params)
        self._model = fuse_batch_norm(keras, model)
        if is_supported(params.precision):
            self._model = transform_convolutions(keras, self._model)
        self.n_features: int = model.output.shape[-1]
        shape = self._model.output._keras_history.operation.input.shape[1:]
        self.map_shape: tuple[int, int, int] | None = tuple(shape) if len(shape) == 3 else None
        backend_name, backend_version = find_backend()
        self.record = ExtractorRecord(
            **params.model_dump(include=set(NetworkParams.model_fields)),
            n_features=self.n_features,
            feature_map=None if self.map_shape is None else list(self.map_shape),
            n_parameters=model.count_params(),
            network_sha256=hash_network(model),
            constants=list_constants(keras, self._model),
            pillow=PIL.__version__,
            keras=keras.__version__,
            backend=f"{backend_name} {backend_version}",
        )

    def compute_rows(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of each prepared image, in order: (n_features,)."""
        for features in self.compute_batches(images):
            yield from features

    def compute_batches(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of prepared images, `batch_size` rows at a time; the next two are stacked in a thread."""
        stacked = (self.stack_images(group) for group in group_items(images, self.batch_size))
        for batch, n_images in prefetch(stacked, 2):
            yield self._run(batch, n_images)

    def compute_features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Run the network over at most `batch_size` prepared images.

        A shorter batch is padded with black images, whose rows are dropped: the shape of a batch decides the order in
        which a backend adds, so one fixed shape gives an image the same bits whatever else is in its batch.

        Returns
        -------
        ndarray of shape (len(images), n_features), of `extract.feature_dtype`

        Raises
        ------
        UnfitFeature
            A feature is NaN or infinite, or too large for the type.
        MemoryError
            There is too little memory for a batch of this size.
        """
        return self._run(*self.stack_images(images))

    def compute_maps(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Run the network once over at most `batch_size` prepared images, for a layer whose output has positions.

        Returns
        -------
        maps : ndarray of shape (len(images), *map_shape), float32
            The layer's output before the pooling.
        features : ndarray of shape (len(images), n_features)
            Those of `compute_features`.

        Raises
        ------
        UnfitFeature, MemoryError
            As in `compute_features`.
        """
        batch, n_images = self.stack_images(images)
        with name_shortage(self.batch_size):
            maps, features = self._model_with_maps.predict_on_batch(batch)
        return np.asarray(maps, np.float32)[:n_images], self._store(features, n_images)

    @cached_property
    def _model_with_maps(self) -> Any:
        pooled = self._model.output
        return type(self._model)(self._model.input, [pooled._keras_history.operation.input, pooled])

    def _run(self, batch: np.ndarray, n_images: int) -> np.ndarray:
        with name_shortage(self.batch_size):
            computed = self._model.predict_on_batch(batch)
        return self._store(computed, n_images)

    def _store(self, computed: Any, n_images: int) -> np.ndarray:
        """Return the features of the images of a batch in the type that they are stored in."""
        features = np.asarray(computed, np.float32)[:n_images]
        with np.errstate(over="ignore"):
            stored = features.astype(self.dtype)
        if not np.isfinite(stored).all():
            row = int(np.flatnonzero(~np.isfinite(stored).all(axis=1))[0])
            if np.isfinite(features[row]).all():
                got = f"{np.abs(features[row]).max():g}, too large for {self._params.feature_dtype}"
                advice = "set extract.feature_dtype to float32"
            else:
                got, advice = "NaN or infinity", "check extract.weights"
            where = f"extract.network {self._params.network}"
            raise UnfitFeature(row=row, where=where, wanted="finite features", got=got, advice=advice)
        return stored


@contextlib.contextmanager
def name_shortage(batch_size: int) -> Iterator[None]:
    """Raise `MemoryError`, whatever the backend raises for a lack of memory."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in OUT_OF_MEMORY or any(text in str(error) for text in OUT_OF_MEMORY_TEXTS):
            raise MemoryError(f"a batch of {batch_size} images") from error
        raise


def find_preprocessing(keras: Any, network: str) -> Any:
    """Return the `preprocess_input` of the network's module, whatever keras is set to when it is called."""
    application = _find_application(keras, network)
    preprocess = _find_module(application).preprocess_input
    return preprocess if application is MiniVGG else partial(preprocess, data_format="channels_last")


def _find_application(keras: Any, network: str) -> Any:
    """Return the function that builds a network: one of `keras.applications`, or our own."""
    return MiniVGG if network == "mini_vgg" else getattr(keras.applications, NETWORKS[network])


def _find_module(application: Any) -> Any:
    return inspect.getmodule(inspect.unwrap(application))


def build_network(keras: Any, params: NetworkParams) -> Any:
    """Return the whole network without its top, with its weights, as keras builds it."""
    application = _find_application(keras, params.network)
    size = params.image_size_px
    weights = "imagenet" if params.weights == "imagenet" else None
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # keras prints the progress of a download
            network = application(weights=weights, include_top=False, input_shape=(size, size, 3))
    except OSError as error:
        raise NetworkError(
            f"the file of {params.network} in {folder} cannot be read: {shorten_error(error)}",
            where="extract.weights: imagenet",
            advice="remove it, and it is downloaded again",
        ) from None
    except ValueError as error:
        if found := re.search(r"Input size must be at least (\d+)x", str(error)):
            wanted = f"at least {found[1]} for {params.network}"
            raise NetworkError(where="extract.image_size_px", wanted=wanted, got=size) from None
        problem = f"{params.network} cannot be built: {shorten_error(error)}"
        raise NetworkError(problem, where="extract.network") from None
    except Exception as error:  # keras.utils.get_file raises no narrower one
        failure = re.search(r"URL fetch failure on (\S+): (.*)", str(error))
        if failure is None:
            raise
        url, reason = failure.groups()
        name = url.rsplit("/", 1)[-1]
        raise NetworkError(
            f"the weights of {params.network} are not on this machine and cannot be downloaded from {url} ({reason})",
            where="extract.weights: imagenet",
            advice=f"put that file at {folder / name}",
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

    For this word alone keras divides the input once more by the root of the standard deviation: the same weights from a
    file would give another network (https://github.com/tensorflow/tensorflow/issues/49930 and 62193).
    """
    deviations = _find_module(application).IMAGENET_STDDEV_RGB

    def _call(layer: Any, *arguments: Any, **options: Any) -> Any:
        outputs = layer(*arguments, **options)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling([1 / math.sqrt(deviation) for deviation in deviations])(outputs)
        return outputs

    return rewrite_network(keras, network, call=_call)


def cut_network(keras: Any, network: Any, params: NetworkParams) -> Any:
    """Return the network up to `layer`, pooled; it shares the layers."""
    names = [layer.name for layer in network.layers]
    if params.layer is not None and params.layer not in names:
        close = difflib.get_close_matches(params.layer, names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise NetworkError(
            where="extract.layer",
            wanted=f"a layer of {params.network}",
            got=f"{params.layer}{hint}",
            advice=f"it has {', '.join(names)}",
        )
    output = network.output if params.layer is None else network.get_layer(params.layer).output
    if params.pooling != "flatten" and len(output.shape) != 4:
        raise NetworkError(
            where="extract.pooling",
            wanted=f"flatten for {params.layer} of {params.network}, whose shape is {tuple(output.shape)}",
            got=params.pooling,
            advice="set flatten, or choose a layer of shape (images, height, width, channels)",
        )
    pool = {
        "flatten": keras.layers.Flatten,
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
    }[params.pooling]
    # Sums over an image's whole height and width keep float32 even if the network computes in bfloat16.
    return keras.Model(network.input, pool(dtype="float32")(output))
