"""New labeled images in a landing folder, on this machine or at an address that fsspec knows.

They lie there as they would in `restructure.source`. They are copied into it, and removed from the landing folder only
when the data that has them is recorded. The folder keeps the rules of `restructure`: regular files, no links, bounded
sizes, names that can be written down. Each file is taken, or waits, or is left in place, with a reason. All are taken
at once, when none of them was written to for some seconds.
"""

import csv
import errno
import hashlib
import io
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from relearn import paths
from relearn.errors import NotTaken, SourceError
from relearn.retraining.arrivals import Arrival, Found, Left, Unused, Waiting, format_time
from relearn.retraining.folders import REJECTED, Folder, LocalFolder, RemoteFolder, Seen
from relearn.runtime.text import escape_controls
from relearn.storage.files import hash_file, write_file

# Of one retraining; the rest waits for the next.
MAX_FILES = 100_000
MAX_TOTAL_BYTES = 256 << 30
MAX_LISTED = 1_000_000
MAX_NAME_BYTES = 255
# What lands is copied into the source, into DVC's cache, and into data/dataset.
N_COPIES = 3
# What `make setup EXTRAS=...` installs, and the addresses that need it.
EXTRAS = {"s3": ("s3", "s3a"), "gs": ("gs", "gcs"), "azure": ("az", "abfs"), "ssh": ("ssh", "sftp")}
# The clock of another machine may be ahead by this much at least.
MAX_AHEAD_SECONDS = 60
NOW = float("-inf")  # as `settle_seconds`: whatever was written to last is taken


