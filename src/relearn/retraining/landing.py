"""New labelled images in a landing folder, on this machine or at an address that fsspec knows.

They lie there as they would in `restructure.source`. They are copied into it, and removed from the landing folder only
when what became of them is safe. Anyone who may write there is trusted with images alone, so the folder keeps the rules
of `restructure`: regular files, no links, bounded sizes, names that can be written down. Each file is taken, or waits,
or is left where it is, with a reason. All are taken at once, when nothing has written to any of them for some seconds.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from relearn import paths
from relearn.dataset.manifest import Exclusion
from relearn.dataset.source_files import explain_hidden, find_refusal
from relearn.errors import SourceError, UnreachableSource
from relearn.images.decoding import MAX_BYTES
from relearn.runtime.text import escape_controls
from relearn.storage.files import hash_file, write_file

CHUNK_BYTES = 1 << 20
# Of one retraining; what is more waits for the next.
MAX_FILES = 100_000
MAX_TOTAL_BYTES = 256 << 30
MAX_LISTED = 1_000_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
# What lands is copied into the source, into DVC's cache, and into data/dataset.
N_COPIES = 3
# By how much the clock of another machine may be ahead, at least.
MAX_AHEAD_SECONDS = 60
N_NAMED = 3
HIDDEN = "hidden"
CHANGED = "changed after it was copied"

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a pipe would wait for a writer, without O_NOFOLLOW a link could be anything.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Waiting(NamedTuple):
    """A file in the landing folder: its path below it, what shows whether it was changed, and its size if known."""

    path: str
    stamp: str
    n_bytes: int = 0


class Left(NamedTuple):
    """A file that is not taken, by its path in one line of text, and why."""

    path: str
    reason: str


class Found(NamedTuple):
    """What lies in a landing folder: what can be taken now, what waits and why, and what is left there and why."""

    ready: list[Waiting]
    waiting: list[Left]
    left: list[Left]


class Arrival(NamedTuple):
    """A file that was copied: as it was in the landing folder, its place in the source, and its hash."""

    waiting: Waiting
    target: str
    sha256: str


class _Seen(NamedTuple):
    """A file as the listing has it; `changed` is in seconds since 1970, None where nobody knows."""

    file: Waiting
    changed: float | None


class _NotTaken(Exception):
    """A file cannot be taken; the text is the reason."""


class _Folder(Protocol):
    """Where files land."""

    def find(self) -> Iterator[_Seen | Left]:
        """Yield what lies there, in no order to rely on."""
        ...

    def read(self, file: Waiting) -> Iterator[bytes]:
        """Yield the content of a file, or raise `_NotTaken`."""
        ...

    def remove(self, files: Sequence[Waiting]) -> Iterator[Left]:
        """Remove the files that are as they were, and yield those that stay."""
        ...


class Landing:
    """A folder by path or address.

    Raises
    ------
    SourceError
        The address is of no kind that fsspec knows.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._folder: _Folder
        if "://" not in address:
            self._folder = _LocalFolder(address, Path(address))
            return
        from fsspec.core import url_to_fs

        try:
            files, root = url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise SourceError(f"retrain.landing: {address}: {error}") from None
        self._folder = _RemoteFolder(address, files, root) if self.is_remote else _LocalFolder(address, Path(root))

    @property
    def is_remote(self) -> bool:
        """Return whether it is reached by a network."""
        return "://" in self.address and not self.address.startswith("file:")

    def check_is_apart(self, root: Path, source: Path) -> None:
        """Raise `SourceError` if what is taken away from here could be a repository's own."""
        if not isinstance(self._folder, _LocalFolder):
            return
        inside = self._folder.root.resolve()
        for path in (source, paths.DATASET, paths.RELEASE, Path(".git"), Path(".dvc"), Path(".relearn")):
            other = (root / path).resolve()
            if other.is_relative_to(inside) or inside.is_relative_to(other):
                raise SourceError(
                    f"retrain.landing: {self.address}: wanted a folder apart from {path}, for what landed is taken "
                    "away; name another one"
                )

    def look(self, settle_seconds: float) -> Found:
        """Return what becomes of each file, by path.

        Nothing is ready as long as one of the files was written to within `settle_seconds`. A file whose time lies
        further ahead than that never settles, so it is left.

        Raises
        ------
        SourceError
            The folder is not there, cannot be listed, or holds more than `MAX_LISTED` files. (An empty place of an
            object store looks like none.)
        """
        seen: list[_Seen] = []
        left: list[Left] = []
        for n_listed, entry in enumerate(self._folder.find(), start=1):
            if n_listed > MAX_LISTED:
                raise SourceError(
                    f"retrain.landing: {self.address}: wanted at most {MAX_LISTED:,} files, got more; take some out"
                )
            if isinstance(entry, Left):
                left.append(entry)
            else:
                seen.append(entry)
        now = time.time()
        arriving: list[Left] = []
        files: list[Waiting] = []
        for file, changed in sorted(seen):
            age_seconds = float("inf") if changed is None else now - changed
            if changed is not None and -age_seconds > max(settle_seconds, MAX_AHEAD_SECONDS):
                reason = f"its time of change lies in the future: {_spell_time(changed)}; `touch` it"
                left.append(Left(file.path, reason))
            elif age_seconds < settle_seconds:
                ago = f"{age_seconds:,.0f} s ago" if age_seconds >= 0 else f"{-age_seconds:,.0f} s ahead of the clock"
                arriving.append(Left(file.path, f"written to {ago}; retrain.settle_seconds: {settle_seconds:g}"))
            else:
                files.append(file)
        if arriving:
            others = [Left(file.path, "waits for what still arrives") for file in files]
            return Found([], [*arriving, *others], sorted(left))
        ready, waiting = _choose_ready(files)
        return Found(ready, waiting, sorted(left))

    def copy_in(self, files: Iterable[Waiting], source: Path) -> tuple[list[Arrival], list[Left]]:
        """Copy files to the same paths below `source`; where other bytes have the name, it gets the hash into it.

        Returns
        -------
        What was copied, and what could not be: it was changed since it was listed, cannot be read, or has no place.
        """
        arrivals, left = [], []
        for file in files:
            try:
                arrivals.append(self._copy(file, source))
            except _NotTaken as reason:
                left.append(Left(file.path, str(reason)))
        return arrivals, left

    def _copy(self, file: Waiting, source: Path) -> Arrival:
        digest = hashlib.sha256()
        partial = source / ".landing"  # moved when its hash, and so its name, is known
        with write_file(partial) as writing:
            for chunk in self._folder.read(file):
                digest.update(chunk)
                writing.write(chunk)
        try:
            target = choose_target(source, PurePosixPath(file.path), digest.hexdigest())
            (source / target).parent.mkdir(parents=True, exist_ok=True)
            partial.replace(source / target)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise _NotTaken("its path is too long for the source") from None
        finally:
            partial.unlink(missing_ok=True)
        return Arrival(file, target.as_posix(), digest.hexdigest())

    def remove(self, arrivals: Iterable[Arrival]) -> list[Left]:
        """Remove what was copied; return what stays: it is another file by now, or cannot be removed."""
        return list(self._folder.remove([arrival.waiting for arrival in arrivals]))


