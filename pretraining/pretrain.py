"""Stage `pretrain`: mini_vgg on CIFAR-10, from random weights to a file of float16.

Whatever the next step depends on is a function of its number and of the seed, or is kept in a checkpoint after each
epoch. So a training that was killed goes on where it was, and ends with the same weights.
"""

import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cifar10 import ARRAYS, CLASSES, TOP, WEIGHTS
from relearn.errors import RelearnError, TrainingError
from relearn.networks import mini_vgg
from relearn.networks.batch_norm import fuse_batch_norm
from relearn.networks.mini_vgg import MiniVGG, preprocess_input
from relearn.runtime.backend import import_keras
from relearn.storage.files import hash_bytes, hash_file, write_file, write_folder, write_json
from settings import PretrainParams, read_settings

CHECKPOINT = Path("checkpoint")
CURVES = Path("curves")


def augment_images(pixels: np.ndarray, rng: np.random.Generator, crop_px: int, cutout_px: int) -> np.ndarray:
    """Shift, mirror and blank out a square of each image.

    The border of a shifted image is its mirror image; every second image is mirrored from left to right; a square of
    mean gray, parts of which may lie outside, is put anywhere (DeVries and Taylor 2017, "cutout").

    Parameters
    ----------
    pixels : ndarray (images, height, width, 3) uint8

    Returns
    -------
    ndarray of the same shape, float32 from 0 to 255
    """
    n_images, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (crop_px, crop_px), (crop_px, crop_px), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top, left = rng.integers(0, 2 * crop_px + 1, (2, n_images))
    images: np.ndarray = windows[np.arange(n_images), top, left].transpose(0, 2, 3, 1).astype(np.float32)
    mirrored = rng.random(n_images) < 0.5
    images[mirrored] = images[mirrored, :, ::-1]
    rows, columns = (_draw_runs(rng, n_images, length, cutout_px) for length in (height, width))
    images[rows[:, :, None] & columns[:, None, :]] = 127.5
    return images


