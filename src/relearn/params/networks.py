"""The block `extract`: the network and how its features are computed."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from relearn.params.block import Block, Seed, Sha256
from relearn.params.yaml_file import shorten

# extract.network -> the function of keras.applications, or our own MiniVGG. A table, so that a wrong name is reported
# at once, without the seconds that importing keras takes; a test holds it against keras.
NETWORKS = {
    "convnext_base": "ConvNeXtBase",
    "convnext_large": "ConvNeXtLarge",
    "convnext_small": "ConvNeXtSmall",
    "convnext_tiny": "ConvNeXtTiny",
    "convnext_xlarge": "ConvNeXtXLarge",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "efficientnet_b0": "EfficientNetB0",
    "efficientnet_b1": "EfficientNetB1",
    "efficientnet_b2": "EfficientNetB2",
    "efficientnet_b3": "EfficientNetB3",
    "efficientnet_b4": "EfficientNetB4",
    "efficientnet_b5": "EfficientNetB5",
    "efficientnet_b6": "EfficientNetB6",
    "efficientnet_b7": "EfficientNetB7",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "efficientnet_v2_b1": "EfficientNetV2B1",
    "efficientnet_v2_b2": "EfficientNetV2B2",
    "efficientnet_v2_b3": "EfficientNetV2B3",
    "efficientnet_v2_l": "EfficientNetV2L",
    "efficientnet_v2_m": "EfficientNetV2M",
    "efficientnet_v2_s": "EfficientNetV2S",
    "inception_resnet_v2": "InceptionResNetV2",
    "inception_v3": "InceptionV3",
    "mini_vgg": "MiniVGG",
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3Large",
    "mobilenet_v3_small": "MobileNetV3Small",
    "nasnet_large": "NASNetLarge",
    "nasnet_mobile": "NASNetMobile",
    "resnet50": "ResNet50",
    "resnet50_v2": "ResNet50V2",
    "resnet101": "ResNet101",
    "resnet101_v2": "ResNet101V2",
    "resnet152": "ResNet152",
    "resnet152_v2": "ResNet152V2",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "xception": "Xception",
}

# The sizes for which keras.applications builds a network by default, where it is not 224 px; a test holds them.
IMAGE_SIZES_PX = {
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnet_b5": 456,
    "efficientnet_b6": 528,
    "efficientnet_b7": 600,
    "efficientnet_v2_b1": 240,
    "efficientnet_v2_b2": 260,
    "efficientnet_v2_b3": 300,
    "efficientnet_v2_l": 480,
    "efficientnet_v2_m": 480,
    "efficientnet_v2_s": 384,
    "inception_resnet_v2": 299,
    "inception_v3": 299,
    "nasnet_large": 331,
    "xception": 299,
}

BUNDLED_WEIGHTS = "pretraining/mini_vgg.weights.h5"
BUNDLED_SHA256 = "f10fab4cba70a1bc2f50cc311a0c2f1f66c5ea1192cecfd73c53aaa0b08d2288"

AUTO = "auto"


def choose_preset(network: str) -> dict[str, Any]:
    """Return what `auto` stands for in the block of a network, by key."""
    if network == "mini_vgg":
        return {"weights": BUNDLED_WEIGHTS, "layer": "block2_pool", "pooling": "flatten", "image_size_px": 32}
    return {"weights": "imagenet", "layer": None, "pooling": "avg", "image_size_px": IMAGE_SIZES_PX.get(network, 224)}


class NetworkParams(Block):
    """All that decides a feature, apart from the image; `auto` is resolved before anything is checked."""

    network: Literal[tuple(NETWORKS)]  # type: ignore[valid-type]
    weights: Annotated[str, Field(min_length=1)]
    weights_sha256: Sha256 | None
    seed: Seed
    layer: str | None
    pooling: Literal["flatten", "avg", "max"]
    image_size_px: Annotated[int, Field(ge=1, le=4096)]
    resize_filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    precision: Literal["float32", "bfloat16", "auto"]
    feature_dtype: Literal["float32", "float16"]
    jpeg_draft: bool

    @model_validator(mode="before")
    @classmethod
    def _resolve_auto(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = choose_preset(str(values.get("network")))
        resolved = {key: preset[key] if key in preset and value == AUTO else value for key, value in values.items()}
        if values.get("weights") == AUTO and resolved["weights"] == BUNDLED_WEIGHTS:
            resolved["weights_sha256"] = values.get("weights_sha256") or BUNDLED_SHA256
        return resolved

    @model_validator(mode="after")
    def _name_the_bytes(self) -> "NetworkParams":
        if self.network == "mini_vgg" and self.weights == "imagenet":
            raise ValueError("weights: random or a path with mini_vgg, got imagenet, which the other networks have")
        if self.weights_are_file and self.weights_sha256 is None:
            path = shorten(self.weights)
            if not os.path.isfile(self.weights):  # unlike Path's, False for a name that is too long
                raise ValueError(f"weights_sha256 beside the path {path}, where no file is")
            from relearn.storage.files import hash_file  # imports numpy, which every other command would wait for

            sha256 = hash_file(Path(self.weights))
            raise ValueError(
                f"weights_sha256, got no hash of {path}; if this file is the right one, add weights_sha256: {sha256}"
            )
        if not self.weights_are_file and self.weights_sha256 is not None:
            raise ValueError(
                f"weights_sha256: null with weights: {self.weights} (-S extract.weights_sha256=null), which is a path's"
            )
        return self

    @property
    def weights_are_file(self) -> bool:
        """Return whether `weights` is a path and not one of the two words."""
        return self.weights not in ("imagenet", "random")


class ExtractParams(NetworkParams):
    """How features come about: by what, of how many views, and who computes them."""

    views: Annotated[int, Field(ge=0, le=1000)]
    executor: Literal["local", "dask"]
