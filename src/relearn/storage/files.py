"""Files that appear whole or not at all, and their hashes."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np

from relearn.errors import IntegrityError

MAX_EXCHANGES = 100
WRITE_AGAIN = "run `dvc repro` to write it again"


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _partial_path(path: Path) -> Path:
    """Return a name beside `path` that no other process uses, and remove what dead processes left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*.partial"):
        pid = stale.name.split(".")[-2]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.parent / f".{path.name}.{os.getpid()}.partial"


def _name_file(error: OSError, path: Path) -> None:
    """Add the file to an error without one, such as that of a full disk."""
    if error.filename is None:
        error.filename = str(path)


@contextmanager
def write_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the name `path` only once it is complete and on the disk."""
    partial = _partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        _name_file(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces `path` once the block ends without an error."""
    partial = _partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    # Deleting takes time, and a kill in the middle must not leave half a folder under the name.
    old = _partial_path(path.with_name(f"{path.name}.old"))
    try:
        yield partial
        _exchange(partial, path, old)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        _name_file(error, path)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(partial: Path, path: Path, old: Path) -> None:
    """Rename `partial` to `path`, and a folder of that name to `old`. Another process may do the same at this time."""
    for attempt in count():
        try:
            if path.exists():
                path.rename(old)
            partial.rename(path)
            return
        except OSError as error:
            overtaken = error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) and partial.exists()
            if not overtaken or attempt == MAX_EXCHANGES:
                raise
            if path.exists():  # that of the other process; what it replaced may go
                shutil.rmtree(old, ignore_errors=True)


def write_array(path: Path, values: np.ndarray) -> None:
    """Write a C-ordered array as `.npy`, without pickle.

    `numpy.save` hides the cause of an error, such as a full disk; plain writes raise `OSError` with it.
    """
    with write_file(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with two spaces of indent, keys in the order given; NaN and infinity raise `ValueError`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with write_file(path) as file:
        file.write(text.encode())


def read_json(path: Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON object that has at least the keys given.

    Raises
    ------
    IntegrityError
        The file is missing, is not a JSON object, or lacks a key.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError("no such file", where=path, advice="run `dvc repro`, which writes it") from None
    return parse_json(content, str(path), keys)


def parse_json(content: bytes, name: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON object that `read_json` would read from these bytes; errors name it `name`."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # too many nested brackets
        raise IntegrityError(where=name, wanted="JSON", got=error, advice=WRITE_AGAIN) from None
    if not isinstance(value, dict):
        got = f"a {type(value).__name__}"
        raise IntegrityError(where=name, wanted="a JSON object", got=got, advice=WRITE_AGAIN)
    if missing := [key for key in keys if key not in value]:
        got = ", ".join(value)[:300] or "none"
        raise IntegrityError(where=name, wanted=f"the key {missing[0]}", got=got, advice=WRITE_AGAIN)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under a header as UTF-8, with Unix line ends and quotes only if a cell needs them."""
    with write_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.detach()  # flushes; `write_file` closes the file


def read_csv(path: Path, header: Sequence[str], n_optional: int = 0) -> list[list[str]]:
    """Read the rows below the header, every cell as text; the last `n_optional` columns may be missing.

    What a spreadsheet or an editor adds is left out: a byte order mark, and empty lines at the end.

    Raises
    ------
    IntegrityError
        The file is missing, has another header, or a row of another length.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        raise IntegrityError("no such file", where=path, advice="run `dvc repro`, which writes it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise IntegrityError(where=path, wanted="CSV in UTF-8", got=error, advice=WRITE_AGAIN) from None
    if found not in (list(header), list(header[: len(header) - n_optional])):
        wanted, got = f"the columns {','.join(header)}", ",".join(found)
        raise IntegrityError(where=path, wanted=wanted, got=got, advice=WRITE_AGAIN)
    while rows and not rows[-1]:
        rows.pop()
    for number, row in enumerate(rows, start=2):
        if len(row) != len(found):
            where = f"{path}: row {number}"
            raise IntegrityError(where=where, wanted=f"{len(found)} cells", got=len(row), advice=WRITE_AGAIN)
    return rows
