"""The files of a source, which is a folder, a zip or a tar, one after the other."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from relearn.dataset.archives import begins_as_zip, iterate_tar, iterate_zip
from relearn.dataset.manifest import describe_alike, fold_names
from relearn.dataset.source_files import (
    READING_ERRORS,
    SourceFile,
    Walk,
    explain_hidden,
    open_source_file,
    refuse_file,
    refuse_name,
    spell_name,
)
from relearn.errors import SourceError

# Where DVC keeps a file of a data set: with `cache.type: symlink` all of them are links to such paths.
_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


def iterate_source(source: Path, walk: Walk | None = None, *, is_strict: bool = True) -> Iterator[SourceFile]:
    """Yield every file below a folder or in an archive, in no order to rely on.

    Parameters
    ----------
    walk : Walk, optional
        Gets the folders and remarks that are met on the way.
    is_strict : bool
        Whether a folder that cannot be listed is an error; else it comes as a refused file. It is no error where all
        that could be in it is hidden.

    Raises
    ------
    SourceError
        There is no such file or folder, a folder cannot be listed, it is no archive, or the archive as a whole is
        damaged.
    """
    walk = Walk(set(), []) if walk is None else walk
    if source.is_dir():
        yield from _iterate_folder(source, walk, is_strict)
    elif not source.exists():
        raise SourceError(f"{source}: no such file or folder; put the images there, or set restructure.source")
    elif begins_as_zip(source):
        yield from iterate_zip(source, walk)
    else:
        yield from iterate_tar(source, walk)


def read_source_file(source: Path, path: str) -> bytes:
    """Read one file of a source.

    Raises
    ------
    SourceError
        The source has no such file, or it cannot be read.
    """
    others = []
    for file in iterate_source(source):
        others.append(file.path)
        if file.path == path:
            if file.refusal:
                raise SourceError(f"{source}: {path}: {file.refusal}")
            try:
                return file.read()
            except READING_ERRORS as error:
                raise SourceError(f"{source}: {path}: cannot be read: {error}") from None
    alike = describe_alike(path, fold_names(others))
    raise SourceError(f"{source}: wanted {path} in it, found no such file{alike}; set restructure.labels_csv")


def _iterate_folder(folder: Path, walk: Walk, is_strict: bool) -> Iterator[SourceFile]:
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise SourceError(f"{folder}: wanted names of files in UTF-8, got {encoding} from the locale; set PYTHONUTF8=1")
    inside = folder.resolve()
    # Not `os.walk`: up to Python 3.11 it calls itself, and ends in a tree of a thousand levels.
    waiting = [(str(folder), "")]
    while waiting:
        root, prefix = waiting.pop()
        try:
            with os.scandir(root) as listing:
                entries = [(entry, _is_folder(entry)) for entry in listing]
        except OSError as error:
            yield _refuse_folder(folder, prefix, error, is_strict)
            continue
        for entry, is_folder in entries:
            name = prefix + entry.name
            if not is_folder:
                yield refuse_name(name) or _refuse_link(entry, name, inside) or open_source_file(Path(entry), name)
            elif entry.is_symlink():
                walk.folders.add(spell_name(name))
                yield refuse_name(name) or refuse_file(name, "link to a folder, not followed")
            else:
                walk.folders.add(spell_name(name))
                waiting.append((entry.path, f"{name}/"))


def _refuse_folder(folder: Path, prefix: str, error: OSError, is_strict: bool) -> SourceFile:
    """Refuse a hidden folder that cannot be listed; raise `SourceError` for any other: what it holds is unknown."""
    path = spell_name(prefix.rstrip("/"))
    hidden = explain_hidden(path)
    if is_strict and hidden is None:
        raise SourceError(
            f"{folder / path}: folder cannot be listed: {error.strerror}; allow it to be read, or move it out of the "
            "source, and run again"
        )
    return refuse_file(path or ".", hidden or f"folder cannot be listed: {error.strerror}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():  # in a circle
            return False
        raise  # it may be a folder, so the one that it is in is not fully listed


def _refuse_link(entry: os.DirEntry[str], name: str, inside: Path) -> SourceFile | None:
    """Refuse a link out of the source: a set from elsewhere must not bring files of this machine into the data."""
    if not entry.is_symlink():
        return None
    target = Path(os.path.realpath(entry.path))
    if target.is_relative_to(inside) or _DVC_CACHE.search(target.as_posix()):
        return None
    return refuse_file(name, "link that leaves the source; put the file itself in its place")
