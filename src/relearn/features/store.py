"""Features by the content of their image and by their recipe, so that none is computed twice."""

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

# A feature set, `space` in the tables, is named by the hash of its recipe everywhere, so that one process can recreate
# what another one removed.
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


class FeatureSetSummary(NamedTuple):
    """A feature set for a person to read: its name, its recipe, its size, when it was last used."""

    name: str
    recipe: dict[str, Any]
    n_images: int
    n_views: int
    n_bytes: int
    used: float

    def describe(self, differing: Iterable[str] = ()) -> str:
        """Return the recipe as text: the keys that a person chooses, then those of `differing`."""
        weights = self.recipe.get("weights") or str(self.recipe.get("weights_sha256"))[:8]
        parts = [f"{self.recipe.get('network')}", f"weights {weights}", f"layer {self.recipe.get('layer') or 'last'}"]
        parts += [str(self.recipe.get(key)) for key in ("pooling", "precision")] + [
            f"{self.recipe.get('image_size_px')} px"
        ]
        for key in differing:
            value = self.recipe.get(key)
            short = hash_bytes(json.dumps(value).encode())[:6] if isinstance(value, dict | list) else value
            parts.append(f"{key} {short}")
        return ", ".join(parts)


DESCRIBED = ("network", "weights", "weights_sha256", "layer", "pooling", "precision", "image_size_px", "application")