def _choose_ready(files: Sequence[Waiting]) -> tuple[list[Waiting], list[Left]]:
    """Return the files of one retraining, and the others, which wait for the next."""
    n_bytes = 0
    for n_files, file in enumerate(files):
        n_bytes += file.n_bytes
        if n_files == MAX_FILES or n_bytes > MAX_TOTAL_BYTES:
            reason = f"waits for the next retraining; one takes {MAX_FILES:,} files and {MAX_TOTAL_BYTES >> 30} GiB"
            return list(files[:n_files]), [Left(file.path, reason) for file in files[n_files:]]
    return list(files), []


def choose_target(source: Path, path: PurePosixPath, sha256: str) -> PurePosixPath:
    """Return where a file goes in the source: to its path, or, where other bytes have that, beside it by its hash."""
    for parent in path.parents:
        if (source / parent).exists() and not (source / parent).is_dir():
            raise _NotTaken(f"the source has a file where this needs a folder: {parent}")
    for n_digits in (0, 8, 64):
        end = f"-{sha256[:n_digits]}{path.suffix}" if n_digits else path.suffix
        stem = path.stem.encode()[: MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore")
        target = path.with_name(stem + end)
        if not os.path.lexists(source / target):
            return target
        if (source / target).is_file() and hash_file(source / target) == sha256:
            return target
    raise _NotTaken("the source has something else under its name, and under the names by its hash")


def check_room(files: Iterable[Waiting], source: Path) -> None:
    """Raise `SourceError` if the disk has no room for what is to be copied, before any of it is."""
    status = os.statvfs(source)
    free = status.f_bavail * status.f_frsize
    wanted = N_COPIES * sum(file.n_bytes for file in files)
    if wanted > free:
        raise SourceError(
            f"retrain.landing: wanted {wanted / 1e9:,.1f} GB free on the disk of {source} for {N_COPIES} copies of "
            f"what waits, got {free / 1e9:,.1f} GB; free some, or take the largest files out"
        )


def list_unused(arrivals: Iterable[Arrival], excluded: Iterable[Exclusion]) -> list[Left]:
    """Return what was taken and is not in the data set all the same, with the reason that `restructure` gave."""
    reasons = {exclusion.path: exclusion.reason for exclusion in excluded}
    return [Left(arrival.target, reasons[arrival.target]) for arrival in arrivals if arrival.target in reasons]


def describe_left(left: Sequence[Left], what: str) -> str:
    """Return how many files are what, and the first of them with the reason, in one line that steers no terminal."""
    first = ", ".join(f"{path} ({reason})" for path, reason in left[:N_NAMED])
    more = f", and {len(left) - N_NAMED:,} more" if left[N_NAMED:] else ""
    return escape_controls(f"{len(left):,} file{'' if len(left) == 1 else 's'} {what}: {first}{more}")


def _spell_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return f"{seconds:.3g} s after 1970"


def _is_plain(path: str) -> bool:
    """Return whether a path is spelled in the one way that a folder of this machine has for it."""
    return bool(path) and PurePosixPath(path).as_posix() == path


def _is_hidden(path: str) -> bool:
    return explain_hidden(path) is not None


class _LocalFolder:
    """A folder of this machine, in which no link is followed, whenever it came."""

    def __init__(self, address: str, root: Path) -> None:
        self._address = address
        self.root = root

    @contextmanager
    def _open_folder(self, parts: Sequence[str]) -> Iterator[int]:
        """Open a folder below the root, one part of its path after the other, so that none of them can be a link."""
        descriptor = os.open(self.root, _FOLDER_FLAGS)
        try:
            for part in parts:
                below = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def find(self) -> Iterator[_Seen | Left]:
        if not self.root.is_dir():
            raise SourceError(f"retrain.landing: {self._address}: no such folder; make it, or correct the address")
        folders: list[tuple[str, ...]] = [()]
        while folders:
            parts = folders.pop()
            try:
                with self._open_folder(parts) as descriptor, os.scandir(descriptor) as listing:
                    for entry in listing:
                        name = "/".join([*parts, entry.name])
                        if not entry.is_dir(follow_symlinks=False):
                            yield self._look_at(descriptor, entry.name, name)
                        elif _is_hidden(name) or len(parts) >= MAX_DEPTH:
                            yield _leave(name, HIDDEN if _is_hidden(name) else f"below {MAX_DEPTH} folders")
                        else:
                            folders.append((*parts, entry.name))
            except OSError as error:
                if not parts:
                    raise SourceError(f"retrain.landing: {self._address}: cannot be listed: {error.strerror}") from None
                yield _leave("/".join(parts), f"folder cannot be listed: {error.strerror}")

    def _look_at(self, folder: int, name: str, path: str) -> _Seen | Left:
        if _is_hidden(path):
            return _leave(path, HIDDEN)
        try:
            with _open_regular(name, folder) as descriptor:
                status = os.fstat(descriptor)
        except _NotTaken as reason:
            return _leave(path, str(reason))
        if refused := find_refusal(path, status.st_size):
            return Left(refused.path, str(refused.refusal))
        return _Seen(Waiting(path, _stamp(status), status.st_size), status.st_mtime)

    def read(self, file: Waiting) -> Iterator[bytes]:
        *parts, name = file.path.split("/")
        try:
            with self._open_folder(parts) as folder, _open_regular(name, folder) as descriptor:
                n_left = MAX_BYTES
                while n_left >= 0 and (chunk := os.read(descriptor, CHUNK_BYTES)):
                    n_left -= len(chunk)
                    yield chunk
                if _stamp(os.fstat(descriptor)) != file.stamp:
                    raise _NotTaken("changed since it was listed")
        except OSError as error:
            raise _NotTaken(f"cannot be read: {error.strerror}") from None

    def remove(self, files: Sequence[Waiting]) -> Iterator[Left]:
        for file in files:
            *parts, name = file.path.split("/")
            try:
                with self._open_folder(parts) as folder:
                    if _stamp(os.stat(name, dir_fd=folder, follow_symlinks=False)) == file.stamp:
                        os.unlink(name, dir_fd=folder)
                    else:
                        yield Left(file.path, CHANGED)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Left(file.path, f"cannot be removed: {error.strerror}")


@contextmanager
def _open_regular(name: str, folder: int) -> Iterator[int]:
    """Open a regular file of a folder by no link and without waiting, or raise `_NotTaken`."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise _NotTaken("a link, which is not followed; put the file itself in its place")
        if not stat.S_ISREG(mode):  # some devices act when they are opened
            raise _NotTaken("not a regular file")
        descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
    except OSError as error:
        raise _NotTaken(f"cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was exchanged in between
            raise _NotTaken("not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _stamp(status: os.stat_result) -> str:
    """Return what changes when a file does; as `inspections.read_stamp`."""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _leave(path: str, reason: str) -> Left:
    """Leave a file or a folder; its name is a reason as well."""
    refused = find_refusal(path, 0)
    return Left(refused.path, str(refused.refusal)) if refused else Left(path, reason)


class _RemoteFolder:
    """A place that fsspec reaches: there are no links in it, and what fails may be the network."""

    def __init__(self, address: str, files: Any, root: str) -> None:
        self._address = address
        self._files = files
        self._root = root.rstrip("/")

    def _list(self) -> dict[str, dict[str, Any]]:
        self._files.invalidate_cache()
        try:
            found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
        except OSError as error:
            kind = SourceError if isinstance(error, FileNotFoundError | PermissionError) else UnreachableSource
            raise kind(f"retrain.landing: {self._address}: cannot be listed: {error}") from None
        return {name.removeprefix(self._root).removeprefix("/"): info for name, info in found.items()}

    def find(self) -> Iterator[_Seen | Left]:
        for path, information in self._list().items():
            if _is_hidden(path):
                yield _leave(path, HIDDEN)
            elif information.get("type", "file") != "file" or information.get("islink") or not _is_plain(path):
                yield _leave(path, "not a regular file")
            elif refused := find_refusal(path, information.get("size") or 0):
                yield Left(refused.path, str(refused.refusal))
            else:
                file = Waiting(path, _stamp_remote(information), information.get("size") or 0)
                yield _Seen(file, _find_time(information))

    def read(self, file: Waiting) -> Iterator[bytes]:
        try:
            with self._files.open(f"{self._root}/{file.path}", "rb") as reading:
                n_left = MAX_BYTES
                while chunk := reading.read(CHUNK_BYTES):
                    n_left -= len(chunk)
                    if n_left < 0:
                        raise _NotTaken(f"too large: more than the {MAX_BYTES:,} bytes that are read")
                    yield chunk
        except (FileNotFoundError, PermissionError) as error:
            raise _NotTaken(f"cannot be read: {error.strerror or error}") from None

    def remove(self, files: Sequence[Waiting]) -> Iterator[Left]:
        stamps = {path: _stamp_remote(information) for path, information in self._list().items()}
        for file in files:
            if stamps.get(file.path, file.stamp) != file.stamp:
                yield Left(file.path, CHANGED)
            elif file.path in stamps:
                try:
                    self._files.rm_file(f"{self._root}/{file.path}")
                except PermissionError as error:
                    yield Left(file.path, f"cannot be removed: {error.strerror or error}")


def _stamp_remote(information: dict[str, Any]) -> str:
    return f"{information.get('size')} {_find_time(information)} {information.get('ETag')}"


def _find_time(information: dict[str, Any]) -> float | None:
    """Return when a file was changed last, in seconds since 1970, by whatever name its filesystem has for that."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = information.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
