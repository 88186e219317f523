"""A small data set whose classes a network can learn: stripes of another direction each."""

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, encode_image
from relearn import paths
from relearn.dataset.manifest import ManifestRow, sort_key
from relearn.finetuning.network import TunableNetwork
from relearn.finetuning.training import Images, plan_views
from relearn.finetuning.tuning import train_network
from relearn.params.augmentation import AugmentParams
from relearn.params.finetuning import FinetuneParams
from relearn.params.networks import ExtractParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_bytes

PARAMS = read_params(ROOT / "params.yaml")
FLIPS = {"horizontal_flip": 0.5, "shift": 0.1}
CLASSES = ("across", "down", "slanted")
FINETUNE = {
    "epochs": 3,
    "from_layer": None,
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-3,
    "layer_decay": 0.9,
    "weight_decay": 0.01,
    "warmup_epochs": 0.5,
    "label_smoothing": 0.0,
    "batch_size": 8,
    "patience": 10,
    "keep": "always",
    "views": None,
    "activations_gb": 1.0,
    "seed": 0,
}
NETWORKS = {
    "mini_vgg": {"weights": str(ROOT / PARAMS.extract.weights)},
    "mobilenet_v2": {"weights": "random", "weights_sha256": None},
    "efficientnet_b0": {"weights": "random", "weights_sha256": None},  # with dropout
}


class Make:
    """Makes blocks of params.yaml and networks to tune, with some keys changed."""

    def finetune(self, **changes):
        return FinetuneParams.model_validate(FINETUNE | changes)

    def extract(self, network, **changes):
        base = {"network": network, "layer": None, "pooling": "avg", "batch_size": 16}
        return ExtractParams.model_validate(PARAMS.extract.model_dump() | base | NETWORKS[network] | changes)

    def augment(self, **changes):
        return AugmentParams.model_validate(PARAMS.augment.model_dump() | changes)

    def network(self, network, **changes):
        return TunableNetwork(self.extract(network), self.finetune(**changes), len(CLASSES))


@pytest.fixture
def make():
    return Make()


def draw_stripes(label, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    phase = {"across": y, "down": x, "slanted": x + y}[label] * rng.uniform(0.6, 1.2) + rng.uniform(0, 6)
    gray = 128 + 60 * np.sin(phase) + rng.normal(0, 60, (32, 32))
    return Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).convert("RGB")


def write_image(split, label, seed):
    content = encode_image(draw_stripes(label, seed))
    name = f"{split}/{label}/{seed}.png"
    path = paths.DATASET / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return ManifestRow(name, split, label, hash_bytes(content), len(content), 32, 32, "RGB", "PNG")


@pytest.fixture
def stripes(workspace):
    """Return the manifest of 36 training and 24 validation images."""
    numbers = {"training": range(36), "validation": range(100, 124)}
    return sorted(
        (write_image(split, CLASSES[seed % 3], seed) for split, seeds in numbers.items() for seed in seeds),
        key=sort_key,
    )


@pytest.fixture
def tune(stripes, make, workspace):
    """Train, and return the network, what the training ended with, and its limits."""

    def tune(folder="run", name="mini_vgg", augment=None, extract=None, **changes):
        params = make.finetune(**changes)
        options = make.augment(**augment or {})
        n_views = plan_views(params, options)
        images = Images(stripes, n_views or 0, options)
        extract = make.extract(name, **extract or {})
        return train_network(images, params, extract, is_fresh=n_views is None, folder=workspace / folder)

    return tune


def read_weights(network):
    return b"".join(value.tobytes() for value in network.read_weights())
