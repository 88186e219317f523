"""What the lower part of a network answers, computed once: it is the same in every epoch."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from relearn.errors import StoreError, TrainingError
from relearn.features.computation import read_prepared
from relearn.features.views import Input
from relearn.finetuning.network import Crossing, TunableNetwork
from relearn.runtime.progress import track_progress
from relearn.runtime.threads import count_threads, map_ahead
from relearn.storage.files import write_folder

log = logging.getLogger(__name__)

DTYPE = np.dtype("<f2")


class Activations:
    """Rows on the disk, float16: one array (rows, ...) for each value that crosses the cut."""

    def __init__(self, folder: Path, n_parts: int) -> None:
        self._parts = [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(n_parts)]

    def read(self, rows: Sequence[int] | np.ndarray) -> Crossing:
        """Return these rows, float32."""
        return [part[np.asarray(rows)].astype(np.float32) for part in self._parts]


def check_room(network: TunableNetwork, n_rows: int, limit_gb: float, folder: Path) -> None:
    """Raise `StoreError` unless the rows are within the limit, and the disk has room for them."""
    needed = sum(int(np.prod(shape)) for shape in network.shapes) * DTYPE.itemsize * n_rows
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    for limit, name in ((limit_gb * 1e9, "finetune.activations_gb"), (free, f"the free space at {folder}")):
        if needed > limit:
            raise StoreError(
                where="finetune",
                wanted=f"room for {needed / 1e9:.3g} GB of activations below {network.first_layer}",
                got=f"{limit / 1e9:.3g} GB, {name}",
                advice="make room, or choose a later finetune.from_layer, whose activations are smaller",
            )


def find_activations(network: TunableNetwork, inputs: Sequence[Input], folder: Path) -> Activations:
    """Return the rows of these inputs, in their order; they are computed unless the folder has them, undamaged.

    Raises
    ------
    TrainingError
        A value is too large for float16.
    """
    if folder.is_dir():
        try:
            return Activations(folder, len(network.shapes))
        except (OSError, EOFError, ValueError) as error:
            log.warning("finetune: %s is damaged, so it is computed again: %s", folder, error)
    with write_folder(folder) as partial:
        _write_activations(network, inputs, partial)
    return Activations(folder, len(network.shapes))


def _write_activations(network: TunableNetwork, inputs: Sequence[Input], folder: Path) -> None:
    files = [
        np.lib.format.open_memmap(folder / f"{number}.npy", "w+", DTYPE, (len(inputs), *shape))
        for number, shape in enumerate(network.shapes)
    ]
    for path in folder.iterdir():
        _reserve_disk(path)
    n_done = 0
    for crossing in track_progress(iterate_crossing(network, inputs), len(inputs), "finetune", "images", count=_count):
        for file, part in zip(files, crossing, strict=True):
            with np.errstate(over="ignore"):
                stored = part.astype(DTYPE)
            if not np.isfinite(stored).all():
                raise TrainingError(
                    where=f"finetune: the activations below {network.first_layer}",
                    wanted=f"finite values of at most {np.finfo(DTYPE).max:,.0f}",
                    got=f"{np.abs(part).max():g} for one of {inputs[n_done].row.path} and the next {len(part) - 1}",
                    advice="choose another finetune.from_layer",
                )
            file[n_done : n_done + len(part)] = stored
        n_done += _count(crossing)
    for file in files:
        file.flush()


def _reserve_disk(path: Path) -> None:
    """Raise `OSError` now if the disk is full: later, a write to a mapped file would end the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _count(crossing: Crossing) -> int:
    return len(crossing[0])


def iterate_crossing(network: TunableNetwork, inputs: Sequence[Input]) -> Iterator[Crossing]:
    """Yield what crosses the cut for these inputs, in order, a batch at a time.

    An image is decoded once for all its views that follow each other.
    """
    groups = [list(group) for _, group in groupby(inputs, lambda item: item.row.sha256)]
    n_ahead = 2 * max(network.batch_size, count_threads())

    def _read(group: list[Input]) -> list[np.ndarray]:
        prepared = read_prepared(network, group[0].row)
        return [item.draw(prepared) for item in group]

    return network.compute_crossing(chain.from_iterable(map_ahead(_read, groups, n_ahead)))
