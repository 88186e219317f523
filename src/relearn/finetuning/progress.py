"""Where a training stands, kept on the disk so that a killed one goes on as if it had not been."""

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn.storage.files import write_file

log = logging.getLogger(__name__)

N_HASH_BYTES = hashlib.sha256().digest_size


class Epoch(NamedTuple):
    """What an epoch brought; a row of `reports/plots/finetuning.csv`.

    learning_rate : of the network's last block in the last step
    training_loss, training_accuracy : of the network's own head, over the epoch's batches, each before its step
    validation_loss, validation_accuracy : of the exact head on the features after the epoch
    own_validation_loss, own_validation_accuracy : of the network's own head
    """

    epoch: int
    learning_rate: float
    training_loss: float
    training_accuracy: float
    validation_loss: float
    validation_accuracy: float
    own_validation_loss: float
    own_validation_accuracy: float
    C: float


class Limits(NamedTuple):
    """What a training asks of the machine: less than the parameters say, where that was too much.

    batch_size, extract_batch_size : the images of a step, and of a batch of which nothing is learned
    deterministic : whether all kernels add in one order each time
    """

    batch_size: int
    extract_batch_size: int
    deterministic: bool


class Progress(NamedTuple):
    """All that the next steps depend on.

    limits : those that the training began with
    history : the epochs that are done
    state : of the network, by `TunableNetwork.read_state`; empty before the first step
    best : its weights after the best epoch so far, by `TunableNetwork.read_weights`
    n_steps : the steps that are done of the next epoch
    sums : of loss and right answers over the images of these steps
    """

    limits: Limits
    history: list[Epoch]
    state: list[np.ndarray]
    best: list[np.ndarray]
    n_steps: int = 0
    sums: tuple[float, float] = (0.0, 0.0)

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the lowest validation loss, the first of several."""
        return min(self.history, key=lambda epoch: epoch.validation_loss)

    def is_over(self, n_epochs: int, patience: int) -> bool:
        """Return whether the last epoch is done, or `patience` of them brought nothing."""
        return bool(self.history) and len(self.history) >= min(n_epochs, self.best_epoch.epoch + patience)


def write_progress(path: Path, progress: Progress) -> None:
    """Replace the file, at once: the SHA-256 of what follows, then an `.npz`."""
    record = progress._asdict() | {"limits": progress.limits._asdict()}
    record["history"] = [epoch._asdict() for epoch in progress.history]
    arrays: dict[str, Any] = {
        f"{name}_{number}": value for name in ("state", "best") for number, value in enumerate(record.pop(name))
    }
    buffer = io.BytesIO()
    np.savez(buffer, record=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
    with write_file(path) as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())


def read_progress(path: Path) -> Progress | None:
    """Return what `write_progress` wrote, or None if nothing is there, or if it is damaged, which is logged."""
    if not path.exists():
        return None
    content = path.read_bytes()
    sha256, content = content[:N_HASH_BYTES], content[N_HASH_BYTES:]
    if hashlib.sha256(content).digest() != sha256:
        log.warning("finetune: %s is damaged, so the training begins at its first epoch", path)
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:

        def _collect(name: str) -> list[np.ndarray]:
            n_arrays = sum(key.startswith(f"{name}_") for key in arrays.files)
            return [arrays[f"{name}_{number}"] for number in range(n_arrays)]

        record = json.loads(arrays["record"].tobytes())
        history = [Epoch(**epoch) for epoch in record["history"]]
        done = record["n_steps"], tuple(record["sums"])
        return Progress(Limits(**record["limits"]), history, _collect("state"), _collect("best"), *done)
