"""Folders in which files land: on this machine, or at an address that fsspec knows.

Anyone who may write there is trusted with images only. So no link is followed, only regular files are opened, and
sizes are bounded.

What cannot be used is moved to `rejected/BATCH`, with the reasons in `rejected/BATCH.csv`. Each batch has a name of its
own, so nothing is overwritten. Only these names are not looked at again: a class may be called `rejected`.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from relearn.dataset.source_files import explain_hidden, find_refusal
from relearn.dataset.stamps import format_stamp
from relearn.errors import NotTaken, SourceError, UnreachableSource
from relearn.images.decoding import MAX_BYTES
from relearn.retraining.arrivals import Left, Waiting

CHUNK_BYTES = 1 << 20
MAX_DEPTH = 32
HIDDEN = "hidden"
CHANGED = "changed after it was copied"
REJECTED = "rejected"
_BATCH = re.compile(REJECTED + r"/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}(\.csv|/.*)?", re.DOTALL)

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK opening a pipe would wait for a writer, without O_NOFOLLOW a link could be anything.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Seen(NamedTuple):
    """A file of the listing; `changed` is in seconds since 1970, None if unknown."""

    file: Waiting
    changed: float | None


class Folder(Protocol):
    """A folder in which files land."""

    def find(self) -> Iterator[Seen | Left]:
        """Yield what lies there, in no particular order."""
        ...

    def read(self, file: Waiting) -> Iterator[bytes]:
        """Yield the content of a file, or raise `NotTaken`."""
        ...

    def remove(self, files: Sequence[Waiting]) -> Iterator[Left]:
        """Remove the files that have not changed, and yield those that stay."""
        ...

    def move(self, files: Sequence[Waiting], batch: str) -> Iterator[Left]:
        """Move the files that have not changed to the same paths below a new folder, and yield those that stay."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a new file."""
        ...


