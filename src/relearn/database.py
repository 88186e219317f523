"""An SQLite file that several processes and threads use at once, and that is begun anew when it is damaged."""

import errno
import fcntl
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

Row = Sequence[Any]

WAIT_SECONDS = 60

# What SQLite says of a file whose bytes are wrong. Every statement here is right, so what it calls an error of one,
# such as a table that is not there, is the file's.
DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}
ADVICE = {
    sqlite3.SQLITE_FULL: "free some room there",
    sqlite3.SQLITE_BUSY: f"another process has held it for {WAIT_SECONDS} seconds; try again",
    sqlite3.SQLITE_TOOBIG: "take smaller features",
}


class Database:
    """A database for what can be made again: a damaged file is reported, removed, and made anew, empty.

    Every statement is a transaction of its own, kept once it returns. What stands in the way from outside (a full
    disk, no right to write, a lock that is held for a minute) raises `OSError` with the file's name.
    """

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        self._path = path
        self._schema = schema
        self._lock = threading.Lock()
        self._inode = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with lock_file(path):
                self._open()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._begin_anew(error)

    def _open(self) -> None:
        self._connection = sqlite3.connect(
            self._path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # A damaged file may call bytes a text.
        self._connection.text_factory = lambda content: content.decode(errors="replace")
        self._inode = self._path.stat().st_ino
        for statement in (
            "PRAGMA auto_vacuum = INCREMENTAL",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
        ):
            self._connection.execute(statement)
        for statement in self._schema:
            self._connection.execute(statement)

    def _begin_anew(self, error: Exception) -> None:
        """Make the file anew if it is damaged, unless another process has just done so."""
        # The low byte is the error, the others say which kind of it.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code not in DAMAGE:
            number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
            advice = ADVICE.get(code, "look whether it may be written")
            raise OSError(number, f"cannot be used: {error}; {advice}, or set RELEARN_CACHE", str(self._path))
        with lock_file(self._path):
            self._connection.close()
            if self._path.exists() and self._path.stat().st_ino == self._inode:
                log.warning("%s: damaged (%s); begun anew", self._path, error)
                remove_database(self._path)
            self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def execute(self, statement: str, values: Row = ()) -> list[Any]:
        """Return the rows that a statement gives; none if the file turns out to be damaged."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._begin_anew(error)
                return []

    def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement for many rows, all of them or none; none if the file turns out to be damaged."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(statement, rows)
                self._connection.execute("COMMIT")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._begin_anew(error)

    def shrink(self) -> None:
        """Give the room of what was deleted back to the disk."""
        with self._lock:
            try:
                # As a script, for `execute` would take one step of it, and free one page.
                self._connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._begin_anew(error)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Keep other processes from opening, removing or making anew the database at `path` while a block runs."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_database(path: Path) -> None:
    """Remove the file and those that SQLite puts beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
