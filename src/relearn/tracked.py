"""What DVC tracks, held against the hashes that name it.

DVC takes a file of its cache for sound if it may not be written to, and looks at it no more: one that was damaged is
checked out, and becomes the data. See `LocalHashFileDB.check` in dvc_data.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from relearn.errors import IntegrityError

TEXT_HASH = "md5-dos2unix"  # of DVC 2: a text file is hashed with the ends of its lines as on Unix
FOLDER = ".dir"
N_NAMED = 3


class Output(NamedTuple):
    """A file or folder that a `.dvc` file or `dvc.lock` names.

    Attributes
    ----------
    path
        Relative to the repository.
    named_by
        The file that names it, relative to the repository.
    md5
        Of the file; of a folder that of its list of files, and `.dir`.
    hash_name
        `md5`, or `md5-dos2unix` as DVC 2 had it.
    """

    path: Path
    named_by: Path
    md5: str
    hash_name: str


def list_outputs(folder: Path, names: Iterable[str]) -> list[Output]:
    """Return what the `.dvc` files of a repository name."""
    outputs: list[Output] = []
    for name in names:
        content = _read_yaml(folder / name)
        inside = Path(name).parent / content.get("wdir", ".")
        outputs += _parse_outputs(content, inside, Path(name))
    return outputs


def list_stage_outputs(folder: Path, stage: str) -> list[Output]:
    """Return what `dvc.lock` names as the outputs of a stage, or of all that one of a matrix stands for."""
    lock = Path("dvc.lock")
    stages = _read_yaml(folder / lock).get("stages", {})
    return [
        output
        for name, content in stages.items()
        if name.split("@")[0] == stage
        for output in _parse_outputs(content, Path(), lock)
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_bytes()) or {}
    return content


def _parse_outputs(content: dict[str, Any], inside: Path, named_by: Path) -> Iterator[Output]:
    for out in content.get("outs", []):
        # A remote that keeps versions has its files listed one by one.
        for file in out.get("files", [{**out, "relpath": "."}]):
            if "md5" not in file:
                raise IntegrityError(f"{named_by}: {out['path']}: wanted an md5, got none; run `dvc commit {named_by}`")
            hash_name = "md5" if "hash" in out else TEXT_HASH
            yield Output(inside / out["path"] / file["relpath"], named_by, file["md5"], hash_name)


def list_members(output: Output, cache: Path) -> dict[str, str]:
    """Return the md5 of each file of an output by its path below it; `.` for an output that is a file.

    Parameters
    ----------
    cache
        DVC's, which has the lists of folders.

    Raises
    ------
    IntegrityError
        The list of a folder is missing, or another one than the output names.
    """
    if not output.md5.endswith(FOLDER):
        return {".": output.md5}
    path = find_object(cache, output.md5, output.hash_name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{output.path}: {path}, the list of its files, is missing; `dvc fetch {output.named_by}` brings it"
        ) from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != output.md5.removesuffix(FOLDER):
        raise IntegrityError(f"{output.path}: {_describe_damage(path, output.named_by)}")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def find_object(cache: Path, md5: str, hash_name: str = "md5") -> Path:
    """Return where DVC's cache has the file or list with a hash."""
    folder = cache if hash_name == TEXT_HASH else cache / "files" / "md5"
    return folder / md5[:2] / md5[2:]


def check_outputs(folder: Path, outputs: Iterable[Output], cache: Path) -> None:
    """Read every file of some outputs as they are checked out, and hold it against its hash.

    Parameters
    ----------
    folder
        The repository, or a worktree of it.

    Raises
    ------
    IntegrityError
        A file is missing or another one; the damaged object of the cache is named.
    """
    wrong = []
    for output in outputs:
        for name, md5 in list_members(output, cache).items():
            path = output.path / name
            found = hash_as_dvc(folder / path, output.hash_name)
            if found == md5:
                continue
            place = find_object(cache, md5, output.hash_name)
            if place.exists() and hash_as_dvc(place, output.hash_name) != md5:
                reason = _describe_damage(place, output.named_by)
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
            if hash_name == TEXT_HASH:
                from dvc_data.hashfile.hash import fobj_md5

                return str(fobj_md5(file, name=TEXT_HASH))
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _describe_damage(path: Path, named_by: Path) -> str:
    return (
        f"the object {path} of DVC's cache is damaged; remove it, then `dvc pull` brings it from the remote, if there "
        f"is one; or put a sound copy of the file in its place, and `dvc add` or `dvc repro` what {named_by} names"
    )
