"""An SQLite file that several processes and threads use at once, and that is begun anew when it is damaged."""

import errno
import logging
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

Row = Sequence[Any]

WAIT_SECONDS = 60

# Words of the errors that the file itself is no cause of.
OUTSIDE = ("full", "locked", "readonly", "unable to open", "disk I/O", "interrupted")


class Database:
    """A database for what can be made again: a damaged file is reported, removed, and made anew, empty.

    Every statement is a transaction of its own, kept once it returns. What stands in the way from outside (a full
    disk, no right to write, a lock that is held for a minute) raises `OSError` with the file's name.
    """

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        self._path = path
        self._schema = schema
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._begin_anew(error)

    def _open(self) -> None:
        self._connection = sqlite3.connect(
            self._path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # A damaged file may call bytes a text.
        self._connection.text_factory = lambda content: content.decode(errors="replace")
        for statement in (
            "PRAGMA auto_vacuum = INCREMENTAL",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
        ):
            self._connection.execute(statement)
        for statement in self._schema:
            self._connection.execute(statement)

    def _begin_anew(self, error: Exception) -> None:
        if isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in OUTSIDE):
            number = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise OSError(number, f"cannot be used: {error}; free some room there, or set RELEARN_CACHE", self._path)
        log.warning("%s: damaged (%s); begun anew", self._path, error)
        self._connection.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
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
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                self._begin_anew(error)
                return []

    def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement for many rows, all of them or none; none if the file turns out to be damaged."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(statement, rows)
                self._connection.execute("COMMIT")
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._begin_anew(error)

    def shrink(self) -> None:
        """Give the room of what was deleted back to the disk."""
        with self._lock:
            try:
                # As a script, for `execute` would take one step of it, and free one page.
                self._connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                self._begin_anew(error)
