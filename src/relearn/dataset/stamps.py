"""Stamps of files, which change when a file does, and the changes of a source while it is read."""

import os
from pathlib import Path

from relearn.dataset.source_files import CANNOT_BE_READ, SourceFile, count_files, explain_hidden, list_some
from relearn.dataset.sources import iterate_source

AWAY = "away"  # the stamp of a file that was missing for a moment: whatever it is later, it has changed


def read_stamp(path: Path) -> str:
    """Return the stamp of a file now; see `format_stamp`."""
    return format_stamp(path.stat())


def format_stamp(status: os.stat_result) -> str:
    """Return what changes when a file does: its inode, its size, and its two times."""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def read_stamps(source: Path) -> dict[str, str | None]:
    """Return the stamps of all files of a folder by their paths, or the stamp of an archive by its name.

    The stamp is None if a file cannot be read or is a broken link, `AWAY` if it was listed and is missing now.
    """
    if source.exists() and not source.is_dir():
        return {source.name: _find_stamp(source)}
    return {file.path: find_stamp(source, file) for file in iterate_source(source)}


def find_stamp(source: Path, file: SourceFile) -> str | None:
    """Return the stamp of a file of a folder; None if it is refused, whatever it holds."""
    if file.refusal is not None and not file.refusal.startswith(CANNOT_BE_READ):
        return None  # its path may be spelled in another way than on the disk
    return _find_stamp(source / file.path)


def _find_stamp(path: Path) -> str | None:
    try:
        return read_stamp(path)
    except (FileNotFoundError, NotADirectoryError):
        return None if os.path.islink(path) else AWAY
    except (OSError, ValueError):
        return None


def describe_changes(before: dict[str, str | None], now: dict[str, str | None]) -> str:
    """Return how many files are gone, new and changed, with examples; an empty text if there are none.

    Hidden files do not count: they are no images, and a file manager may write them at any time. Inodes do not count
    either: some network file systems change them.
    """
    kinds = {
        "gone": [path for path in before if path not in now],
        "new": [path for path in now if path not in before],
        "changed": [path for path in before if path in now and _has_changed(before[path], now[path])],
    }
    changes = []
    for kind, found in kinds.items():
        if paths := sorted(path for path in found if explain_hidden(path) is None):
            changes.append(f"{count_files(len(paths))} {kind} ({list_some(paths)})")
    return ", ".join(changes)


def _has_changed(before: str | None, now: str | None) -> bool:
    without_inode = [stamp and stamp.partition(" ")[2] for stamp in (before, now)]
    return AWAY in (before, now) or without_inode[0] != without_inode[1]
