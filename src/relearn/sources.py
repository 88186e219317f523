"""Files of a folder, a zip or a tar, one after the other, without ever unpacking one to a name of its own choosing."""

import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from relearn.errors import SourceError
from relearn.images import MAX_BYTES


class SourceFile(NamedTuple):
    """A file found in a source.

    `path` is relative, with `/`. `read` gives the bytes, at most one more than `MAX_BYTES`, and is to be called before
    the next file is asked for (a compressed tar cannot go back). Where the file must not or cannot be read, `refusal`
    is the reason.
    """

    path: str
    read: Callable[[], bytes]
    refusal: str | None = None


# What damaged, encrypted or unreadable files raise when they are read.
READING_ERRORS = (
    OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


def iterate_source(source: Path) -> Iterator[SourceFile]:
    """Yield every file below a folder or in an archive, in no order to rely on.

    Raises
    ------
    SourceError
        There is no such file or folder, it is no archive, or the archive as a whole is damaged.
    """
    if source.is_dir():
        yield from _iterate_folder(source)
    elif not source.exists():
        raise SourceError(f"{source}: no such file or folder; put the images there, or set restructure.source")
    elif _begins_as_zip(source):
        yield from _iterate_zip(source)
    else:
        yield from _iterate_tar(source)


def _begins_as_zip(source: Path) -> bool:
    """Tell a zip by its first bytes; `zipfile.is_zipfile` also takes a tar for one whose last member is a zip."""
    with source.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")


def read_source_file(source: Path, path: str) -> bytes:
    """Read one file of a source.

    Raises
    ------
    SourceError
        The source has no such file, or it cannot be read.
    """
    for file in iterate_source(source):
        if file.path == path:
            if file.refusal:
                raise SourceError(f"{source}: {path}: {file.refusal}")
            try:
                return file.read()
            except READING_ERRORS as error:
                raise SourceError(f"{source}: {path}: cannot be read: {error}") from None
    raise SourceError(f"{source}: wanted {path} in it, found no such file; set restructure.labels_csv")


def _refuse(path: str, reason: str) -> SourceFile:
    return SourceFile(path, lambda: b"", reason)


def holds_control_character(name: str) -> bool:
    """Tell whether a name holds a character that would break a line; spaces and joiners of all kinds do not."""
    return any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name)


def _refuse_name(path: str) -> SourceFile | None:
    """Refuse a name that could not be written down or that points outside."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _refuse(os.fsencode(path).decode(errors="backslashreplace"), "name is not UTF-8")
    if holds_control_character(path):
        return _refuse(path.encode("unicode_escape").decode(), "name holds a control character")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        return _refuse(path, "name points outside the archive")
    return None


def _iterate_folder(folder: Path) -> Iterator[SourceFile]:
    def relative(path: str) -> str:
        return Path(path).relative_to(folder).as_posix()

    unreadable: list[OSError] = []
    for root, folder_names, file_names in os.walk(folder, onerror=unreadable.append):
        for name in folder_names:
            path = os.path.join(root, name)
            if os.path.islink(path):
                yield _refuse_name(relative(path)) or _refuse(relative(path), "link to a folder, not followed")
        for name in file_names:
            path = os.path.join(root, name)
            yield _refuse_name(relative(path)) or open_source_file(Path(path), relative(path))
    for error in unreadable:
        yield _refuse(relative(str(error.filename)), f"folder cannot be listed: {error.strerror}")


def open_source_file(path: Path, name: str) -> SourceFile:
    """Return a file on the disk as a `SourceFile` called `name`, refused if there is nothing to read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:  # a link into the void or in a circle
        return _refuse(name, f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
        return _refuse(name, "not a regular file")

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)

    return SourceFile(name, read)


def _iterate_zip(source: Path) -> Iterator[SourceFile]:
    try:
        archive = zipfile.ZipFile(source)
    except READING_ERRORS as error:
        raise SourceError(f"{source}: damaged archive: {error}") from None
    with archive:
        seen: set[str] = set()
        for info in archive.infolist():
            if info.is_dir():
                continue

            def read(info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as file:
                    return file.read(MAX_BYTES + 1)

            path = PurePosixPath(info.filename).as_posix()
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            yield _check_member(path, seen, is_link) or SourceFile(path, read)


class _StrictTarInfo(tarfile.TarInfo):
    """A member's header that must be sound: tarfile takes a damaged or missing one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None


def _iterate_tar(source: Path) -> Iterator[SourceFile]:
    try:
        archive = tarfile.open(source, tarinfo=_StrictTarInfo)  # noqa: SIM115
    except tarfile.ReadError:
        raise SourceError(f"{source}: wanted a folder, a .zip or a .tar (.gz, .bz2, .xz), got none of them") from None
    except READING_ERRORS as error:
        raise SourceError(f"{source}: damaged archive: {error}") from None
    seen: set[str] = set()
    try:
        with archive:
            for member in archive:
                if member.isdir():
                    continue

                def read(member: tarfile.TarInfo = member) -> bytes:
                    file = archive.extractfile(member)
                    return file.read(MAX_BYTES + 1) if file else b""

                path = PurePosixPath(member.name).as_posix()  # `tar -C folder .` writes ./NAME
                yield _check_member(path, seen, not member.isfile()) or SourceFile(path, read)
    except READING_ERRORS as error:
        raise SourceError(f"{source}: damaged archive: {error}") from None


def _check_member(path: str, seen: set[str], is_special: bool) -> SourceFile | None:
    """Refuse a member of an archive that is no plain file, or has a name that another one had before it."""
    if refused := _refuse_name(path):
        return refused
    if path in seen:
        return _refuse(path, "second member of this name in the archive")
    seen.add(path)
    return _refuse(path, "a link or a device, not a file") if is_special else None
