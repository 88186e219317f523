"""One pipeline at a time in a repository: whoever comes second is told who is first.

The lock is the system's own on an open file, so it is gone with the last process that has the file open, however that
ended. What is written in the file only tells who it is.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from relearn.errors import RelearnError


class Owner(NamedTuple):
    """Who has the lock; `since` is local time to the second, with its offset."""

    what: str
    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"{self.what} already runs (pid {self.pid} on {self.host}, since {self.since})"


class Locked(RelearnError):
    """Another process has the lock."""


@contextmanager
def hold_lock(path: Path, what: str) -> Iterator[int]:
    """Hold the lock while a block runs, and give its file descriptor, which a child may be handed to hold it as well.

    Raises
    ------
    Locked
        Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(describe_owner(path)) from None
        owner = Owner(
            what, os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat(timespec="seconds")
        )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner._asdict()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def describe_owner(path: Path) -> str:
    """Say who holds the lock, as far as the file tells."""
    try:
        return str(Owner(**json.loads(path.read_bytes())))
    except (ValueError, TypeError):  # it is just being written
        return "another run has just begun"
