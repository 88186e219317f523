"""A whole fine-tuning: from the images to the trained network, resumed if an earlier one was killed."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.errors import NetworkError
from relearn.finetuning.network import TunableNetwork
from relearn.finetuning.training import Images, Training, Tuned, plan_views
from relearn.heads.training_data import check_labels
from relearn.networks.recipe import describe_recipe
from relearn.networks.weights import check_weights_file
from relearn.params.augmentation import AugmentParams
from relearn.params.finetuning import FinetuneParams
from relearn.params.networks import NetworkParams
from relearn.runtime.code import hash_code
from relearn.storage.database import lock_file
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)

# The packages that decide a training, beside those that decide a feature.
CODE = ("features", "finetuning", "heads")


@contextmanager
def tune_network(
    manifest: Sequence[ManifestRow], params: FinetuneParams, augment: AugmentParams, extract: NetworkParams
) -> Iterator[tuple[TunableNetwork, Tuned]]:
    """Train the upper part of the network, and yield it with what the training ended with; see `Training.run`.

    Where it stands is kept in the folder of caches after every epoch and every two minutes, under the hash of all that
    it depends on, so that a training that was killed goes on, and ends with the bytes of one that was not. It is
    removed after the block, which writes the results.

    Raises
    ------
    ParamsError
        There should be views, and nothing by which they differ from their image.
    NetworkError
        The network cannot be built, there is nothing in it to train, or there is too little memory for a batch.
    StoreError
        There is no room for the activations of the part that stays as it is.
    TrainingError
        A class or all images are missing, or the loss is not finite.
    IntegrityError
        An image is missing or differs from the manifest.
    """
    n_views = plan_views(params, augment)
    if extract.weights_are_file:
        check_weights_file(Path(extract.weights), str(extract.weights_sha256))
    images = Images(manifest, n_views or 0, augment)
    check_labels([row.label for row in images.training], [row.label for row in images.validation])
    # Read when TensorFlow starts: without it some kernels on a GPU add in another order each time.
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
    folder = paths.find_cache() / "finetune" / _hash_training(images, params, augment, extract)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(folder):
        network = TunableNetwork(extract, params, len(images.classes))
        log.info(
            "finetune: %s from %s on, %s weights of %s",
            *(extract.network, network.first_layer, f"{network.n_learning:,}", f"{network.n_weights:,}"),
        )
        try:
            tuned = Training(network, images, params, n_views is None, folder).run()
        except MemoryError as error:
            advice = "lower finetune.batch_size or extract.batch_size, or choose a later finetune.from_layer"
            raise NetworkError(f"too little memory for {error}", where="finetune", advice=advice) from None
        yield network, tuned
        shutil.rmtree(folder)


def _hash_training(images: Images, params: FinetuneParams, augment: AugmentParams, extract: NetworkParams) -> str:
    """Return a name for all that a training depends on."""
    depends = {
        "images": [(row.split, row.sha256, row.label) for row in [*images.training, *images.validation]],
        "finetune": params.model_dump(exclude={"keep", "activations_gb"}),
        "augment": augment.model_dump(),
        "recipe": describe_recipe(extract),
        "code": hash_code(*CODE),
    }
    return hash_bytes(json.dumps(depends, sort_keys=True).encode())[:32]
