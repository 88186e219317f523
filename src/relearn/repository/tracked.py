"""Integrity of what DVC tracks: files and objects of the cache are checked against the hashes that name them.

DVC trusts a read-only file of its cache without reading it again: a damaged one is checked out, and becomes the data.
See `LocalHashFileDB.check` in dvc_data.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from relearn.errors import IntegrityError
from relearn.repository.dvc_files import FOLDER, TEXT_HASH, Output

N_NAMED = 3


def list_members(output: Output, cache: Path) -> dict[str, str]:
    """Return the md5 of each file of an output by its path below it; `.` for an output that is a file.

    Parameters
    ----------
    cache
        DVC's, which has the lists of folders.

    Raises
    ------
    IntegrityError
        The list of a folder is missing, or another one than the output names; or DVC keeps none of it.
    """
    if not output.md5.endswith(FOLDER):
        return {".": output.md5}
    if not output.is_cached:
        raise IntegrityError(
            where=output.path,
            wanted="a folder whose files DVC lists",
            got=f"cache: false in {output.named_by}",
            advice=f"remove that, and run `dvc commit {output.named_by}`",
        )
    path = find_object(cache, output.md5, output.hash_name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{path}, the list of its files, is missing",
            where=output.path,
            advice=f"`dvc fetch {output.named_by}` restores it",
        ) from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != output.md5.removesuffix(FOLDER):
        raise IntegrityError(describe_damage(path, f"what {output.named_by} names"), where=output.path)
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def find_object(cache: Path, md5: str, hash_name: str = "md5") -> Path:
    """Return the path at which DVC's cache keeps the file or list with a hash."""
    folder = cache if hash_name == TEXT_HASH else cache / "files" / "md5"
    return folder / md5[:2] / md5[2:]


def check_outputs(folder: Path, outputs: Iterable[Output], cache: Path) -> None:
    """Read every file of some outputs in the working copy, and check its hash.

    A folder with `cache: false` is skipped: git has it, none of it comes from DVC's cache, and DVC keeps no list of its
    files.

    Parameters
    ----------
    folder
        The repository, or a worktree of it.

    Raises
    ------
    IntegrityError
        A file is missing or has another hash; the message names the damaged object of the cache.
    """
    wrong = []
    for output in outputs:
        if output.md5.endswith(FOLDER) and not output.is_cached:
            continue
        for name, md5 in list_members(output, cache).items():
            path = output.path / name
            found = hash_as_dvc(folder / path, output.hash_name)
            if found == md5:
                continue
            place = find_object(cache, md5, output.hash_name)
            if place.exists() and hash_as_dvc(place, output.hash_name) != md5:
                reason = describe_damage(place, f"what {output.named_by} names")
            elif not output.is_cached:
                reason = "it was changed after it was made; run this again"
            else:
                reason = f"it was changed after DVC checked it out from {place}; run this again"
            wrong.append(f"{path}: wanted md5 {md5} by {output.named_by}, got {found or 'no such file'}: {reason}")
    if wrong:
        more = f" (and {len(wrong) - N_NAMED:,} more)" if wrong[N_NAMED:] else ""
        raise IntegrityError("; ".join(wrong[:N_NAMED]) + more)


def hash_as_dvc(path: Path, hash_name: str = "md5") -> str | None:
    """Return the hash of a file as DVC computes it; None if there is no such file."""
    try:
        with path.open("rb") as file:
            return hash_content(file, hash_name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def hash_content(file: BinaryIO, hash_name: str = "md5") -> str:
    """Return the hash of what is left of an open file, as DVC computes it."""
    if hash_name == TEXT_HASH:
        from dvc_data.hashfile.hash import fobj_md5

        return str(fobj_md5(file, name=TEXT_HASH))
    # file_digest wants a real file, or a buffer in memory
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]


def describe_damage(path: Path, names: str) -> str:
    """Return that an object of DVC's cache is damaged and what to do; `names` is the data that it belongs to."""
    return (
        f"the object {path} of DVC's cache is damaged; remove it, then `dvc pull` brings it from the remote, if there "
        f"is one; or put a sound copy of the file in its place, and `dvc add` or `dvc repro` {names}"
    )