def _draw_runs(rng: np.random.Generator, n_images: int, length: int, n_inside: int) -> np.ndarray:
    """Return for each image which of `length` positions are in a run whose middle is anywhere: (images, length)."""
    first = rng.integers(-(n_inside // 2), length - n_inside // 2, (n_images, 1))
    positions = np.arange(length)
    inside: np.ndarray = (positions >= first) & (positions < first + n_inside)
    return inside


def iterate_batches(
    pixels: np.ndarray, labels: np.ndarray, params: PretrainParams, first_epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches without end from an epoch (from 0) on: images for the network, and classes as 0 and 1.

    Each epoch draws from its own generator. What is left of an epoch after the last full batch is not used in it.
    """
    targets = np.eye(len(CLASSES), dtype=np.float32)[labels]
    size = params.batch_size
    for epoch in itertools.count(first_epoch):
        rng = np.random.default_rng([params.seed, epoch])
        order = rng.permutation(len(pixels))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield preprocess_input(augment_images(pixels[rows], rng, params.crop_px, params.cutout_px)), targets[rows]


def build_network(keras: Any, params: PretrainParams, n_steps_per_epoch: int) -> Any:
    """Return the network with batch norm after each convolution and the classes on top, ready to be trained."""
    keras.utils.set_random_seed(params.seed)
    trunk = MiniVGG(batch_norm=True)
    values = keras.layers.GlobalAveragePooling2D(name="pool")(trunk.output)
    network = keras.Model(trunk.input, keras.layers.Dense(len(CLASSES), dtype="float32", name="classes")(values))
    n_warmup_steps = params.warmup_epochs * n_steps_per_epoch
    # A line up, then half a cosine down (Loshchilov and Hutter 2017, "SGDR").
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0 if n_warmup_steps else params.learning_rate,
        decay_steps=max(1, params.epochs * n_steps_per_epoch - n_warmup_steps),
        warmup_target=params.learning_rate if n_warmup_steps else None,
        warmup_steps=n_warmup_steps,
    )
    optimizer = keras.optimizers.SGD(
        learning_rate,
        momentum=params.momentum,
        nesterov=True,
        weight_decay=params.weight_decay,
        use_ema=params.ema_momentum is not None,
        ema_momentum=params.ema_momentum or 0.0,
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=params.label_smoothing),
        metrics=["accuracy"],
    )
    optimizer.build(network.trainable_variables)
    return network


def name_training(keras: Any, params: PretrainParams) -> str:
    """Return a hash of all that a checkpoint must have in common with the training that goes on from it."""
    code = [Path(__file__), Path(mini_vgg.__file__)]
    parts = [params.model_dump_json(), hash_file(ARRAYS), keras.__version__, *(hash_file(path) for path in code)]
    return hash_bytes(json.dumps(parts).encode())


def find_checkpoint(name: str) -> bool:
    """Return whether there is a checkpoint of this training."""
    record = CHECKPOINT / "training.json"
    if not record.is_file():
        return False
    if json.loads(record.read_text())["training"] == name:
        return True
    print(f"{CHECKPOINT}/ is of a training with other parameters, data or code; starting over")
    return False


def train(keras: Any, params: PretrainParams, data: dict[str, np.ndarray]) -> Any:
    """Train from the checkpoint, or else from random weights, and return the network.

    Raises
    ------
    TrainingError
        The loss became NaN or infinite, or there are fewer images than a batch has.
    """
    from dvclive import Live
    from dvclive.keras import DVCLiveCallback

    n_steps = len(data["training_labels"]) // params.batch_size
    if n_steps == 0:
        raise TrainingError(
            f"pretrain.batch_size: wanted at most {len(data['training_labels'])}, the images there are, got "
            f"{params.batch_size}"
        )
    network = build_network(keras, params, n_steps)
    name, live_folder = name_training(keras, params), Path(f".{CURVES}.partial")
    shutil.rmtree(live_folder, ignore_errors=True)
    n_done = 0
    if find_checkpoint(name):
        network.load_weights(CHECKPOINT / "state.weights.h5")
        shutil.copytree(CHECKPOINT / CURVES, live_folder)
        n_done = int(np.asarray(network.optimizer.iterations)) // n_steps
        print(f"going on after epoch {n_done}")
    live = Live(str(live_folder), resume=n_done > 0, save_dvc_exp=False, dvcyaml=False)
    live.step = n_done  # after a single epoch it would begin at 0 again

    started = time.monotonic()

    def keep(epoch: int, logs: dict[str, float]) -> None:
        if not np.isfinite(logs["loss"]):
            raise TrainingError(
                f"pretrain.learning_rate: {params.learning_rate:g} made the loss NaN or infinite in epoch {epoch + 1}; "
                "lower it"
            )
        with write_folder(CHECKPOINT) as folder:
            network.save_weights(folder / "state.weights.h5")  # with the optimizer's
            shutil.copytree(live_folder, folder / CURVES)
            write_json(folder / "training.json", {"training": name})
        pace = (epoch + 1 - n_done) * n_steps * params.batch_size / (time.monotonic() - started)
        print(
            f"epoch {epoch + 1}/{params.epochs}: loss {logs['loss']:.4f}, accuracy {logs['accuracy']:.4f}, "
            f"validation {logs['val_loss']:.4f}, {logs['val_accuracy']:.4f}; {pace:.0f} images/s",
            flush=True,
        )

    network.fit(
        iterate_batches(data["training_pixels"], data["training_labels"], params, n_done),
        steps_per_epoch=n_steps,
        initial_epoch=n_done,
        epochs=params.epochs,
        validation_data=(
            preprocess_input(data["validation_pixels"].astype(np.float32)),
            np.eye(len(CLASSES), dtype=np.float32)[data["validation_labels"]],
        ),
        validation_batch_size=500,
        callbacks=[DVCLiveCallback(live=live), keras.callbacks.LambdaCallback(on_epoch_end=keep)],
        shuffle=False,  # they come shuffled
        verbose=0,
    )
    with write_folder(CURVES) as folder:
        shutil.copytree(live_folder, folder, dirs_exist_ok=True)
    shutil.rmtree(live_folder)
    return network


def write_network(keras: Any, network: Any) -> None:
    """Write the network without its top, batch norm fused, in float16; and the top beside it.

    Raises
    ------
    TrainingError
        A weight is too large for float16.
    """
    trunk = keras.Model(network.input, network.get_layer("block3_pool").output)
    fused = fuse_batch_norm(keras, trunk)
    keras.config.set_dtype_policy("float16")
    kept = MiniVGG()
    for layer in kept.layers:
        if layer.weights:
            layer.set_weights(fused.get_layer(layer.name).get_weights())
            if not all(np.isfinite(np.asarray(weight, np.float32)).all() for weight in layer.weights):
                raise TrainingError(f"{layer.name}: wanted weights that float16 holds; raise pretrain.weight_decay")
    partial = WEIGHTS.with_name(f".{WEIGHTS}")  # keras wants the name to end so
    kept.save_weights(partial)
    partial.replace(WEIGHTS)
    kernel, bias = network.get_layer("classes").get_weights()
    with write_file(TOP) as file:
        np.savez(file, allow_pickle=False, kernel=kernel, bias=bias)


def pretrain(params: PretrainParams) -> None:
    """Write `mini_vgg.weights.h5`, `top.npz` and `curves/`, and remove the checkpoint."""
    with np.load(ARRAYS, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays if not name.startswith("test_")}
    keras = import_keras(params.precision)
    write_network(keras, train(keras, params, data))
    shutil.rmtree(CHECKPOINT)


if __name__ == "__main__":
    try:
        pretrain(read_settings().pretrain)
    except (RelearnError, OSError) as error:
        sys.exit(f"pretrain: {error}")