class Landing:
    """A folder by path or address.

    Raises
    ------
    SourceError
        fsspec does not know the protocol of the address, lacks the packages for it, or cannot connect to it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._folder: Folder
        if "://" not in address:
            self._folder = LocalFolder(address, Path(address))
            return
        from fsspec.core import url_to_fs

        try:
            files, root = url_to_fs(address)
        except ImportError as error:
            scheme = address.partition("://")[0]
            extras = [extra for extra, schemes in EXTRAS.items() if scheme in schemes]
            raise SourceError(
                where=f"retrain.landing: {address}",
                wanted=f"the packages for {scheme}://",
                got=error,
                advice=f"run `make setup EXTRAS={extras[0]}`" if extras else None,
            ) from None
        except Exception as error:  # each filesystem has errors of its own
            raise SourceError(str(error), where=f"retrain.landing: {address}") from error
        self._folder = RemoteFolder(address, files, root) if self.is_remote else LocalFolder(address, Path(root))

    @property
    def is_remote(self) -> bool:
        """Return whether a network is between this machine and it."""
        return "://" in self.address and not self.address.startswith("file:")

    def check_is_apart(self, root: Path, source: Path) -> None:
        """Raise `SourceError` if a file that is removed from here could belong to the repository itself."""
        if not isinstance(self._folder, LocalFolder):
            return
        inside = self._folder.root.resolve()
        for path in (source, paths.DATASET, paths.RELEASE, Path(".git"), Path(".dvc"), Path(".relearn")):
            other = (root / path).resolve()
            if other.is_relative_to(inside) or inside.is_relative_to(other):
                raise SourceError(
                    where=f"retrain.landing: {self.address}",
                    wanted=f"a folder apart from {path}, because what landed is removed",
                    got="one that contains it or lies in it",
                    advice="name another one",
                )

    def look(self, settle_seconds: float) -> Found:
        """Return what becomes of each file, by path.

        Nothing is ready while one of the files was written to within `settle_seconds`. A file whose time lies further
        ahead than that never settles, so it is left. A folder that is missing is empty; so an object store shows an
        empty prefix, too.

        Raises
        ------
        SourceError
            The folder cannot be listed, or holds more than `MAX_LISTED` files.
        """
        try:
            seen, left = self._list()
        except FileNotFoundError:
            return Found([], [], [], is_missing=True)
        now = time.time()
        arriving: list[Left] = []
        files: list[Waiting] = []
        settled_at = now
        for file, changed in sorted(seen):
            age_seconds = float("inf") if changed is None else now - changed
            if changed is not None and -age_seconds > max(settle_seconds, MAX_AHEAD_SECONDS):
                reason = f"its time of change lies in the future: {format_time(changed)}; `touch` it"
                left.append(Left(file.path, reason))
            elif age_seconds < settle_seconds:
                ago = f"{age_seconds:,.0f} s ago" if age_seconds >= 0 else f"{-age_seconds:,.0f} s ahead of the clock"
                arriving.append(Left(file.path, f"written to {ago}; retrain.settle_seconds: {settle_seconds:g}"))
                settled_at = max(settled_at, now - age_seconds + settle_seconds)
            else:
                files.append(file)
        if arriving:
            others = [Left(file.path, "waits until the others have arrived") for file in files]
            return Found([], [*arriving, *others], sorted(left), settled_at)
        ready, waiting = _choose_ready(files)
        return Found(ready, waiting, sorted(left))

    def _list(self) -> tuple[list[Seen], list[Left]]:
        """Return the files that may be taken, and those that are left."""
        seen: list[Seen] = []
        left: list[Left] = []
        for n_listed, entry in enumerate(self._folder.find(), start=1):
            if n_listed > MAX_LISTED:
                raise SourceError(
                    where=f"retrain.landing: {self.address}",
                    wanted=f"at most {MAX_LISTED:,} files",
                    got="more",
                    advice="take some out",
                )
            if isinstance(entry, Left):
                left.append(entry)
            else:
                seen.append(entry)
        return seen, left

    def copy_in(self, files: Iterable[Waiting], source: Path) -> tuple[list[Arrival], list[Left]]:
        """Copy files to the same paths below `source`; if other bytes have the name, the hash becomes part of it.

        Returns
        -------
        What was copied, and what was not: it changed since it was listed, cannot be read, or has no place.
        """
        arrivals, left = [], []
        for file in files:
            try:
                arrivals.append(self._copy(file, source))
            except NotTaken as reason:
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
            raise NotTaken("its path is too long for the source") from None
        finally:
            partial.unlink(missing_ok=True)
        return Arrival(file, target.as_posix(), digest.hexdigest())

    def remove(self, arrivals: Iterable[Arrival]) -> list[Left]:
        """Remove what was copied; return what stays: it changed, or cannot be removed."""
        return list(self._folder.remove([arrival.waiting for arrival in arrivals]))

    def reject(self, unused: Sequence[Unused]) -> tuple[str, list[Left]]:
        """Move what cannot be used to a new folder below `rejected`, and write a table of the reasons beside it.

        Returns
        -------
        The path of the new folder, and what stays: it changed, or cannot be moved.
        """
        batch = f"{REJECTED}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows((entry.arrival.waiting.path, escape_controls(entry.reason)) for entry in unused)
        files = [entry.arrival.waiting for entry in unused]
        try:
            self._folder.write(f"{batch}.csv", table.getvalue().encode())
        except OSError as error:
            return batch, [Left(file.path, f"cannot be moved: {error.strerror or error}") for file in files]
        return batch, list(self._folder.move(files, batch))


def find_landing(root: Path, address: str | None) -> Landing | None:
    """Return the landing folder of `retrain.landing`, in which a path is relative to the repository."""
    if address is None:
        return None
    return Landing(address if "://" in address else str(root / address))


def _choose_ready(files: Sequence[Waiting]) -> tuple[list[Waiting], list[Left]]:
    """Return the files of one retraining, and the rest, which waits for the next."""
    n_bytes = 0
    for n_files, file in enumerate(files):
        n_bytes += file.n_bytes
        if n_files == MAX_FILES or n_bytes > MAX_TOTAL_BYTES:
            reason = f"waits for the next retraining; one takes {MAX_FILES:,} files and {MAX_TOTAL_BYTES >> 30} GiB"
            return list(files[:n_files]), [Left(file.path, reason) for file in files[n_files:]]
    return list(files), []


def choose_target(source: Path, path: PurePosixPath, sha256: str) -> PurePosixPath:
    """Return where a file goes in the source: to its path or, if other bytes have that, to one with its hash."""
    for parent in path.parents:
        if (source / parent).exists() and not (source / parent).is_dir():
            raise NotTaken(f"the source has a file where this needs a folder: {parent}")
    for n_digits in (0, 8, 64):
        end = f"-{sha256[:n_digits]}{path.suffix}" if n_digits else path.suffix
        stem = path.stem.encode()[: MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore")
        target = path.with_name(stem + end)
        if not os.path.lexists(source / target):
            return target
        if (source / target).is_file() and hash_file(source / target) == sha256:
            return target
    raise NotTaken("the source has something else under its name, and under the names by its hash")


def check_room(files: Iterable[Waiting], source: Path) -> None:
    """Raise `SourceError` if the disk has no room for all copies, before the first is made."""
    status = os.statvfs(source)
    free = status.f_bavail * status.f_frsize
    wanted = N_COPIES * sum(file.n_bytes for file in files)
    if wanted > free:
        raise SourceError(
            where="retrain.landing",
            wanted=f"{wanted / 1e9:,.1f} GB free on the disk of {source} for {N_COPIES} copies of what waits",
            got=f"{free / 1e9:,.1f} GB",
            advice="free some, or take the largest files out",
        )
