"""One pipeline at a time in a repository: the second gets an error that names the first.

The lock is the system's own on an open file, so it ends with the last process that has the file open, however that
ends. The content of the file only names the owner.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from relearn.errors import Locked, RelearnError
from relearn.storage.files import is_alive

LOCK = Path(".relearn/lock")  # of the process that runs the pipeline, in the repository
DYING_SECONDS = 20  # more than `flows/supervise.py` gives a stage to end
POLL_SECONDS = 0.05


class Owner(NamedTuple):
    """Who has the lock; `since` is local time to the second, with its offset."""

    what: str
    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"{self.what} already runs (pid {self.pid} on {self.host}, since {self.since})"


@contextmanager
def hold_lock(path: Path, what: str, patience_seconds: float = 0) -> Iterator[int]:
    """Hold the lock while a block runs, and give its file descriptor, with which a child can hold it as well.

    Parameters
    ----------
    patience_seconds
        How long to wait for another owner. If that is dead, the wait is as long as its last children need to end.

    Raises
    ------
    Locked
        Another process holds it.
    RelearnError
        The file cannot be made or opened.
    """
    descriptor = _open_file(path)
    try:
        start = time.monotonic()
        while not _try_lock(path, descriptor):
            waited = time.monotonic() - start
            if waited >= patience_seconds and (waited >= DYING_SECONDS or not _is_dead(read_owner(path))):
                raise Locked(describe_owner(path))
            time.sleep(POLL_SECONDS)
        _write_owner(path, descriptor, what)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_file(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise _describe_failure(path, error) from None


def _try_lock(path: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _describe_failure(path, error) from None
    return True


def _write_owner(path: Path, descriptor: int, what: str) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    owner = Owner(what, os.getpid(), socket.gethostname(), since)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner._asdict()).encode(), 0)
    except OSError as error:
        raise _describe_failure(path, error) from None


def _describe_failure(path: Path, error: OSError) -> RelearnError:
    return RelearnError(
        where=path,
        wanted="a file that this process may write, as a lock",
        got=error.strerror,
        advice="remove what has the name, or make the disk writable",
    )


def _is_dead(owner: Owner | None) -> bool:
    return owner is not None and owner.host == socket.gethostname() and not is_alive(owner.pid)


def read_owner(path: Path) -> Owner | None:
    """Return who holds the lock, or held it last; None while the file is being written, or if it cannot be read."""
    try:
        owner = Owner(**json.loads(path.read_bytes()))
    except (OSError, RecursionError, TypeError, ValueError):
        return None
    return owner if type(owner.pid) is int and 0 < owner.pid < 2**31 else None


def describe_owner(path: Path) -> str:
    """Return who holds the lock, as far as the file says."""
    return str(read_owner(path) or "another run has just begun")
