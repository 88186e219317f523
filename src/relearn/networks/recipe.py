"""The recipe of a feature: all that decides it apart from the image."""

import math
from importlib.metadata import version
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from relearn.networks.hardware import choose_precision, describe_hardware, find_backend
from relearn.params.block import Sha256
from relearn.params.networks import NETWORKS, NetworkParams
from relearn.runtime.code import hash_code

# The packages that decide a feature. Errors, paths, params and storage decide none.
CODE = ("images", "networks", "runtime")


class ExtractorRecord(NetworkParams):
    """What an extractor needs to be built again; goes to `extractor.json` and into `classifier.json`.

    Attributes
    ----------
    feature_map
        Height, width and channels of the layer's output before the pooling; None if it has no positions, or if an
        earlier relearn wrote the record.
    network_sha256
        Hash of the layers, their settings, their connections and their weights; see `hash_network`.
    constants
        The layers that scale and shift by constants, in their order: a network's own preprocessing.
    """

    n_features: int
    feature_map: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)] | None = None
    n_parameters: int
    network_sha256: Sha256
    constants: list[dict[str, str | float | list[float]]]
    pillow: str
    keras: str
    backend: str

    @model_validator(mode="after")
    def _check_feature_map(self) -> Self:
        if self.feature_map is not None:
            n_features = math.prod(self.feature_map) if self.pooling == "flatten" else self.feature_map[-1]
            if n_features != self.n_features:
                shape = " x ".join(map(str, self.feature_map))
                raise ValueError(
                    f"wanted a feature_map of {self.n_features:,} features with pooling {self.pooling}, got {shape}"
                )
        return self


def describe_recipe(params: NetworkParams) -> dict[str, Any]:
    """Return all that decides a feature apart from the image, without building the network.

    Weights are identified by the hash of their file, or by the seed and the code that draws them. ImageNet weights are
    identified by the version of keras, which does not know the hash of every file: code that builds the network
    compares its `network_sha256` with the record of the features that exist.
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


def list_constants(keras: Any, model: Any) -> list[dict[str, Any]]:
    """Return class and constants, per channel or for all, of a model's layers that scale and shift by constants."""
    kinds = {keras.layers.Rescaling: ("scale", "offset"), keras.layers.Normalization: ("mean", "variance")}

    def _read(layer: Any, name: str) -> Any:
        return keras.ops.convert_to_numpy(getattr(layer, name)).astype(np.float32).squeeze().tolist()

    return [
        {"layer": kind.__name__, **{name: _read(layer, name) for name in names}}
        for layer in model.layers
        for kind, names in kinds.items()
        if isinstance(layer, kind)
    ]
