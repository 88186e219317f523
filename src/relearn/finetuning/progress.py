"""Where a training stands after an epoch, kept on the disk so that a killed one goes on as if it had not been."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn.storage.files import read_json, write_folder, write_json

ARRAYS = "arrays.npz"
HISTORY = "history.json"


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


class Progress(NamedTuple):
    """All that the next epochs depend on.

    state : of the network, by `TunableNetwork.read_state`
    best : its weights after the best epoch so far, by `TunableNetwork.read_weights`
    """

    history: list[Epoch]
    state: list[np.ndarray]
    best: list[np.ndarray]

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the lowest validation loss, the first of several."""
        return min(self.history, key=lambda epoch: epoch.validation_loss)

    def is_over(self, n_epochs: int, patience: int) -> bool:
        """Return whether the last epoch is done, or `patience` of them brought nothing."""
        return len(self.history) >= min(n_epochs, self.best_epoch.epoch + patience)


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace what the folder holds, at once."""
    with write_folder(folder) as partial:
        arrays: dict[str, Any] = {
            f"{name}_{number}": value
            for name, values in (("state", progress.state), ("best", progress.best))
            for number, value in enumerate(values)
        }
        np.savez(partial / ARRAYS, **arrays)
        write_json(partial / HISTORY, {"epochs": [epoch._asdict() for epoch in progress.history]})


def read_progress(folder: Path) -> Progress | None:
    """Return what `write_progress` wrote, or None if nothing is there."""
    if not folder.is_dir():
        return None
    history = [Epoch(**epoch) for epoch in read_json(folder / HISTORY, ("epochs",))["epochs"]]
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:

        def _collect(name: str) -> list[np.ndarray]:
            n_arrays = sum(key.startswith(f"{name}_") for key in arrays.files)
            return [arrays[f"{name}_{number}"] for number in range(n_arrays)]

        return Progress(history, _collect("state"), _collect("best"))
