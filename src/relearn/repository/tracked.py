"""What DVC tracks, held against the hashes that name it.

DVC takes a file of its cache for sound if it may not be written to, and looks at it no more: one that was damaged is
checked out, and becomes the data. See `LocalHashFileDB.check` in dvc_data.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from relearn.errors import IntegrityError
from relearn.params import YAML_KINDS, parse_yaml, show_value

# A `.dvc` file of a remote with versions lists every file of a folder.
MAX_DVC_BYTES = 100_000_000
# `meta` may hold whatever a safe reader of YAML makes without code of its own.
DVC_KINDS = YAML_KINDS | {"timestamp", "binary", "set", "omap", "pairs"}
TEXT_HASH = "md5-dos2unix"  # of DVC 2: a text file is hashed with the ends of its lines as on Unix
FOLDER = ".dir"
N_NAMED = 3


class Part(BaseModel):
    """What this package reads of a file of DVC; DVC itself checks the rest."""

    model_config = ConfigDict(frozen=True, strict=True)


Parts = TypeVar("Parts", bound=Part)
# DVC takes digits without quotes for the text that they are.
Md5 = Annotated[str, BeforeValidator(lambda md5: str(md5) if type(md5) is int else md5)]


class ListedFile(Part):
    """A file of a folder on a remote that keeps versions."""

    relpath: str
    md5: Md5 | None = None


class ListedOutput(Part):
    """An entry of `outs` in a `.dvc` file or in `dvc.lock`."""

    path: str
    md5: Md5 | None = None
    hash: str | None = None
    cache: bool = True
    files: list[ListedFile] | None = None


class DataFile(Part):
    """A `.dvc` file; one with `deps` is an import."""

    wdir: str | None = None
    deps: list[Any] | None = None
    outs: list[ListedOutput] | None = None


class LockedStage(Part):
    """A stage of `dvc.lock`."""

    outs: list[ListedOutput] | None = None


class LockFile(Part):
    """The whole of `dvc.lock`."""

    stages: dict[str, LockedStage] | None = None


class PipelineStage(Part):
    """A stage of `dvc.yaml`, in which an output is a path, or a path with options; `do` is that of a `foreach`."""

    outs: list[str | dict[str, Any]] | None = None
    metrics: list[str | dict[str, Any]] | None = None
    plots: list[str | dict[str, Any]] | None = None
    do: "PipelineStage | None" = None

    @property
    def uncached(self) -> list[str]:
        """The paths, as they are written, of the outputs with `cache: false`, which git has and DVC's cache has not."""
        outputs = [*(self.outs or []), *(self.metrics or []), *(self.plots or [])]
        options = [item for output in outputs if isinstance(output, dict) for item in output.items()]
        here = [path for path, option in options if isinstance(option, dict) and option.get("cache") is False]
        return here + (self.do.uncached if self.do else [])


