"""Where keras keeps ImageNet weights, for a short list of networks to begin with."""

import os
from pathlib import Path
from typing import NamedTuple

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications"
TIMEOUT_SECONDS = 3.0


class Pretrained(NamedTuple):
    """A network and its weights without the top: how keras names the file, at which address it is, how large it is."""

    network: str
    file: str
    address: str
    megabytes: int

    @property
    def path(self) -> Path:
        """Where keras looks for the file before it fetches it."""
        return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / self.file


def _list(network: str, folder: str, file: str, megabytes: int) -> Pretrained:
    return Pretrained(network, file, f"{ADDRESS}/{folder}/{file}", megabytes)


# The first is the one to begin with: fast, and good on photos. The rest takes longer, in this order.
PRETRAINED = (
    _list("mobilenet_v2", "mobilenet_v2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", 9),
    _list("efficientnet_v2_b0", "efficientnet_v2", "efficientnetv2-b0_notop.h5", 24),
    _list("resnet50", "resnet", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", 95),
    _list("vgg16", "vgg16", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", 59),
)


def can_be_fetched(pretrained: Pretrained) -> bool:
    """Return whether the address of the weights answers, within seconds."""
    import httpx

    try:
        return httpx.head(pretrained.address, timeout=TIMEOUT_SECONDS, follow_redirects=True).is_success
    except (httpx.HTTPError, OSError):
        return False