class LocalFolder:
    """A folder of this machine, in which no link is followed, even one that was put there meanwhile."""

    def __init__(self, address: str, root: Path) -> None:
        self._address = address
        self.root = root

    @contextmanager
    def _open_folder(self, parts: Sequence[str], is_made: bool = False) -> Iterator[int]:
        """Open a folder below the root, one part of its path after the other, so that no part can be a link."""
        descriptor = os.open(self.root, _FOLDER_FLAGS)
        try:
            for part in parts:
                if is_made:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=descriptor)
                below = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def find(self) -> Iterator[Seen | Left]:
        """Yield what lies there, depth first; raise `FileNotFoundError` if there is no such folder."""
        folders: list[tuple[str, ...]] = [()]
        while folders:
            parts = folders.pop()
            try:
                with self._open_folder(parts) as descriptor, os.scandir(descriptor) as listing:
                    for entry in listing:
                        name = "/".join([*parts, entry.name])
                        if _BATCH.fullmatch(name):
                            continue
                        if not entry.is_dir(follow_symlinks=False):
                            yield self._look_at(descriptor, entry.name, name)
                        elif _is_hidden(name) or len(parts) >= MAX_DEPTH:
                            yield _leave(name, HIDDEN if _is_hidden(name) else f"below {MAX_DEPTH} folders")
                        else:
                            folders.append((*parts, entry.name))
            except OSError as error:
                if not parts:
                    if isinstance(error, FileNotFoundError):
                        raise
                    raise SourceError(
                        f"cannot be listed: {error.strerror}", where=f"retrain.landing: {self._address}"
                    ) from None
                yield _leave("/".join(parts), f"folder cannot be listed: {error.strerror}")

    def _look_at(self, folder: int, name: str, path: str) -> Seen | Left:
        if _is_hidden(path):
            return _leave(path, HIDDEN)
        try:
            with _open_regular(name, folder) as descriptor:
                status = os.fstat(descriptor)
        except NotTaken as reason:
            return _leave(path, str(reason))
        if refused := find_refusal(path, status.st_size):
            return Left(refused.path, str(refused.refusal))
        return Seen(Waiting(path, format_stamp(status), status.st_size), status.st_mtime)

    def read(self, file: Waiting) -> Iterator[bytes]:
        """Yield the content of a file, or raise `NotTaken`: it changed, or cannot be read."""
        *parts, name = file.path.split("/")
        try:
            with self._open_folder(parts) as folder, _open_regular(name, folder) as descriptor:
                n_left = MAX_BYTES
                while n_left >= 0 and (chunk := os.read(descriptor, CHUNK_BYTES)):
                    n_left -= len(chunk)
                    yield chunk
                if format_stamp(os.fstat(descriptor)) != file.stamp:
                    raise NotTaken("changed since it was listed")
        except OSError as error:
            raise NotTaken(f"cannot be read: {error.strerror}") from None

    def remove(self, files: Sequence[Waiting]) -> Iterator[Left]:
        """Remove the files that have not changed, and yield those that stay."""
        return self._take(files, "removed", lambda folder, _, name: os.unlink(name, dir_fd=folder))

    def move(self, files: Sequence[Waiting], batch: str) -> Iterator[Left]:
        """Move the files that have not changed to the same paths below a new folder, and yield those that stay."""

        def _rename(folder: int, parts: Sequence[str], name: str) -> None:
            with self._open_folder([*batch.split("/"), *parts], is_made=True) as target:
                os.rename(name, name, src_dir_fd=folder, dst_dir_fd=target)

        return self._take(files, "moved", _rename)

    def _take(
        self, files: Sequence[Waiting], what: str, take: Callable[[int, Sequence[str], str], None]
    ) -> Iterator[Left]:
        """Take the files that have not changed out of their folders, which are open then; yield those that stay."""
        for file in files:
            *parts, name = file.path.split("/")
            try:
                with self._open_folder(parts) as folder:
                    if format_stamp(os.stat(name, dir_fd=folder, follow_symlinks=False)) == file.stamp:
                        take(folder, parts, name)
                    else:
                        yield Left(file.path, CHANGED)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Left(file.path, f"cannot be {what}: {error.strerror}")

    def write(self, path: str, content: bytes) -> None:
        """Write a new file; its folder is made if it is missing."""
        *parts, name = path.split("/")
        with self._open_folder(parts, is_made=True) as folder:
            descriptor = os.open(name, _NEW_FILE_FLAGS, 0o666, dir_fd=folder)
            with open(descriptor, "wb") as file:
                file.write(content)