class FeatureSet:
    """The features of one recipe.

    Attributes
    ----------
    record : dict or None
        The content of `extractor.json`, once the network was built.
    fallback : int or None
        The batch size that replaced the one of the recipe, for which there was too little memory.
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
        """Keep the record of the extractor, which is known once the network was built."""
        self.record = record
        self._keep(record)

    def set_fallback(self, batch_size: int) -> None:
        """Remember that there was too little memory, and which batch size replaced the one of the recipe."""
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
        """Return the images, by sha256, that have no features here: each once, in the given order."""
        known = set(self.list_images())
        return [image for image in dict.fromkeys(images) if image not in known]

    def add(self, images: Sequence[str], features: np.ndarray) -> None:
        """Keep one row of features per image: all of them, or none if the process dies."""
        text = json.dumps(self.record)
        self._database.execute(  # another process may have removed it
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
        """Return the features of an image, (n_features,); None if they are missing or damaged."""
        found = self._database.execute(
            "SELECT hash, content FROM feature WHERE space = ? AND image = ?", (self._key, bytes.fromhex(image))
        )
        for check, content in found:
            if isinstance(content, bytes) and check == self._hash(image, content):
                return np.frombuffer(content, dtype)
            log.warning("features of image %s: damaged in the store; computed again", image)
        return None

    def measure_bytes(self, without: Collection[str] = ()) -> int:
        """Return the number of bytes of all features but those of the images in `without`."""
        left_out = set(without)
        statement = "SELECT image, length(content) FROM feature WHERE space = ?"
        rows = self._database.execute(statement, (self._key,))
        return sum(size for image, size in rows if isinstance(image, bytes) and image.hex() not in left_out)

    def forget(self, images: Iterable[str]) -> None:
        """Remove the features of images."""
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
    """The feature sets in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, SCHEMA, SCHEMA_VERSION)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.__exit__(kind, error, traceback)

    def open_feature_set(self, recipe: dict[str, Any]) -> FeatureSet:
        """Return the feature set of a recipe, which JSON must be able to hold."""
        text = json.dumps(recipe, sort_keys=True)
        feature_set = FeatureSet(self._database, text, None)
        key = bytes.fromhex(feature_set.name)
        for record, check in self._database.execute("SELECT record, hash FROM space WHERE name = ?", (key,)):
            if check == _hash_text(feature_set.name, str(record)):
                self._database.execute("UPDATE space SET used = ? WHERE name = ?", (time.time(), key))
                return FeatureSet(self._database, text, json.loads(record))
            log.warning("%s: the record of a feature set is damaged; recreated", self._path)
            self._database.execute("DELETE FROM space WHERE name = ?", (key,))
        return feature_set

    def set_aside(self, reason: str) -> None:
        """Move the store aside as damaged, and recreate it, empty."""
        self._database.set_aside(reason)

    def list_feature_sets(self) -> list[FeatureSetSummary]:
        """Return the feature sets, the one last used first."""
        statement = (  # the key of a view is longer than a hash
            "SELECT space, sum(length(image) = 32), sum(length(image) > 32), "
            "sum(length(content)) FROM feature GROUP BY space"
        )
        counts = {
            key: (n_images, n_views, n_bytes) for key, n_images, n_views, n_bytes in self._database.execute(statement)
        }
        feature_sets = self._database.execute("SELECT name, spec, used FROM space ORDER BY used DESC, name")
        return [
            FeatureSetSummary(name.hex(), _read_json(spec), *counts.get(name, (0, 0, 0)), used)
            for name, spec, used in feature_sets
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
        """Remove feature sets, and features that belong to none, and return their space to the disk."""
        for name in names:
            self._database.execute("DELETE FROM space WHERE name = ?", (bytes.fromhex(name),))
        statement = (
            "DELETE FROM feature WHERE rowid IN "
            "(SELECT rowid FROM feature WHERE space NOT IN (SELECT name FROM space) LIMIT ?) RETURNING 1"
        )
        while self._database.execute(statement, (N_ROWS_AT_ONCE,)):
            pass
        self._database.shrink()

    def make_room(self, n_bytes: int, keep: FeatureSet, images: Collection[str]) -> None:
        """Remove features until `n_bytes` more are within the limit.

        The feature sets that were unused for the longest time go first, then the features in `keep` of other images
        than `images`.

        Raises
        ------
        StoreError
            Even that would not be enough.
        """
        limit = read_limit_bytes()
        wanted = set(images)
        others = [image for image in keep.list_images() if image not in wanted]
        if keep.measure_bytes(others) + n_bytes > limit:
            raise StoreError(
                where=self._path,
                wanted=f"room for {n_bytes / 1e9:.3g} GB more",
                got=f"a limit of {limit / 1e9:.3g} GB",
                advice="raise RELEARN_STORE_GB, or choose a smaller layer or extract.feature_dtype float16",
            )
        for feature_set in reversed(self.list_feature_sets()):
            if self.measure_bytes() + n_bytes <= limit:
                return
            if feature_set.name != keep.name:
                log.info(
                    "store: %s images of %s removed to make room", f"{feature_set.n_images:,}", feature_set.describe()
                )
                self.prune([feature_set.name])
        if others and self.measure_bytes() + n_bytes > limit:
            log.info("store: %s images that are no longer in the set removed to make room", f"{len(others):,}")
            keep.forget(others)
            self._database.shrink()

    def choose_feature_sets(self, names: Sequence[str], unused_days: float | None) -> list[str]:
        """Return the full names of feature sets: those that begin with one of `names`, and the unused ones.

        Raises
        ------
        StoreError
            No feature set begins with a name, or several do.
        """
        feature_sets = self.list_feature_sets()
        chosen = []
        for begin in names:
            found = [feature_set.name for feature_set in feature_sets if begin and feature_set.name.startswith(begin)]
            if len(found) != 1:
                raise StoreError(
                    where=self._path,
                    wanted="the name of one feature set",
                    got=f"{begin!r}, with which {len(found)} begin",
                    advice="`relearn store show` lists them",
                )
            chosen += found
        oldest = -float("inf") if unused_days is None else time.time() - unused_days * 86_400
        return list(
            dict.fromkeys(chosen + [feature_set.name for feature_set in feature_sets if feature_set.used < oldest])
        )

    def remove_damaged(self) -> int:
        """Remove all features and records whose hash is wrong; return their number."""
        n_damaged = 0
        for key, spec, record, check in self._database.execute("SELECT name, spec, record, hash FROM space"):
            feature_set = FeatureSet(self._database, str(spec), None)
            if bytes.fromhex(feature_set.name) != key or check != _hash_text(feature_set.name, str(record)):
                count = "SELECT count(*) FROM feature WHERE space = ?"
                n_damaged += 1 + sum(n for (n,) in self._database.execute(count, (key,)))
                self._database.execute("DELETE FROM space WHERE name = ?", (key,))
                continue
            damaged = [image for image in feature_set.list_images() if feature_set.read(image, np.dtype("u1")) is None]
            feature_set.forget(damaged)
            n_damaged += len(damaged)
        self.prune([])
        return n_damaged


def open_store(path: Path) -> FeatureStore:
    """Open an existing store.

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
        advice = "`relearn extract` creates it, RELEARN_CACHE names another place"
        raise StoreError("no store there", where=path, advice=advice)


def remove_store(path: Path) -> int:
    """Remove a store without opening it, for which a full disk has no space; return its size in bytes."""
    check_store(path)
    with lock_file(path):
        n_bytes = path.stat().st_size
        remove_database(path)
        remove_database(name_damaged(path))
    return n_bytes


def describe_store(path: Path) -> list[str]:
    """Return one line for a store, and one per feature set."""
    with open_store(path) as store:
        limit = read_limit_bytes()
        lines = [f"{path}: {store.measure_bytes() / 1e6:,.1f} MB of at most {limit / 1e6:,.0f} MB"]
        feature_sets = store.list_feature_sets()
        keys = sorted({key for feature_set in feature_sets for key in feature_set.recipe} - set(DESCRIBED))
        differing = [
            key for key in keys if len({json.dumps(feature_set.recipe.get(key)) for feature_set in feature_sets}) > 1
        ]
        for feature_set in feature_sets:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(feature_set.used))
            views = f"{feature_set.n_views:,} views, " if feature_set.n_views else ""
            size = f"{feature_set.n_images:,} images, {views}{feature_set.n_bytes / 1e6:,.1f} MB"
            lines.append(f"  {feature_set.name[:8]}  {used}  {feature_set.describe(differing)}: {size}")
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
        raise ParamsError(where="RELEARN_STORE_GB", wanted="a number above 0, such as 10", got=repr(text))
    return limit * 1e9
