"""Files of a source, and the reasons not to read one."""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from relearn.images.decoding import MAX_BYTES
from relearn.runtime.text import holds_control_character, is_control_character


class SourceFile(NamedTuple):
    """A file found in a source.

    `path` is relative, with `/`. `read` returns the bytes, at most one more than `MAX_BYTES`; call it before taking the
    next file (a compressed tar cannot go back). `refusal` is the reason if the file must not or cannot be read.
    """

    path: str
    read: Callable[[], bytes]
    refusal: str | None = None


class Walk(NamedTuple):
    """What a walk through a source finds beside its files: paths of folders, and remarks for the user."""

    folders: set[str]
    remarks: list[str]


# What systems and devices keep beside a user's files, in lower case. Names that begin with a dot are hidden.
SYSTEM_NAMES = {
    "__macosx", "network trash folder", "temporary items",  # macOS
    "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",  # Windows
    "lost+found",  # Linux
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",  # network storage
}  # fmt: skip

CANNOT_BE_READ = "cannot be read"

# What damaged, encrypted or unreadable files raise when they are read.
READING_ERRORS = (
    OSError, EOFError, RuntimeError, NotImplementedError, ValueError, MemoryError, struct.error, zlib.error,
    lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip

N_NAMED = 10  # of a list in a message


def count_files(n_files: int) -> str:
    """Return a number of files as text."""
    return f"{n_files:,} file{'' if n_files == 1 else 's'}"


def list_some(names: Sequence[str]) -> str:
    """Return the first `N_NAMED` names, separated by commas."""
    return ", ".join(names[:N_NAMED]) + (", ..." if len(names) > N_NAMED else "")


def refuse_file(path: str, reason: str) -> SourceFile:
    """Return a file that is not read, with the reason."""
    return SourceFile(path, lambda: b"", reason)


def refuse_size(path: str, n_bytes: int) -> SourceFile | None:
    """Refuse a file that is too large, before any of it is read; return None if it is not."""
    if n_bytes <= MAX_BYTES:
        return None
    return refuse_file(path, f"too large: {n_bytes:,} bytes, at most {MAX_BYTES:,} are read")


def explain_hidden(path: str) -> str | None:
    """Return the reason if a path is not meant as an image: a part is hidden or one of `SYSTEM_NAMES`; else None."""
    for part in PurePosixPath(path).parts:
        if part.casefold() in SYSTEM_NAMES:
            return f"system file: {part}"
        if part.startswith(".") and part != "..":
            return "hidden file"
    return None


def spell_name(path: str) -> str:
    r"""Return a name in one line of UTF-8; control characters and other bytes become `\n` or `\xff`."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if is_control_character(c) else c for c in text)


def refuse_name(path: str) -> SourceFile | None:
    """Refuse a name that no text file can hold or that points outside; return None for any other."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return refuse_file(spell_name(path), "name is not UTF-8")
    if holds_control_character(path):
        return refuse_file(spell_name(path), "name holds a control character")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        return refuse_file(path, "name points outside the archive")
    return None


def find_refusal(path: str, n_bytes: int) -> SourceFile | None:
    """Refuse a name or a size as it would be refused in a source; return None if it would not."""
    return refuse_name(path) or refuse_size(path, n_bytes)


def open_source_file(path: Path, name: str) -> SourceFile:
    """Return a file on the disk, or the target of a link, under a name; refuse all but plain files."""
    try:
        status = path.stat()
    except OSError as error:  # a broken or circular link
        return refuse_file(name, f"{CANNOT_BE_READ}: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
        return refuse_file(name, "not a regular file")

    def _read() -> bytes:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)

    return refuse_size(name, status.st_size) or SourceFile(name, _read)