@contextmanager
def _open_regular(name: str, folder: int) -> Iterator[int]:
    """Open a regular file of a folder by no link and without waiting, or raise `NotTaken`."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise NotTaken("a link, which is not followed; put the file itself in its place")
        if not stat.S_ISREG(mode):  # some devices act when they are opened
            raise NotTaken("not a regular file")
        descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
    except OSError as error:
        raise NotTaken(f"cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was replaced meanwhile
            raise NotTaken("not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _leave(path: str, reason: str) -> Left:
    """Leave a file or a folder, for this reason or for its name."""
    refused = find_refusal(path, 0)
    return Left(refused.path, str(refused.refusal)) if refused else Left(path, reason)


class RemoteFolder:
    """A place that fsspec reaches: it has no links, and a failure may be the network's."""

    def __init__(self, address: str, files: Any, root: str) -> None:
        self._address = address
        self._files = files
        self._root = root.rstrip("/")

    @contextmanager
    def _blame_network(self, what: str) -> Iterator[None]:
        """Raise `UnreachableSource` for errors that a filesystem has of its own; a missing right is none of them."""
        try:
            yield
        except (NotTaken, FileNotFoundError, PermissionError, SourceError):
            raise
        except Exception as error:
            raise UnreachableSource(f"cannot be {what}: {error}", where=f"retrain.landing: {self._address}") from error

    def _list(self) -> dict[str, dict[str, Any]]:
        with self._blame_network("listed"):
            self._files.invalidate_cache()
            try:
                found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
            except PermissionError as error:
                raise SourceError(f"cannot be listed: {error}", where=f"retrain.landing: {self._address}") from None
        return {name.removeprefix(self._root).removeprefix("/"): info for name, info in found.items()}

    def find(self) -> Iterator[Seen | Left]:
        """Yield what lies there, as one listing has it; raise `FileNotFoundError` if there is no such place."""
        for path, information in self._list().items():
            if _BATCH.fullmatch(path):
                continue
            if _is_hidden(path):
                yield _leave(path, HIDDEN)
            elif information.get("type", "file") != "file" or information.get("islink") or not _is_plain(path):
                yield _leave(path, "not a regular file")
            elif refused := find_refusal(path, information.get("size") or 0):
                yield Left(refused.path, str(refused.refusal))
            else:
                file = Waiting(path, _stamp_remote(information), information.get("size") or 0)
                yield Seen(file, _find_time(information))

    def read(self, file: Waiting) -> Iterator[bytes]:
        """Yield the content of a file, or raise `NotTaken`: it is gone, refused or too large."""
        with self._blame_network("read"):
            try:
                with self._files.open(f"{self._root}/{file.path}", "rb") as reading:
                    n_left = MAX_BYTES
                    while chunk := reading.read(CHUNK_BYTES):
                        n_left -= len(chunk)
                        if n_left < 0:
                            raise NotTaken(f"too large: more than the {MAX_BYTES:,} bytes that are read")
                        yield chunk
            except (FileNotFoundError, PermissionError) as error:
                raise NotTaken(f"cannot be read: {error.strerror or error}") from None

    def remove(self, files: Sequence[Waiting]) -> Iterator[Left]:
        """Remove the files that have not changed by a new listing, and yield those that stay."""
        return self._take(files, "removed", lambda _: None)

    def move(self, files: Sequence[Waiting], batch: str) -> Iterator[Left]:
        """Move the files that have not changed to the same paths below a new folder, and yield those that stay.

        They are read and written: not every filesystem can copy, and `mv` of fsspec takes `*` in a name for a pattern.
        """
        return self._take(files, "moved", lambda file: self._write(f"{batch}/{file.path}", self.read(file)))

    def _take(self, files: Sequence[Waiting], what: str, keep: Callable[[Waiting], None]) -> Iterator[Left]:
        """Remove the files that have not changed by a new listing, after `keep` of each; yield those that stay."""
        try:
            stamps = {path: _stamp_remote(information) for path, information in self._list().items()}
        except FileNotFoundError:
            return
        for file in files:
            if stamps.get(file.path, file.stamp) != file.stamp:
                yield Left(file.path, CHANGED)
            elif file.path in stamps:
                try:
                    with self._blame_network(what), suppress(FileNotFoundError):
                        keep(file)
                        self._files.rm_file(f"{self._root}/{file.path}")
                except (NotTaken, PermissionError) as error:
                    yield Left(file.path, f"cannot be {what}: {getattr(error, 'strerror', None) or error}")

    def write(self, path: str, content: bytes) -> None:
        """Write a new file."""
        with self._blame_network("written"):
            self._write(path, [content])

    def _write(self, path: str, chunks: Iterable[bytes]) -> None:
        target = f"{self._root}/{path}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)  # nothing to an object store
        with self._files.open(target, "wb") as file:
            for chunk in chunks:
                file.write(chunk)


def _stamp_remote(information: dict[str, Any]) -> str:
    return f"{information.get('size')} {_find_time(information)} {information.get('ETag')}"


def _find_time(information: dict[str, Any]) -> float | None:
    """Return when a file was last changed, in seconds since 1970, by the name that its filesystem has for it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = information.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _is_plain(path: str) -> bool:
    """Return whether a path is spelled as a folder of this machine would spell it."""
    return bool(path) and PurePosixPath(path).as_posix() == path


def _is_hidden(path: str) -> bool:
    return explain_hidden(path) is not None
