"""The production model, `release/current`, and the versions before it.

    release/versions/v1/        models/classifier/ as it was recorded, and images.csv: the images of its data; with
                                `retrain.export` also the exported model, which no record names
    release/versions/v2/        never changed once it exists
    release/current -> versions/v2

A rename replaces the link, so anyone who opens `release/current` finds one whole version, before and after.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from relearn.errors import IntegrityError
from relearn.inference.exported import FILES as EXPORT
from relearn.storage.files import write_folder

CURRENT = "current"
IMAGES = "images.csv"
IMAGES_HEADER = ("sha256", "split")
VERSIONS = "versions"
VERSION = re.compile(r"v[1-9][0-9]{0,8}")


def list_versions(release: Path) -> list[str]:
    """Return the names of the kept versions, the oldest first."""
    names = [path.name for path in (release / VERSIONS).glob("v*") if VERSION.fullmatch(path.name)]
    return sorted(names, key=lambda name: int(name[1:]))


def find_current(release: Path) -> str | None:
    """Return the version of the production model; None if there is none.

    Raises
    ------
    IntegrityError
        `current` is no link to a kept version.
    """
    link = release / CURRENT
    if not link.is_symlink() and not link.exists():
        return None
    name = os.readlink(link).removeprefix(f"{VERSIONS}/") if link.is_symlink() else ""
    if name not in list_versions(release):
        raise IntegrityError(
            where=link,
            wanted=f"a link to one of {release / VERSIONS}",
            got=name or "something else",
            advice="`relearn rollback` sets it",
        )
    return name


def keep_version(release: Path, contents: Mapping[str, bytes], name: str) -> None:
    """Write the files of a classifier as a version, flushed to the disk; the same one may exist already.

    Of what exists only the files that the record names are compared: an exported model is not made again.

    Raises
    ------
    IntegrityError
        Another classifier has the name.
    """
    target = release / VERSIONS / name
    if target.exists():
        recorded = {file: content for file, content in contents.items() if file not in EXPORT}
        if {path.name: path.read_bytes() for path in target.iterdir() if path.name not in EXPORT} != recorded:
            raise IntegrityError(
                where=target, wanted=f"the classifier that is recorded as {name}", got="another", advice="remove it"
            )
        return
    with write_folder(target) as folder:
        for file, content in contents.items():
            with (folder / file).open("wb") as writing:
                writing.write(content)
                writing.flush()
                os.fsync(writing.fileno())
        _flush_folder(folder)
    _flush_folder(target.parent)


def switch_current(release: Path, name: str) -> None:
    """Let `current` be another kept version, atomically and flushed to the disk.

    Raises
    ------
    IntegrityError
        There is no such version.
    """
    if name not in (kept := list_versions(release)):
        raise IntegrityError(where=release / VERSIONS, wanted=name, got=", ".join(kept) or "none")
    partial = release / f".{CURRENT}.{os.getpid()}.partial"
    partial.unlink(missing_ok=True)
    partial.symlink_to(f"{VERSIONS}/{name}")
    partial.replace(release / CURRENT)
    _flush_folder(release)


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
