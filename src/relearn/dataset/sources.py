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

# The path of a file in DVC's cache: with `cache.type: symlink` all files of a dataset are links to such paths.
_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


def iterate_source(source: Path, walk: Walk | None = None, *, is_strict: bool = True) -> Iterator[SourceFile]:
    """Yield every file below a folder or in an archive, in no order to rely on.

    Parameters
    ----------
    walk : Walk, optional
        Collects the folders and remarks on the way.
    is_strict : bool
        Whether a folder that cannot be listed is an error; else it is yielded as a refused file. A hidden folder is
        never an error.

    Raises
    ------
    SourceError
        The source does not exist or is no archive, a folder cannot be listed, or the archive as a whole is damaged.
    """
    walk = Walk(set(), []) if walk is None else walk
    if source.is_dir():
        yield from _iterate_folder(source, walk, is_strict)
    elif not source.exists():
        advice = "put the images there, or set restructure.source"
        raise SourceError("no such file or folder", where=source, advice=advice)
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
                raise SourceError(file.refusal, where=f"{source}: {path}")
            try:
                return file.read()
            except READING_ERRORS as error:
                raise SourceError(f"cannot be read: {error}", where=f"{source}: {path}") from None
    alike = describe_alike(path, fold_names(others))
    got = f"no such file{alike}"
    raise SourceError(where=source, wanted=f"{path} in it", got=got, advice="set restructure.labels_csv")


def _iterate_folder(folder: Path, walk: Walk, is_strict: bool) -> Iterator[SourceFile]:
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        got = f"{encoding} from the locale"
        raise SourceError(where=folder, wanted="names of files in UTF-8", got=got, advice="set PYTHONUTF8=1")
    inside = folder.resolve()
    # Not `os.walk`: up to Python 3.11 it is recursive, and fails in a tree of a thousand levels.
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
    """Refuse a hidden folder that cannot be listed; raise `SourceError` for any other, whose content is unknown."""
    path = spell_name(prefix.rstrip("/"))
    hidden, reason = explain_hidden(path), f"folder cannot be listed: {error.strerror}"
    if is_strict and hidden is None:
        advice = "allow it to be read, or move it out of the source, and run again"
        raise SourceError(reason, where=folder / path, advice=advice)
    return refuse_file(path or ".", hidden or reason)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():  # a circular one
            return False
        raise  # it may be a folder, so the listing is not complete


def _refuse_link(entry: os.DirEntry[str], name: str, inside: Path) -> SourceFile | None:
    """Refuse a link out of the source: foreign data must not bring files of this machine into the dataset."""
    if not entry.is_symlink():
        return None
    target = Path(os.path.realpath(entry.path))
    if target.is_relative_to(inside) or _DVC_CACHE.search(target.as_posix()):
        return None
    return refuse_file(name, "link that leaves the source; put the file itself in its place")
