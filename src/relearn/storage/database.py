"""An SQLite file that several processes and threads use at once, and that is recreated when it is damaged."""

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

SUFFIXES = ("", "-wal", "-shm")  # of the files that make up one database

# SQLite's codes for a file whose bytes are wrong.
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# Codes that mean a wrong statement, or a damaged definition of a table.
MAYBE_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
ADVICE = {
    sqlite3.SQLITE_FULL: "free some room there",
    sqlite3.SQLITE_BUSY: f"another process has held it for {WAIT_SECONDS} seconds; try again",
    sqlite3.SQLITE_TOOBIG: "take smaller features",
}


class Database:
    """A database for what can be computed again: a file that is damaged or from another release is set aside.

    It is reported, moved to a name beside it, and created again, empty. Every statement is a transaction of its own,
    kept once it returns. A cause outside the file (a full disk, no permission to write, a lock that is held for a
    minute) raises `OSError` with the file's name. A wrong statement raises sqlite3's own error, and the file stays as
    it is.

    Parameters
    ----------
    path
        The file; its folder is created if it is missing.
    schema
        The statements that create the tables, each with `IF NOT EXISTS`.
    version
        The number of the schema, at least 1, kept in `PRAGMA user_version`. A file without a number gets this one.
    """

    def __init__(self, path: Path, schema: Sequence[str], version: int = 1) -> None:
        self._path = path
        self._schema = schema
        self._version = version
        self._lock = threading.Lock()
        self._inode = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with lock_file(path):
                self._open()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._recover(error)

    def _open(self) -> None:
        """Open or create the file; the caller holds its lock."""
        self._connect()
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, self._version):
            self._move_aside(f"from another release (wanted schema version {self._version}, got {found})")
            self._connect()
        for statement in (
            "PRAGMA auto_vacuum = INCREMENTAL",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            *self._schema,
        ):
            self._connection.execute(statement)
        if found != self._version:  # a write, for which others wait
            self._connection.execute(f"PRAGMA user_version = {self._version}")

    def _connect(self) -> None:
        self._connection = sqlite3.connect(
            self._path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # Text of a damaged file may not be UTF-8.
        self._connection.text_factory = lambda content: content.decode(errors="replace")
        self._inode = self._path.stat().st_ino

    def _recover(self, error: Exception) -> None:
        """Recreate the file if it is damaged; raise the error, or `OSError`, if it is not."""
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
        """Return whether the file has the tables of the schema and passes SQLite's own check."""
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
        """Move the file aside as damaged, and create it again, empty."""
        with self._lock:
            self._set_aside(reason)

    def _set_aside(self, reason: str) -> None:
        with lock_file(self._path):
            self._move_aside(f"damaged ({reason})")
            self._open()

    def _move_aside(self, reason: str) -> None:
        """Move the file aside, unless another process has done so; the caller holds its lock."""
        self._connection.close()
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            aside = name_damaged(self._path)
            log.warning("%s: %s; moved to %s, and created again", self._path, reason, aside)
            remove_database(aside)
            for suffix in SUFFIXES:
                if (part := _add_suffix(self._path, suffix)).exists():
                    part.replace(_add_suffix(aside, suffix))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def execute(self, statement: str, values: Row = ()) -> list[Any]:
        """Return the rows of a statement; none if the file turns out to be damaged."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._recover(error)
                return []

    def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement for all rows or for none; for none if the file turns out to be damaged."""
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
        """Return the space of deleted rows to the disk."""
        with self._lock:
            try:
                # As a script: `execute` would take one step, and free one page.
                self._connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._recover(error)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Keep other processes from opening, removing or creating the database at `path` while the block runs."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def name_damaged(path: Path) -> Path:
    """Return the path to which a damaged database is moved, or one from another release."""
    return _add_suffix(path, ".damaged")


def remove_database(path: Path) -> None:
    """Remove the file and those that SQLite keeps beside it."""
    for suffix in SUFFIXES:
        _add_suffix(path, suffix).unlink(missing_ok=True)


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _get_code(error: Exception) -> int | None:
    """Return SQLite's primary code of an error; None if SQLite did not raise it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the upper bytes hold the extended code