class Pipeline(Part):
    """The whole of `dvc.yaml`."""

    stages: dict[str, PipelineStage] | None = None


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
    is_cached
        False with `cache: false`: git has it, and of a folder DVC keeps no list of its files.
    """

    path: Path
    named_by: Path
    md5: str
    hash_name: str
    is_cached: bool = True


def list_outputs(folder: Path, names: Iterable[str]) -> list[Output]:
    """Return what the `.dvc` files of a repository name."""
    outputs: list[Output] = []
    for name in names:
        content = read_dvc_file(folder, name, DataFile)
        inside = Path(name).parent / (content.wdir or ".")
        outputs += _list_outputs(content.outs, inside, Path(name))
    return outputs


def list_stage_outputs(folder: Path, stage: str) -> list[Output]:
    """Return what `dvc.lock` names as the outputs of a stage, or of all that one of a matrix stands for."""
    lock = Path("dvc.lock")
    stages = read_dvc_file(folder, lock.name, LockFile).stages or {}
    outs = [out for name, content in stages.items() if name.split("@")[0] == stage for out in content.outs or []]
    if not outs:
        return []
    # The lock does not say what is cached.
    definition = (read_dvc_file(folder, "dvc.yaml", Pipeline).stages or {}).get(stage, PipelineStage())
    return [
        output._replace(is_cached=not any(_stands_for(written, out.path) for written in definition.uncached))
        for out in outs
        for output in _list_outputs([out], Path(), lock)
    ]


def _stands_for(written: str, path: str) -> bool:
    """Return whether the path of an output in `dvc.yaml`, which may hold `${...}`, is one of `dvc.lock`."""
    parts = re.split(r"\$\{.*?\}", os.path.normpath(written))
    return re.fullmatch(".+".join(map(re.escape, parts)), os.path.normpath(path)) is not None


def read_dvc_file(folder: Path, name: str, model: type[Parts]) -> Parts:
    """Read a file of DVC that is in a folder; see `parse_dvc_file`."""
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{name}: no such file in {folder}; `git checkout HEAD {name}` brings it back") from None
    return parse_dvc_file(content, name, model)


def parse_dvc_file(content: bytes, name: str, model: type[Parts]) -> Parts:
    """Parse a `.dvc` file, `dvc.yaml` or `dvc.lock` that is called `name` in errors.

    Raises
    ------
    ParamsError
        It is not YAML within the limits of `relearn.params.parse_yaml`.
    IntegrityError
        A value is missing, or another one than DVC writes; the first is named.
    """
    value = parse_yaml(content, name, MAX_DVC_BYTES, DVC_KINDS)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
    got = "nothing" if detail["input"] is None else show_value(detail["input"])
    key = ".".join(show_value(part).strip("'") for part in detail["loc"])
    match detail["type"]:
        case "model_type":
            wanted = "a block" if key else "a file of DVC"
        case "missing":
            wanted, got = "a value", "none"
        case _:
            wanted = detail["msg"].removeprefix("Input should be ")
    raise IntegrityError(f"{name}: {key}{': ' if key else ''}wanted {wanted}, got {got}; commit a whole file")


def _list_outputs(outs: Iterable[ListedOutput] | None, inside: Path, named_by: Path) -> Iterator[Output]:
    for out in outs or []:
        # A remote that keeps versions has its files listed one by one.
        files = [ListedFile(relpath=".", md5=out.md5)] if out.files is None else out.files
        for file in files:
            if not file.md5:
                raise IntegrityError(f"{named_by}: {out.path}: wanted an md5, got none; run `dvc commit {named_by}`")
            hash_name = "md5" if out.hash else TEXT_HASH
            yield Output(inside / out.path / file.relpath, named_by, file.md5, hash_name, out.cache)


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
            f"{output.path}: wanted a folder whose files DVC lists, got cache: false in {output.named_by}; remove "
            f"that, and run `dvc commit {output.named_by}`"
        )
    path = find_object(cache, output.md5, output.hash_name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{output.path}: {path}, the list of its files, is missing; `dvc fetch {output.named_by}` brings it"
        ) from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != output.md5.removesuffix(FOLDER):
        raise IntegrityError(f"{output.path}: {describe_damage(path, f'what {output.named_by} names')}")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def find_object(cache: Path, md5: str, hash_name: str = "md5") -> Path:
    """Return where DVC's cache has the file or list with a hash."""
    folder = cache if hash_name == TEXT_HASH else cache / "files" / "md5"
    return folder / md5[:2] / md5[2:]


def check_outputs(folder: Path, outputs: Iterable[Output], cache: Path) -> None:
    """Read every file of some outputs as they are checked out, and hold it against its hash.

    A folder with `cache: false` is left out: nothing of it comes from DVC's cache, which may be damaged, and DVC keeps
    no list of its files. Git has it.

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
    """Say that an object of DVC's cache is damaged and what to do, where `names` is the data that it belongs to."""
    return (
        f"the object {path} of DVC's cache is damaged; remove it, then `dvc pull` brings it from the remote, if there "
        f"is one; or put a sound copy of the file in its place, and `dvc add` or `dvc repro` {names}"
    )
