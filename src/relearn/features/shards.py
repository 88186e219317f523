"""`data/features/`: one row of numbers per image of the manifest, in `.npy` shards of a single split each."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from relearn.dataset.manifest import SPLITS, ManifestRow
from relearn.errors import IntegrityError
from relearn.runtime.threads import count_threads, map_ahead
from relearn.storage.files import hash_file, read_csv, read_json, write_array, write_csv, write_json

# A new image changes its shard, and DVC keeps the old one beside the new one. So shards are small, but not so small
# that DVC spends its time on files.
SHARD_BYTES = 2 * 1024 * 1024
SHARD_ROWS = 32
MAX_SHARDS = 4096

INDEX = "index.csv"
SHARDS = "shards.csv"
EXTRACTOR = "extractor.json"
HASHES = "hashes.json"
HASHED = {"index_sha256": INDEX, "shards_sha256": SHARDS, "extractor_sha256": EXTRACTOR}

RECOMPUTE = "run `dvc repro --force extract`"

SHARDS_HEADER = ("shard", "sha256", "n_images", "n_features", "dtype")


class FeatureHashes(BaseModel, frozen=True, strict=True):
    """The hashes of the two files that name all shards."""

    index_sha256: str
    shards_sha256: str


class FeaturesRecord(NamedTuple):
    """What a classifier records about its features: their hashes, and the content of `extractor.json`."""

    features: FeatureHashes
    extractor: dict[str, Any]


class IndexRow(NamedTuple):
    """Where the features of an image are; `row` is its number in the shard, from 0, as text."""

    shard: str
    row: str
    sha256: str
    split: str
    label: str


class SplitFeatures(NamedTuple):
    """The images of one split: blocks of features (rows, n_features); sha256 and label of each row, in that order."""

    blocks: Sequence[np.ndarray]
    sha256: list[str]
    labels: list[str]

    @property
    def features(self) -> np.ndarray:
        """All rows in memory, (images, n_features) float32; (0, 0) if there are none."""
        return np.concatenate(self.blocks).astype(np.float32, copy=False) if self.blocks else np.empty((0, 0), "f4")


class ShardsOnDisk(Sequence[np.ndarray]):
    """Shards that are memory-mapped on access."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: Any) -> Any:
        return np.load(self._files[number], mmap_mode="r", allow_pickle=False)


def write_features(
    folder: Path, manifest: Sequence[ManifestRow], read: Callable[[str], np.ndarray], record: dict[str, Any]
) -> None:
    """Write the features of the manifest's images, with a few shards in memory at a time.

    Parameters
    ----------
    read
        Returns the features of an image by its sha256: `record["n_features"]` of type `record["feature_dtype"]`.
    """
    dtype = np.dtype(record["feature_dtype"]).newbyteorder("<")
    n_features = int(record["n_features"])
    plan = []
    for split in SPLITS:
        images = [image for image in manifest if image.split == split]
        max_rows = choose_shard_rows(len(images), n_features * dtype.itemsize)
        for prefix, group in plan_shards(images, max_rows):
            plan.append((f"{split}-{prefix}.npy" if prefix else f"{split}.npy", group))

    def _write_shard(part: tuple[str, Sequence[ManifestRow]]) -> tuple[object, ...]:
        shard, group = part
        values = np.empty((len(group), n_features), dtype)
        for row, image in enumerate(group):
            values[row] = read(image.sha256)
        write_array(folder / shard, values)
        return shard, hash_file(folder / shard), *values.shape, dtype.name

    shards = list(map_ahead(_write_shard, plan, 2 * count_threads()))
    index = [
        (shard, row, image.sha256, image.split, image.label) for shard, group in plan for row, image in enumerate(group)
    ]
    write_csv(folder / INDEX, IndexRow._fields, index)
    write_csv(folder / SHARDS, SHARDS_HEADER, shards)
    write_json(folder / EXTRACTOR, record)
    seal_features(folder)


def seal_features(folder: Path) -> None:
    """Write the hashes of the index, the list of shards and the extractor's record, which `hash_features` checks."""
    write_json(folder / HASHES, {key: hash_file(folder / name) for key, name in HASHED.items()})


