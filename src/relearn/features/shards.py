"""`data/features/`: one row of numbers per image of the manifest and view of it, in `.npy` shards of a single split."""

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
SHARD_IMAGES = 32
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
    """Where a row of features is, and of which image and view.

    `row` is its number in the shard and `view` that of the view, 0 being the image itself; both are text. Without views
    the file has no such column.
    """

    shard: str
    row: str
    sha256: str
    split: str
    label: str
    view: str = "0"


class SplitFeatures(NamedTuple):
    """The rows of one split: blocks of features (rows, n_features); sha256 and label of each row, in that order.

    Each image's own row is followed by those of its `n_views` augmented views.
    """

    blocks: Sequence[np.ndarray]
    sha256: list[str]
    labels: list[str]
    n_views: int = 0

    @property
    def features(self) -> np.ndarray:
        """All rows in memory, (rows, n_features) float32; (0, 0) if there are none."""
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
    folder: Path,
    manifest: Sequence[ManifestRow],
    read: Callable[[str], np.ndarray],
    record: dict[str, Any],
    list_keys: Callable[[ManifestRow], Sequence[str]] = lambda image: [image.sha256],
) -> None:
    """Write the features of the manifest's images, with a few shards in memory at a time.

    Parameters
    ----------
    read
        Returns features by their key: `record["n_features"]` of type `record["feature_dtype"]`.
    list_keys
        Returns the keys of the rows of an image: its own, and those of its views.
    """
    dtype = np.dtype(record["feature_dtype"]).newbyteorder("<")
    n_features = int(record["n_features"])
    plan = []
    for split in SPLITS:
        images = [image for image in manifest if image.split == split]
        n_rows = len(list_keys(images[0])) if images else 1
        max_images = choose_shard_images(len(images), n_rows * n_features * dtype.itemsize)
        for prefix, group in plan_shards(images, max_images):
            plan.append((f"{split}-{prefix}.npy" if prefix else f"{split}.npy", group))

    def _write_shard(part: tuple[str, Sequence[ManifestRow]]) -> tuple[object, ...]:
        shard, group = part
        keys = [key for image in group for key in list_keys(image)]
        values = np.empty((len(keys), n_features), dtype)
        for row, key in enumerate(keys):
            values[row] = read(key)
        write_array(folder / shard, values)
        return shard, hash_file(folder / shard), len(group), n_features, dtype.name

    shards = list(map_ahead(_write_shard, plan, 2 * count_threads()))
    index = []
    for shard, group in plan:
        views = [(image, number) for image in group for number in range(len(list_keys(image)))]
        index += [
            (shard, row, image.sha256, image.split, image.label, number) for row, (image, number) in enumerate(views)
        ]
    n_columns = len(IndexRow._fields) - all(number == 0 for *_, number in index)
    write_csv(folder / INDEX, IndexRow._fields[:n_columns], [row[:n_columns] for row in index])
    write_csv(folder / SHARDS, SHARDS_HEADER, shards)
    write_json(folder / EXTRACTOR, record)
    seal_features(folder)


def seal_features(folder: Path) -> None:
    """Write the hashes of the index, the list of shards and the extractor's record, which `hash_features` checks."""
    write_json(folder / HASHES, {key: hash_file(folder / name) for key, name in HASHED.items()})


