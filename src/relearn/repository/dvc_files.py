"""The files of DVC, read and written: `.dvc` files, `dvc.yaml`, `dvc.lock`, `.dvc/config`."""

import fnmatch
import glob
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from relearn.errors import IntegrityError, ParamsError
from relearn.params.yaml_file import YAML_KINDS, parse_yaml, show_value
from relearn.repository.git import list_files, read_blob, run_git
from relearn.storage.files import hash_bytes

# A `.dvc` file of a remote with versions lists every file of a folder.
MAX_DVC_BYTES = 100_000_000
# `meta` may hold whatever a safe reader of YAML makes without code of its own.
DVC_KINDS = YAML_KINDS | {"timestamp", "binary", "set", "omap", "pairs"}
TEXT_HASH = "md5-dos2unix"  # of DVC 2: a text file is hashed with the ends of its lines as on Unix
FOLDER = ".dir"


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


class LockedInput(Part):
    """An entry of `deps` in `dvc.lock`."""

    path: str
    md5: Md5 | None = None


class LockedStage(Part):
    """A stage of `dvc.lock`; `params` has the values by their keys, by the file that they are in."""

    params: dict[str, dict[str, Any]] | None = None
    deps: list[LockedInput] | None = None
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
    first, *others = os.path.normpath(written).split("${")
    parts = [first, *(other.partition("}")[2] for other in others)]
    return fnmatch.fnmatchcase(os.path.normpath(path), "?*".join(map(glob.escape, parts)))


def list_stages(folder: Path) -> list[str]:
    """Return the names of the stages in the order of `dvc.yaml`."""
    return list(read_dvc_file(folder, "dvc.yaml", Pipeline).stages or {})


def list_data_files(root: Path, commit: str) -> list[str]:
    """Return the `.dvc` files of a commit, without those of DVC repositories below."""
    files = list_files(root, commit)
    below = tuple(name.removesuffix(".dvc/config") for name in files if name.endswith("/.dvc/config"))
    return [name for name in files if name.endswith(".dvc") and not name.startswith(below)]


def list_imports(root: Path, commit: str) -> list[str]:
    """Return those `.dvc` files of a commit that `dvc import` or `dvc import-url` wrote."""
    return [
        name for name in list_data_files(root, commit) if read_committed_dvc_file(root, commit, name, DataFile).deps
    ]


def list_uncached(root: Path, commit: str) -> list[str]:
    """Return the outputs of a commit's pipeline that git has and DVC's cache has not."""
    stages = read_committed_dvc_file(root, commit, "dvc.yaml", Pipeline).stages or {}
    return [path for stage in stages.values() for path in stage.uncached]


def hash_sources(folder: Path, commit: str | None = None) -> str:
    """Return a hash of the `.dvc` files of a commit, or of the files of a worktree as they are."""
    names = list_data_files(folder, commit or run_git(folder, "write-tree").strip())
    contents = [read_blob(folder, commit, name) if commit else (folder / name).read_bytes() for name in names]
    # A checkout may write other line endings than the commit has.
    texts = [content.replace(b"\r\n", b"\n").decode(errors="surrogateescape") for content in contents]
    return hash_bytes(json.dumps(list(zip(names, texts, strict=True))).encode())


def read_dvc_file(folder: Path, name: str, model: type[Parts]) -> Parts:
    """Read a file of DVC that is in a folder; see `parse_dvc_file`."""
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"no such file in {folder}", where=name, advice=f"`git checkout HEAD {name}` restores it"
        ) from None
    return parse_dvc_file(content, name, model)


def read_committed_dvc_file(root: Path, commit: str, name: str, model: type[Parts]) -> Parts:
    """Read a file of DVC as a commit has it; see `parse_dvc_file`."""
    return parse_dvc_file(read_blob(root, commit, name), f"{commit[:12]}:{name}", model)


def parse_dvc_file(content: bytes, name: str, model: type[Parts]) -> Parts:
    """Parse a `.dvc` file, `dvc.yaml` or `dvc.lock` that is called `name` in errors.

    Raises
    ------
    ParamsError
        It is not YAML within the limits of `relearn.params.yaml_file.parse_yaml`.
    IntegrityError
        A value is missing, or is not what DVC writes; the message names the first.
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
    where = f"{name}: {key}" if key else name
    raise IntegrityError(where=where, wanted=wanted, got=got, advice="commit a whole file")


def _list_outputs(outs: Iterable[ListedOutput] | None, inside: Path, named_by: Path) -> Iterator[Output]:
    for out in outs or []:
        # A remote that keeps versions has its files listed one by one.
        files = [ListedFile(relpath=".", md5=out.md5)] if out.files is None else out.files
        for file in files:
            if not file.md5:
                raise IntegrityError(
                    where=f"{named_by}: {out.path}",
                    wanted="an md5",
                    got="none",
                    advice=f"run `dvc commit {named_by}`",
                )
            hash_name = "md5" if out.hash else TEXT_HASH
            yield Output(inside / out.path / file.relpath, named_by, file.md5, hash_name, out.cache)


class DvcSettings(NamedTuple):
    """What a retraining needs of DVC's configuration: the folder of the cache, and whether it has a default remote."""

    cache: Path
    has_remote: bool


def read_dvc_settings(root: Path) -> DvcSettings:
    """Return the settings of a repository, from whichever file of DVC's configuration they come.

    Raises
    ------
    ParamsError
        A file of the configuration cannot be read.
    """
    merged = read_dvc_config(root)
    cache = merged["cache"].get("dir", root / ".dvc" / "cache")
    return DvcSettings(Path(cache), bool(merged["core"].get("remote")))


def read_dvc_config(root: Path) -> dict[str, Any]:
    """Return the whole configuration of a repository, all files of it merged, with absolute paths.

    Raises
    ------
    ParamsError
        A file of it cannot be read.
    """
    config: dict[str, Any] = _read_config(root).read()
    return config


def copy_dvc_settings(root: Path, worktree: Path) -> DvcSettings:
    """Give a worktree the local settings of its repository, its cache, and its remotes at relative paths.

    A relative path of the configuration is relative to the file that holds it; DVC reads and writes it so.
    """
    settings = read_dvc_settings(root)
    config = _read_config(root)
    with _read_config(worktree).edit("local", validate=False) as local:
        local.update(config.read("local"))
        # A path relative to this process becomes one relative to the file, which may not hold all characters.
        local["cache"].setdefault("dir", os.path.relpath(settings.cache))
        for name, remote in config.read("repo")["remote"].items():
            if Path(remote.get("url", "")).is_absolute():
                local["remote"].setdefault(name, {}).setdefault("url", remote["url"])
    return settings


def _read_config(root: Path) -> Any:
    from dvc.config import Config, ConfigError

    try:
        return Config(str(root / ".dvc"), validate=False)
    except ConfigError as error:
        raise ParamsError(
            where=f"{root}: configuration of DVC", wanted="what `dvc config` writes", got=" ".join(str(error).split())
        ) from None