def choose_shard_rows(n_images: int, row_bytes: int) -> int:
    """Return the maximum number of rows per shard, which changes only when the set has doubled."""
    n_rows = SHARD_ROWS
    while n_rows * MAX_SHARDS < n_images:
        n_rows *= 2
    return max(1, min(n_rows, SHARD_BYTES // row_bytes))


def plan_shards(
    images: Sequence[ManifestRow], max_rows: int, prefix: str = ""
) -> Iterator[tuple[str, Sequence[ManifestRow]]]:
    """Cut images into groups of at most `max_rows` by the first bits of their sha256.

    A group that is too large is split by the next bit, and no other one changes: one more image changes one group or
    two. After 64 bits, which only copies of one image share, a group stays as large as it is.

    Returns
    -------
    iterator of (bits as text, images in their order)
        Ordered by the bits, which is the order of the hashes.
    """
    if len(images) <= max_rows or len(prefix) == 64:
        if images:
            yield prefix, images
        return
    digit, bit = divmod(len(prefix), 4)
    halves: tuple[list[ManifestRow], list[ManifestRow]] = ([], [])
    for image in images:
        halves[int(image.sha256[digit], 16) >> (3 - bit) & 1].append(image)
    for value, half in enumerate(halves):
        yield from plan_shards(half, max_rows, f"{prefix}{value}")


def read_index(folder: Path) -> list[IndexRow]:
    """Read which image each row belongs to, in the order of the rows."""
    return [IndexRow(*row) for row in read_csv(folder / INDEX, IndexRow._fields)]


def iterate_shards(folder: Path, split: str | None = None) -> Iterator[tuple[list[IndexRow], np.ndarray]]:
    """Yield the shards of one split, or of all, after checking them: the images of the rows, and the features.

    Raises
    ------
    IntegrityError
        A file is missing, or its hash or shape is not the recorded one.
    """
    index = [row for row in read_index(folder) if split in (None, row.split)]
    by_shard: defaultdict[str, list[IndexRow]] = defaultdict(list)
    for row in index:
        by_shard[row.shard].append(row)
    n_rows = 0
    for shard, sha256, n_images, n_features, _ in read_csv(folder / SHARDS, SHARDS_HEADER):
        in_shard = by_shard[shard]
        if not in_shard:
            continue
        path = folder / shard
        if not path.is_file():
            problem = f"no such file, though {SHARDS} names it"
            raise IntegrityError(problem, where=path, advice="run `dvc repro extract`")
        if hash_file(path) != sha256:
            wanted = f"sha256 {sha256} ({SHARDS})"
            raise IntegrityError(where=path, wanted=wanted, got="other bytes", advice=RECOMPUTE)
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise IntegrityError(where=path, wanted="an array", got=error, advice=RECOMPUTE) from None
        if [str(size) for size in values.shape] != [n_images, n_features] or len(values) != len(in_shard):
            wanted = f"{n_images} rows of {n_features}"
            raise IntegrityError(where=path, wanted=wanted, got=values.shape, advice=RECOMPUTE)
        if [row.row for row in in_shard] != [str(number) for number in range(len(in_shard))]:
            raise IntegrityError(f"the rows of {shard} are not in order", where=folder / INDEX, advice=RECOMPUTE)
        n_rows += len(values)
        yield in_shard, values
    if n_rows != len(index):
        wanted = f"{len(index)} images in the shards ({INDEX})"
        raise IntegrityError(where=folder, wanted=wanted, got=n_rows, advice=RECOMPUTE)


def read_features(folder: Path, split: str, memory_bytes: int | None = None) -> SplitFeatures:
    """Read one split; the shards of the others are not opened.

    Parameters
    ----------
    memory_bytes : int, optional
        Features beyond this size stay on the disk after they were checked.

    Returns
    -------
    SplitFeatures
        Rows in the order of the manifest; none if the split has no image.

    Raises
    ------
    IntegrityError
        A file is missing, or its hash or shape is not the recorded one.
    """
    index: list[IndexRow] = []
    files: list[Path] = []
    parts: list[np.ndarray] = []
    n_bytes = 0
    for in_shard, values in iterate_shards(folder, split):
        index += in_shard
        files.append(folder / in_shard[0].shard)
        n_bytes += values.nbytes
        if memory_bytes is None or n_bytes <= memory_bytes:
            parts.append(values)
        else:
            parts.clear()
    blocks = parts if len(parts) == len(files) else ShardsOnDisk(files)
    return SplitFeatures(blocks, [row.sha256 for row in index], [row.label for row in index])


def hash_features(folder: Path) -> dict[str, str]:
    """Return the hashes of the two files that name all shards, after checking them and the extractor's record.

    Raises
    ------
    IntegrityError
        The index, the list of shards or the record is missing, or differs from the one that `extract` wrote.
    """
    recorded = read_json(folder / HASHES, HASHED)
    for key, name in HASHED.items():
        if not (folder / name).is_file():
            raise IntegrityError("no such file", where=folder / name, advice=RECOMPUTE)
        if (found := hash_file(folder / name)) != recorded[key]:
            raise IntegrityError(
                where=folder / name,
                wanted=f"sha256 {recorded[key]} ({HASHES})",
                got=found,
                advice=f"it was changed by hand; {RECOMPUTE}",
            )
    return {key: recorded[key] for key in ("index_sha256", "shards_sha256")}


def describe_features(folder: Path) -> FeaturesRecord:
    """Return what a classifier records about its features, after checking their hashes."""
    return FeaturesRecord(FeatureHashes(**hash_features(folder)), read_json(folder / EXTRACTOR))
