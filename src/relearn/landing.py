"""New labelled images that wait in a landing folder, on this machine or at an address that fsspec knows.

They lie there as they would in `restructure.source`. They are copied into it, and removed from the landing folder only
when what became of them is safe. All are taken at once, when nothing has written to any of them for some seconds;
hidden ones never are.
"""

import hashlib
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from relearn.errors import SourceError
from relearn.files import hash_file, write_file

CHUNK_BYTES = 1 << 20


class Waiting(NamedTuple):
    """A file in the landing folder: its path below it, and what tells whether it was changed."""

    path: str
    stamp: str


class Arrival(NamedTuple):
    """A file that was copied: as it was in the landing folder, its place in the source, and its hash."""

    waiting: Waiting
    target: str
    sha256: str


class Landing:
    """A folder by path or address.

    Raises
    ------
    SourceError
        The address is of no kind that fsspec knows.
    """

    def __init__(self, address: str) -> None:
        from fsspec.core import url_to_fs

        self.address = address
        try:
            self._files, root = url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise SourceError(f"retrain.landing: {address}: {error}") from None
        self._root = root.rstrip("/")

    @property
    def is_remote(self) -> bool:
        """Tell whether it is reached by a network."""
        return "://" in self.address and not self.address.startswith("file:")

    def list_waiting(self, settle_seconds: float) -> list[Waiting]:
        """Return all files, by path; none as long as one of them was written to within so many seconds.

        Raises
        ------
        SourceError
            The folder is not there, or cannot be listed. (An empty place of an object store cannot be told from none.)
        """
        if not self.is_remote and not self._files.isdir(self._root):
            raise SourceError(f"retrain.landing: {self.address}: no such folder; make it, or mend the address")
        try:
            found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
        except OSError as error:
            raise SourceError(f"retrain.landing: {self.address}: cannot be listed: {error}") from None
        waiting = []
        for name, information in found.items():
            path = name.removeprefix(self._root).lstrip("/")
            changed = _find_time(information)
            hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
            if hidden:
                continue
            if changed is not None and time.time() - changed < settle_seconds:
                return []
            waiting.append(Waiting(path, f"{information.get('size')} {changed} {information.get('ETag')}"))
        return sorted(waiting)

    def copy_in(self, waiting: Iterable[Waiting], source: Path) -> list[Arrival]:
        """Copy files to the same paths below `source`; where other bytes have the name, it gets the hash into it."""
        return [self._copy(file, source) for file in waiting]

    def _copy(self, file: Waiting, source: Path) -> Arrival:
        digest = hashlib.sha256()
        partial = source / ".landing"  # moved when its hash, and so its name, is known
        with self._files.open(f"{self._root}/{file.path}", "rb") as reading, write_file(partial) as writing:
            while chunk := reading.read(CHUNK_BYTES):
                digest.update(chunk)
                writing.write(chunk)
        sha256 = digest.hexdigest()
        target = PurePosixPath(file.path)
        if (source / target).exists() and hash_file(source / target) != sha256:
            target = target.with_name(f"{target.stem}-{sha256[:8]}{target.suffix}")
        (source / target).parent.mkdir(parents=True, exist_ok=True)
        partial.replace(source / target)
        return Arrival(file, target.as_posix(), sha256)

    def remove(self, arrivals: Iterable[Arrival]) -> int:
        """Remove what was copied, where it is still the same file; return how many were left for having changed."""
        stamps = {file.path: file.stamp for file in self.list_waiting(0)}
        n_left = 0
        for file, _, _ in arrivals:
            if stamps.get(file.path) == file.stamp:
                self._files.rm_file(f"{self._root}/{file.path}")
            elif file.path in stamps:
                n_left += 1
        return n_left


def _find_time(information: dict[str, Any]) -> float | None:
    """Return when a file was changed last, in seconds since 1970, by whatever name its filesystem has for that."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = information.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
