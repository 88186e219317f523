"""Features by the content of their image and all else that decides them, so that none is computed twice."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from relearn.errors import ParamsError, StoreError
from relearn.storage.database import Database, lock_file, name_damaged, remove_database
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)

# A space is named by the hash of its specification everywhere, so that what one process removes another can make again.
SCHEMA_VERSION = 2
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS space (name BLOB PRIMARY KEY NOT NULL, spec TEXT NOT NULL, record TEXT NOT NULL, "
    "hash BLOB NOT NULL, used REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS feature (space BLOB NOT NULL, image BLOB NOT NULL, hash BLOB NOT NULL, "
    "content BLOB NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS place ON feature (space, image)",
)

DEFAULT_LIMIT_GB = 100.0
N_ROWS_AT_ONCE = 500  # to delete, so that a transaction stays small


class SpaceSummary(NamedTuple):
    """A space for a person: its name, what decides its features, how much it holds, when it was last used."""

    name: str
    spec: dict[str, Any]
    n_images: int
    n_bytes: int
    used: float

    def describe(self, differing: Iterable[str] = ()) -> str:
        """Return what decides its features: what a person chooses first, and some other keys of the specification."""
        weights = self.spec.get("weights") or str(self.spec.get("weights_sha256"))[:8]
        way = [f"{self.spec.get('network')}", f"weights {weights}", f"layer {self.spec.get('layer') or 'last'}"]
        way += [str(self.spec.get(key)) for key in ("pooling", "precision")] + [f"{self.spec.get('image_size_px')} px"]
        for key in differing:
            value = self.spec.get(key)
            short = hash_bytes(json.dumps(value).encode())[:6] if isinstance(value, dict | list) else value
            way.append(f"{key} {short}")
        return ", ".join(way)


DESCRIBED = ("network", "weights", "weights_sha256", "layer", "pooling", "precision", "image_size_px", "application")


class Space:
    """The features of one way to compute them.

    Attributes
    ----------
    record : dict or None
        What `extractor.json` says of the way, once it was known.
    fallback : int or None
        The batch size that was taken in place of this one, for which there was no memory.
    """

    def __init__(self, database: Database, spec: str, record: dict[str, Any] | None) -> None:
        self._database = database
        self._spec = spec
        self.name = hash_bytes(spec.encode())[:32]
        self._key = bytes.fromhex(self.name)
        self.record = record
        self.fallback: int | None = None
        if record is not None and "fallback" in record:
            self.fallback, self.record = record["fallback"], None

    def set_record(self, record: dict[str, Any]) -> None:
        """Keep what is known of the way only once its network was built."""
        self.record = record
        self._keep(record)

    def set_fallback(self, batch_size: int) -> None:
        """Remember that there was no memory for this way, and which batch size was taken in its place."""
        self.fallback = batch_size
        self._keep({"fallback": batch_size})

    def _keep(self, record: dict[str, Any]) -> None:
        text = json.dumps(record)
        self._database.execute(
            "INSERT OR REPLACE INTO space (name, spec, record, hash, used) VALUES (?, ?, ?, ?, ?)",
            (self._key, self._spec, text, _hash_text(self.name, text), time.time()),
        )

    def list_images(self) -> list[str]:
        """Return the images that have features here, by sha256."""
        rows = self._database.execute("SELECT image FROM feature WHERE space = ?", (self._key,))
        return [image.hex() for (image,) in rows if isinstance(image, bytes)]

    def find_missing(self, images: Iterable[str]) -> list[str]:
        """Return those of the images, by sha256, that have no features here: each once, in their order."""
        known = set(self.list_images())
        return [image for image in dict.fromkeys(images) if image not in known]

    def add(self, images: Sequence[str], features: np.ndarray) -> None:
        """Keep a row of features for each image; all of them, or none if the process dies."""
        text = json.dumps(self.record)
        self._database.execute(  # it is there, unless somebody removed it meanwhile
            "INSERT OR IGNORE INTO space (name, spec, record, hash, used) VALUES (?, ?, ?, ?, ?)",
            (self._key, self._spec, text, _hash_text(self.name, text), time.time()),
        )
        rows = []
        for image, row in zip(images, features, strict=True):
            content = row.tobytes()
            rows.append((self._key, bytes.fromhex(image), self._hash(image, content), content))
        self._database.execute_many(
            "INSERT OR REPLACE INTO feature (space, image, hash, content) VALUES (?, ?, ?, ?)", rows
        )

    def read(self, image: str, dtype: np.dtype) -> np.ndarray | None:
        """Return the features of an image, (n_features,); nothing where there are none, or damaged ones."""
        found = self._database.execute(
            "SELECT hash, content FROM feature WHERE space = ? AND image = ?", (self._key, bytes.fromhex(image))
        )
        for check, content in found:
            if isinstance(content, bytes) and check == self._hash(image, content):
                return np.frombuffer(content, dtype)
            log.warning("features of image %s: damaged in the store; computed again", image)
        return None

    def measure_bytes(self, without: Collection[str] = ()) -> int:
        """Return how many bytes of features there are here, apart from those of some images."""
        left_out = set(without)
        statement = "SELECT image, length(content) FROM feature WHERE space = ?"
        rows = self._database.execute(statement, (self._key,))
        return sum(size for image, size in rows if isinstance(image, bytes) and image.hex() not in left_out)

    def forget(self, images: Iterable[str]) -> None:
        """Remove the features of some images."""
        rows = [(self._key, bytes.fromhex(image)) for image in images]
        self._database.execute_many("DELETE FROM feature WHERE space = ? AND image = ?", rows)

    def _hash(self, image: str, content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=16, key=bytes.fromhex(self.name + image)).digest()


def _read_json(text: object) -> dict[str, Any]:
    try:
        value = json.loads(str(text))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _hash_text(name: str, text: str) -> bytes:
    return hashlib.blake2b(f"{name} {text}".encode(), digest_size=16).digest()


class FeatureStore:
    """The spaces in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, SCHEMA, SCHEMA_VERSION)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.__exit__(kind, error, traceback)

    def open_space(self, spec: dict[str, Any]) -> Space:
        """Return the space of a way to compute features, given by all that decides them, as JSON can hold it."""
        text = json.dumps(spec, sort_keys=True)
        space = Space(self._database, text, None)
        key = bytes.fromhex(space.name)
        for record, check in self._database.execute("SELECT record, hash FROM space WHERE name = ?", (key,)):
            if check == _hash_text(space.name, str(record)):
                self._database.execute("UPDATE space SET used = ? WHERE name = ?", (time.time(), key))
                return Space(self._database, text, json.loads(record))
            log.warning("%s: the record of a space is damaged; created again", self._path)
            self._database.execute("DELETE FROM space WHERE name = ?", (key,))
        return space

    def set_aside(self, reason: str) -> None:
        """Move the store aside as damaged, and create it again, empty."""
        self._database.set_aside(reason)

    def list_spaces(self) -> list[SpaceSummary]:
        """Return what is in the store, the space last used first."""
        statement = "SELECT space, count(*), sum(length(content)) FROM feature GROUP BY space"
        counts = {key: (n_images, n_bytes) for key, n_images, n_bytes in self._database.execute(statement)}
        spaces = self._database.execute("SELECT name, spec, used FROM space ORDER BY used DESC, name")
        return [
            SpaceSummary(name.hex(), _read_json(spec), *counts.get(name, (0, 0)), used)
            for name, spec, used in spaces
            if isinstance(name, bytes)
        ]

    def measure_bytes(self) -> int:
        """Return the size of the file on the disk."""
        return sum(
            path.stat().st_size
            for suffix in ("", "-wal")
            if (path := self._path.with_name(self._path.name + suffix)).exists()
        )

    def prune(self, names: Iterable[str]) -> None:
        """Remove spaces, and features of none, and give their room on the disk back."""
        for name in names:
            self._database.execute("DELETE FROM space WHERE name = ?", (bytes.fromhex(name),))
        statement = (
            "DELETE FROM feature WHERE rowid IN "
            "(SELECT rowid FROM feature WHERE space NOT IN (SELECT name FROM space) LIMIT ?) RETURNING 1"
        )
        while self._database.execute(statement, (N_ROWS_AT_ONCE,)):
            pass
        self._database.shrink()

    def make_room(self, n_bytes: int, keep: Space, images: Collection[str]) -> None:
        """Remove what is not wanted now until so many bytes more are within the limit.

        First the spaces that were not used for the longest time, then what `keep` has of other images than these.

        Raises
        ------
        StoreError
            That is not enough.
        """
        limit = read_limit_bytes()
        wanted = set(images)
        others = [image for image in keep.list_images() if image not in wanted]
        if keep.measure_bytes(others) + n_bytes > limit:
            raise StoreError(
                f"{self._path}: wanted room for {n_bytes / 1e9:.3g} GB more, got a limit of {limit / 1e9:.3g} GB; "
                "raise RELEARN_STORE_GB, or take a smaller layer or extract.feature_dtype float16"
            )
        for space in reversed(self.list_spaces()):
            if self.measure_bytes() + n_bytes <= limit:
                return
            if space.name != keep.name:
                log.info("store: %s images of %s removed to make room", f"{space.n_images:,}", space.describe())
                self.prune([space.name])
        if others and self.measure_bytes() + n_bytes > limit:
            log.info("store: %s images that are no longer in the set removed to make room", f"{len(others):,}")
            keep.forget(others)
            self._database.shrink()

    def choose_spaces(self, names: Sequence[str], unused_days: float | None) -> list[str]:
        """Return the names of the spaces that begin as one of `names`, or were not used for so long.

        Raises
        ------
        StoreError
            A name is the beginning of no space, or of several.
        """
        spaces = self.list_spaces()
        chosen = []
        for begin in names:
            found = [space.name for space in spaces if begin and space.name.startswith(begin)]
            if len(found) != 1:
                raise StoreError(
                    f"{self._path}: wanted the name of one space, got {begin!r}, with which {len(found)} begin; "
                    "`relearn store show` names them"
                )
            chosen += found
        oldest = -float("inf") if unused_days is None else time.time() - unused_days * 86_400
        return list(dict.fromkeys(chosen + [space.name for space in spaces if space.used < oldest]))

    def remove_damaged(self) -> int:
        """Remove every record whose hash is wrong, and return how many there were."""
        n_damaged = 0
        for key, spec, record, check in self._database.execute("SELECT name, spec, record, hash FROM space"):
            space = Space(self._database, str(spec), None)
            if bytes.fromhex(space.name) != key or check != _hash_text(space.name, str(record)):
                count = "SELECT count(*) FROM feature WHERE space = ?"
                n_damaged += 1 + sum(n for (n,) in self._database.execute(count, (key,)))
                self._database.execute("DELETE FROM space WHERE name = ?", (key,))
                continue
            damaged = [image for image in space.list_images() if space.read(image, np.dtype("u1")) is None]
            space.forget(damaged)
            n_damaged += len(damaged)
        self.prune([])
        return n_damaged


