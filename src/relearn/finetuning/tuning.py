"""A whole fine-tuning: from the images to the trained network, resumed if an earlier one was killed."""

import fcntl
import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.errors import Locked, NetworkError
from relearn.finetuning.determinism import allow_other_kernels, ask_for_determinism
from relearn.finetuning.network import BatchTooLarge, NoDeterministicKernel, TunableNetwork
from relearn.finetuning.progress import Limits, Progress, read_progress, write_progress
from relearn.finetuning.training import Images, Training, Tuned, plan_views
from relearn.heads.training_data import check_labels
from relearn.networks.recipe import describe_recipe
from relearn.networks.weights import check_weights_file
from relearn.params.augmentation import AugmentParams
from relearn.params.finetuning import FinetuneParams
from relearn.params.networks import NetworkParams
from relearn.runtime.code import hash_code
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)

# The packages that decide a training, beside those that decide a feature.
CODE = ("features", "finetuning", "heads")

KEPT_DAYS = 7  # where a killed training stands


@contextmanager
def tune_network(
    manifest: Sequence[ManifestRow], params: FinetuneParams, augment: AugmentParams, extract: NetworkParams
) -> Iterator[tuple[TunableNetwork, Tuned, Limits]]:
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
    Locked
        Another process has the same training.
    """
    n_views = plan_views(params, augment)
    if extract.weights_are_file:
        check_weights_file(Path(extract.weights), str(extract.weights_sha256))
    images = Images(manifest, n_views or 0, augment)
    check_labels([row.label for row in images.training], [row.label for row in images.validation])
    folder = paths.find_cache() / "finetune" / _hash_training(images, params, augment, extract)
    with hold_training(folder):
        remove_abandoned(folder)
        try:
            trained = train_network(images, params, extract, is_fresh=n_views is None, folder=folder)
        except MemoryError as error:
            advice = "lower finetune.batch_size or extract.batch_size, or choose a later finetune.from_layer"
            raise NetworkError(f"too little memory for {error}", where="finetune", advice=advice) from None
        yield trained
        shutil.rmtree(folder, ignore_errors=True)


def train_network(
    images: Images, params: FinetuneParams, extract: NetworkParams, *, is_fresh: bool, folder: Path
) -> tuple[TunableNetwork, Tuned, Limits]:
    """Train with what the machine can do, from where the folder says that an earlier training stands.

    If a batch is too large for memory, half of it is tried; if there is no deterministic kernel for an operation,
    others are. The training begins again then, and the folder remembers it.

    Raises
    ------
    NetworkError
        There is too little memory for one image.
    """
    path = folder / "progress"
    if (progress := read_progress(path)) is None:
        limits = Limits(params.batch_size, extract.batch_size, ask_for_determinism())
        progress = Progress(limits, [], [], [])
    elif progress.limits.deterministic:
        ask_for_determinism()
    while True:
        limits = progress.limits
        try:
            return *_train_within(progress, images, params, extract, is_fresh=is_fresh, folder=folder), limits
        except BatchTooLarge as error:
            progress = Progress(_halve_batch(limits, error), [], [], [])
        except NoDeterministicKernel as error:
            if not limits.deterministic:
                raise NetworkError(f"the backend cannot train {extract.network}: {error}", where="finetune") from None
            log.warning("finetune: begins again without deterministic kernels: %s", error)
            allow_other_kernels()
            progress = Progress(limits._replace(deterministic=False), [], [], [])
        gc.collect()  # of the network
        if progress.limits[1:] != limits[1:]:  # on which activations depend
            shutil.rmtree(folder / "activations", ignore_errors=True)
        write_progress(path, progress)


def _train_within(
    progress: Progress,
    images: Images,
    params: FinetuneParams,
    extract: NetworkParams,
    *,
    is_fresh: bool,
    folder: Path,
) -> tuple[TunableNetwork, Tuned]:
    limits = progress.limits
    params = params.model_copy(update={"batch_size": limits.batch_size})
    extract = extract.model_copy(update={"batch_size": limits.extract_batch_size})
    network = TunableNetwork(extract, params, len(images.classes))
    log.info(
        "finetune: %s from %s on, %s weights of %s, %d images a step",
        *(extract.network, network.first_layer, f"{network.n_learning:,}", f"{network.n_weights:,}"),
        limits.batch_size,
    )
    if not limits.deterministic:
        log.warning("finetune: not all kernels are deterministic, so another run may give other weights")
    return network, Training(network, images, params, is_fresh, folder).run(progress)


def _halve_batch(limits: Limits, error: BatchTooLarge) -> Limits:
    if error.size == 1:
        problem, advice = "there is too little memory for one image", "choose a later finetune.from_layer"
        raise NetworkError(problem, where=error.key, advice=f"{advice}, or lower extract.image_size_px") from None
    log.warning("finetune: begins again with half of %s: there is too little memory for %s", error.key, error)
    half = error.size // 2
    if error.key == "finetune.batch_size":
        return limits._replace(batch_size=half)
    return limits._replace(extract_batch_size=half)


@contextmanager
def hold_training(folder: Path) -> Iterator[None]:
    """Keep other processes out of a training's folder while the block runs, which may remove it.

    Raises
    ------
    Locked
        Another process has it.
    """
    file = None
    while file is None:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(folder / "lock")
    with file:
        yield


def _open_lock(path: Path) -> IO[str] | None:
    """Return the file, open and locked, or None if its folder is being removed."""
    with suppress(FileNotFoundError), ExitStack() as stack:
        file = stack.enter_context(path.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem, advice = "another process has this training", "wait until it has ended"
            raise Locked(problem, where=path.parent, advice=advice) from None
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            stack.pop_all()
            return file
    return None


def remove_abandoned(folder: Path) -> None:
    """Remove what killed trainings left beside a training's folder: their activations and, after days, all."""
    for other in folder.parent.iterdir():
        if other == folder or not other.is_dir():
            continue
        with suppress(Locked), hold_training(other):
            shutil.rmtree(other / "activations", ignore_errors=True)
            path = other / "progress"
            if not path.exists() or time.time() - path.stat().st_mtime > KEPT_DAYS * 86_400:
                shutil.rmtree(other, ignore_errors=True)


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
