"""An SQLite file that several processes and threads use at once, and that is created again when it is damaged."""

import errno
import fcntl
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

Row = Sequence[Any]

WAIT_SECONDS = 60

SUFFIXES = ("", "-wal", "-shm")  # of the files that SQLite makes of one

# What SQLite says of a file whose bytes are wrong.
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# What it says of a wrong statement as well, if the damage is to the definition of a table.
MAYBE_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
ADVICE = {
    sqlite3.SQLITE_FULL: "free some room there",
    sqlite3.SQLITE_BUSY: f"another process has held it for {WAIT_SECONDS} seconds; try again",
    sqlite3.SQLITE_TOOBIG: "take smaller features",
}


class Database:
    """A database for what can be computed again: a damaged file is reported, moved aside, and created again, empty.

    Every statement is a transaction of its own, kept once it returns. What stands in the way from outside (a full
    disk, no right to write, a lock that is held for a minute) raises `OSError` with the file's name. A wrong statement
    raises sqlite3's own error, and the file stays as it is.
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
            self._recover(error)

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

    def _recover(self, error: Exception) -> None:
        """Create the file again if it is damaged, unless another process has just done so."""
        if not self._is_damaged(error):
            code = _get_code(error)
            if code is None or code in MAYBE_DAMAGE:
                raise error
            number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
            advice = ADVICE.get(code, "check that it may be written")
            raise OSError(number, f"cannot be used: {error}; {advice}, or set RELEARN_CACHE", str(self._path))
        self._set_aside(str(error))

    def _is_damaged(self, error: Exception) -> bool:
        code = _get_code(error)
        if isinstance(error, UnicodeDecodeError) or code in MAYBE_DAMAGE:
            return not self._is_sound()
        return code in DAMAGE

    def _is_sound(self) -> bool:
        """Return whether the file has the tables that it was created with, and SQLite finds no fault in it."""
        definitions = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        with closing(sqlite3.connect(":memory:")) as other:
            for statement in self._schema:
                other.execute(statement)
            wanted = other.execute(definitions).fetchall()
        try:
            found = self._connection.execute(definitions).fetchall()
            return found == wanted and self._connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        except (sqlite3.Error, UnicodeDecodeError):
            return False

    def set_aside(self, reason: str) -> None:
        """Move the file aside, and create it again, empty."""
        with self._lock:
            self._set_aside(reason)

    def _set_aside(self, reason: str) -> None:
        with lock_file(self._path):
            self._connection.close()
            if self._path.exists() and self._path.stat().st_ino == self._inode:
                aside = name_damaged(self._path)
                log.warning("%s: damaged (%s); moved to %s, and created again", self._path, reason, aside)
                remove_database(aside)
                for suffix in SUFFIXES:
                    if (part := _add_suffix(self._path, suffix)).exists():
                        part.replace(_add_suffix(aside, suffix))
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
                self._recover(error)
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
                self._recover(error)

    def shrink(self) -> None:
        """Give the room of what was deleted back to the disk."""
        with self._lock:
            try:
                # As a script, for `execute` would take one step of it, and free one page.
                self._connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._recover(error)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Keep other processes from opening, removing or creating the database at `path` while a block runs."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def name_damaged(path: Path) -> Path:
    """Return the path to which a damaged database is moved."""
    return _add_suffix(path, ".damaged")


def remove_database(path: Path) -> None:
    """Remove the file and those that SQLite puts beside it."""
    for suffix in SUFFIXES:
        _add_suffix(path, suffix).unlink(missing_ok=True)


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _get_code(error: Exception) -> int | None:
    """Return SQLite's primary code of an error; None if the error is not SQLite's but of this module's code."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the other bytes say which kind of it