def open_store(path: Path) -> FeatureStore:
    """Open a store that is there.

    Raises
    ------
    StoreError
        There is none.
    """
    check_store(path)
    return FeatureStore(path)


def check_store(path: Path) -> None:
    """Raise `StoreError` if there is no store at `path`."""
    if not path.exists():
        raise StoreError(f"{path}: no store there; `relearn extract` makes it, RELEARN_CACHE names another place")


def remove_store(path: Path) -> int:
    """Remove a store without opening it, for which a full disk has no room; return how many bytes it had."""
    check_store(path)
    with lock_file(path):
        n_bytes = path.stat().st_size
        remove_database(path)
        remove_database(name_damaged(path))
    return n_bytes


def describe_store(path: Path) -> list[str]:
    """Return lines of text on what a store holds."""
    with open_store(path) as store:
        limit = read_limit_bytes()
        lines = [f"{path}: {store.measure_bytes() / 1e6:,.1f} MB of at most {limit / 1e6:,.0f} MB"]
        spaces = store.list_spaces()
        keys = sorted({key for space in spaces for key in space.spec} - set(DESCRIBED))
        differing = [key for key in keys if len({json.dumps(space.spec.get(key)) for space in spaces}) > 1]
        for space in spaces:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(space.used))
            size = f"{space.n_images:,} images, {space.n_bytes / 1e6:,.1f} MB"
            lines.append(f"  {space.name[:8]}  {used}  {space.describe(differing)}: {size}")
    if (damaged := name_damaged(path)).exists():
        lines.append(
            f"{damaged}: {damaged.stat().st_size / 1e6:,.1f} MB of a damaged store; nothing reads it, remove it"
        )
    return lines


def read_limit_bytes() -> float:
    """Return `RELEARN_STORE_GB`, in bytes."""
    text = os.environ.get("RELEARN_STORE_GB", str(DEFAULT_LIMIT_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 < limit < float("inf"):
        raise ParamsError(f"RELEARN_STORE_GB: wanted a number above 0, such as 10, got {text!r}")
    return limit * 1e9