def choose_shard_images(n_images: int, image_bytes: int) -> int:
    """Return the maximum number of images per shard, which changes only when the set has doubled."""
    n_in_shard = SHARD_IMAGES
    while n_in_shard * MAX_SHARDS < n_images:
        n_in_shard *= 2
    return max(1, min(n_in_shard, SHARD_BYTES // image_bytes))


def plan_shards(
    images: Sequence[ManifestRow], max_images: int, prefix: str = ""
) -> Iterator[tuple[str, Sequence[ManifestRow]]]:
    """Cut images into groups of at most `max_images` by the first bits of their sha256.

    A group that is too large is split by the next bit, and no other one changes: one more image changes one group or
    two. After 64 bits, which only copies of one image share, a group stays as large as it is.

    Returns
    -------
    iterator of (bits as text, images in their order)
        Ordered by the bits, which is the order of the hashes.
    """
    if len(images) <= max_images or len(prefix) == 64:
        if images:
            yield prefix, images
        return
    digit, bit = divmod(len(prefix), 4)
    halves: tuple[list[ManifestRow], list[ManifestRow]] = ([], [])
    for image in images:
        halves[int(image.sha256[digit], 16) >> (3 - bit) & 1].append(image)
    for value, half in enumerate(halves):
        yield from plan_shards(half, max_images, f"{prefix}{value}")


def read_index(folder: Path) -> list[IndexRow]:
    """Read which image and view each row belongs to, in the order of the rows."""
    return [IndexRow(*row) for row in read_csv(folder / INDEX, IndexRow._fields, n_optional=1)]


def count_views(index: Sequence[IndexRow]) -> int:
    """Return how many views each image of a split has.

    Raises
    ------
    IntegrityError
        Images have different views or more of them than others, or there are views in a split other than training.
    """
    n_images = sum(row.view == "0" for row in index)
    n_rows = len(index) // max(1, n_images)
    for number, row in enumerate(index):
        image, view = index[number - number % max(1, n_rows)], number % max(1, n_rows)
        if row.view != str(view) or row.sha256 != image.sha256 or (view and row.split != "training"):
            problem = f"{row.shard}, row {row.row}: not a view that belongs there"
            raise IntegrityError(problem, where=INDEX, advice=RECOMPUTE)
    return max(0, n_rows - 1)


def iterate_shards(folder: Path, split: str | None = None) -> Iterator[tuple[list[IndexRow], np.ndarray]]:
    """Yield the shards of one split, or of all, after checking them: what their rows belong to, and the features.

    Raises
    ------
    IntegrityError
        A file is missing, its hash or shape is not the recorded one, or a row is a view where none belongs.
    """
    index = [row for row in read_index(folder) if split in (None, row.split)]
    for name in SPLITS:
        count_views([row for row in index if row.split == name])
    by_shard: defaultdict[str, list[IndexRow]] = defaultdict(list)
    for row in index:
        by_shard[row.shard].append(row)
    n_rows = 0
    for line in read_csv(folder / SHARDS, SHARDS_HEADER):
        if in_shard := by_shard[line[0]]:
            n_rows += len(in_shard)
            yield in_shard, _read_shard(folder, line, in_shard)
    if n_rows != len(index):
        wanted = f"{len(index)} rows in the shards ({INDEX})"
        raise IntegrityError(where=folder, wanted=wanted, got=n_rows, advice=RECOMPUTE)


def _read_shard(folder: Path, line: Sequence[str], in_shard: Sequence[IndexRow]) -> np.ndarray:
    """Read a shard after checking it against its line in the list of shards and its rows in the index."""
    shard, sha256, n_images, n_features, _ = line
    path = folder / shard
    if not path.is_file():
        problem = f"no such file, though {SHARDS} names it"
        raise IntegrityError(problem, where=path, advice="run `dvc repro extract`")
    if hash_file(path) != sha256:
        wanted = f"sha256 {sha256} ({SHARDS})"
        raise IntegrityError(where=path, wanted=wanted, got="other bytes", advice=RECOMPUTE)
    try:
        values: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IntegrityError(where=path, wanted="an array", got=error, advice=RECOMPUTE) from None
    n_found = sum(row.view == "0" for row in in_shard)
    if (str(n_found), n_features) != (n_images, str(values.shape[-1])) or values.shape[:-1] != (len(in_shard),):
        wanted = f"{len(in_shard)} rows of {n_features}"
        raise IntegrityError(where=path, wanted=wanted, got=values.shape, advice=RECOMPUTE)
    if [row.row for row in in_shard] != [str(number) for number in range(len(in_shard))]:
        raise IntegrityError(f"the rows of {shard} are not in order", where=folder / INDEX, advice=RECOMPUTE)
    return values


def read_image_features(folder: Path, sha256: str) -> np.ndarray:
    """Read the features of one image, (n_features,), from its shard alone.

    Raises
    ------
    IntegrityError
        The image has no features there, or as in `iterate_shards`.
    """
    index = read_index(folder)
    shard, number = next(((row.shard, row.row) for row in index if (row.sha256, row.view) == (sha256, "0")), ("", ""))
    for line in read_csv(folder / SHARDS, SHARDS_HEADER):
        if line[0] == shard:
            values = _read_shard(folder, line, [row for row in index if row.shard == shard])
            return np.asarray(values[int(number)])
    raise IntegrityError(
        where=folder, wanted=f"features of image {sha256}", got="none", advice="run `dvc repro extract`"
    )


def read_features(folder: Path, split: str, memory_bytes: int | None = None) -> SplitFeatures:
    """Read one split; the shards of the others are not opened.

    Parameters
    ----------
    memory_bytes : int, optional
        Features beyond this size stay on the disk after they were checked.

    Returns
    -------
    SplitFeatures
        Images in the order of the manifest, each followed by its views; no rows if the split has no image.

    Raises
    ------
    IntegrityError
        A file is missing, its hash or shape is not the recorded one, or a row is a view where none belongs.
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
    return SplitFeatures(blocks, [row.sha256 for row in index], [row.label for row in index], count_views(index))


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
