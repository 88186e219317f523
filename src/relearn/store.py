"""Features by the content of their image and all else that decides them, so that none is computed twice."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from relearn.database import Database
from relearn.errors import ParamsError, StoreError
from relearn.files import hash_bytes

log = logging.getLogger(__name__)

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS space (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, spec TEXT NOT NULL, "
    "record TEXT NOT NULL, hash BLOB NOT NULL, used REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS feature (space INTEGER NOT NULL, image BLOB NOT NULL, hash BLOB NOT NULL, "
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


class Space:
    """The features of one way to compute them.

    Attributes
    ----------
    record : dict or None
        What `extractor.json` says of the way, once it was known.
    """

    def __init__(self, database: Database, key: int, name: str, record: dict[str, Any] | None) -> None:
        self._database = database
        self._key = key
        self.name = name
        self.record = record

    def set_record(self, record: dict[str, Any]) -> None:
        """Keep what is known of the way only once its network was built."""
        self.record = record
        text = json.dumps(record)
        statement = "UPDATE space SET record = ?, hash = ? WHERE id = ?"
        self._database.execute(statement, (text, _hash_text(self.name, text), self._key))

    def find_missing(self, images: Iterable[str]) -> list[str]:
        """Return those of the images, by sha256, that have no features here: each once, in their order."""
        rows = self._database.execute("SELECT image FROM feature WHERE space = ?", (self._key,))
        known = {image.hex() for (image,) in rows if isinstance(image, bytes)}
        return [image for image in dict.fromkeys(images) if image not in known]

    def add(self, images: Sequence[str], features: np.ndarray) -> None:
        """Keep a row of features for each image; all of them, or none if the process dies."""
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
        self._database = Database(path, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.__exit__(kind, error, traceback)

    def open_space(self, spec: dict[str, Any]) -> Space:
        """Return the space of a way to compute features, given by all that decides them, as JSON can hold it."""
        text = json.dumps(spec, sort_keys=True)
        name = hash_bytes(text.encode())[:32]
        for _ in range(3):  # the file may turn out to be damaged, or the row
            self._database.execute(
                "INSERT INTO space (name, spec, record, hash, used) VALUES (?, ?, 'null', ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET used = excluded.used",
                (name, text, _hash_text(name, "null"), time.time()),
            )
            found = self._database.execute("SELECT id, record, hash FROM space WHERE name = ?", (name,))
            for key, record, check in found:
                if check == _hash_text(name, str(record)):
                    return Space(self._database, key, name, json.loads(record))
                log.warning("%s: the record of a space is damaged; begun anew", self._path)
                self._database.execute("DELETE FROM space WHERE id = ?", (key,))
        raise StoreError(
            f"{self._path}: what was written was not there to be read; look at the disk, or set RELEARN_CACHE"
        )

    def list_spaces(self) -> list[SpaceSummary]:
        """Return what is in the store, the space last used first."""
        statement = "SELECT space, count(*), sum(length(content)) FROM feature GROUP BY space"
        counts = {key: (n_images, n_bytes) for key, n_images, n_bytes in self._database.execute(statement)}
        spaces = self._database.execute("SELECT id, name, spec, used FROM space ORDER BY used DESC, id")
        return [
            SpaceSummary(str(name), _read_json(spec), *counts.get(key, (0, 0)), used)
            for key, name, spec, used in spaces
        ]

    def measure_bytes(self) -> int:
        """Return the size of the file on the disk."""
        return sum(
            path.stat().st_size
            for suffix in ("", "-wal")
            if (path := self._path.with_name(self._path.name + suffix)).exists()
        )

    def prune(self, names: Iterable[str]) -> None:
        """Remove spaces and give their room on the disk back."""
        for name in names:
            for (key,) in self._database.execute("SELECT id FROM space WHERE name = ?", (name,)):
                self._remove(key)
        self._database.shrink()

    def _remove(self, key: int) -> None:
        statement = "DELETE FROM feature WHERE rowid IN (SELECT rowid FROM feature WHERE space = ? LIMIT ?) RETURNING 1"
        while self._database.execute(statement, (key, N_ROWS_AT_ONCE)):
            pass
        self._database.execute("DELETE FROM space WHERE id = ?", (key,))

    def make_room(self, n_bytes: int, keep: Space) -> None:
        """Remove the spaces that were not used for the longest time, until so many bytes more are within the limit.

        Raises
        ------
        StoreError
            They are not, though `keep` alone is left.
        """
        limit = read_limit_bytes()
        for space in reversed(self.list_spaces()):
            if self.measure_bytes() + n_bytes <= limit:
                return
            if space.name != keep.name and space.n_images:
                log.info(
                    "store: %s images of %s removed to make room", f"{space.n_images:,}", space.spec.get("network")
                )
                self.prune([space.name])
        if self.measure_bytes() + n_bytes > limit:
            raise StoreError(
                f"{self._path}: wanted room for {n_bytes / 1e9:.3g} GB more, got a limit of {limit / 1e9:.3g} GB; "
                "raise RELEARN_STORE_GB, or take a smaller layer or extract.feature_dtype float16"
            )

    def choose_spaces(self, names: Sequence[str], unused_days: float | None, everything: bool) -> list[str]:
        """Return the names of the spaces that begin as one of `names`, were not used for so long, or of all.

        Raises
        ------
        StoreError
            A name fits no space.
        """
        spaces = self.list_spaces()
        for name in names:
            if not any(space.name.startswith(name) for space in spaces):
                raise StoreError(f"{self._path}: wanted a space of it, got {name}; `relearn store show` names them")
        oldest = -float("inf") if unused_days is None else time.time() - unused_days * 86_400
        return [
            space.name
            for space in spaces
            if everything or space.used < oldest or any(space.name.startswith(name) for name in names)
        ]

    def remove_damaged(self) -> int:
        """Remove every record whose hash is wrong, and return how many there were."""
        n_damaged = 0
        for key, name, record, check in self._database.execute("SELECT id, name, record, hash FROM space"):
            statement = "SELECT image FROM feature WHERE space = ?"
            images = [image.hex() for (image,) in self._database.execute(statement, (key,)) if isinstance(image, bytes)]
            if check != _hash_text(str(name), str(record)):
                n_damaged += len(images)
                self._remove(key)
                continue
            space = Space(self._database, key, name, None)
            damaged = [image for image in images if space.read(image, np.dtype("u1")) is None]
            space.forget(damaged)
            n_damaged += len(damaged)
        return n_damaged


def open_store(path: Path) -> FeatureStore:
    """Open a store that is there.

    Raises
    ------
    StoreError
        There is none.
    """
    if not path.exists():
        raise StoreError(f"{path}: no store there; `relearn extract` makes it, RELEARN_CACHE names another place")
    return FeatureStore(path)


def describe_store(path: Path) -> list[str]:
    """Return lines of text on what a store holds."""
    with open_store(path) as store:
        limit = read_limit_bytes()
        lines = [f"{path}: {store.measure_bytes() / 1e6:,.1f} MB of at most {limit / 1e6:,.0f} MB"]
        for space in store.list_spaces():
            spec = space.spec
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(space.used))
            way = f"{spec.get('network')}, layer {spec.get('layer') or 'last'}, {spec.get('image_size_px')} px"
            size = f"{space.n_images:,} images, {space.n_bytes / 1e6:,.1f} MB"
            lines.append(f"  {space.name[:8]}  {used}  {way}, {spec.get('precision')}: {size}")
    return lines


def read_limit_bytes() -> float:
    """Return `RELEARN_STORE_GB`, in bytes."""
    text = os.environ.get("RELEARN_STORE_GB", str(DEFAULT_LIMIT_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 < limit < float("inf"):
        raise ParamsError(f"RELEARN_STORE_GB: wanted a number above 0, got {text!r}; unset it")
    return limit * 1e9
