"""The source of a worktree: what it must be for images to land in it, and which of them DVC tracks then."""

from collections.abc import Sequence
from pathlib import Path

from relearn import paths
from relearn.errors import RepositoryError
from relearn.params.pipeline import read_params
from relearn.repository.dvc_files import DataFile, list_outputs, read_dvc_file
from relearn.repository.tracked import list_members
from relearn.retraining.arrivals import Arrival

IGNORED = "DVC would not keep it: .dvcignore names it"


def check_source(worktree: Path, base: str) -> None:
    """Raise `RepositoryError` if neither git nor DVC brought the source into the worktree."""
    source = read_params(worktree / paths.PARAMS).restructure.source
    if not (worktree / source).exists():
        raise RepositoryError(
            where=f"restructure.source: {source}",
            wanted="what git or DVC tracks",
            got="neither",
            advice=f"`dvc add {source}`, and commit {source}.dvc to {base}",
        )


def find_growing_source(worktree: Path, base: str) -> Path:
    """Return the path of the source in the worktree, a folder that `dvc add` tracks, so that images can land in it.

    Raises
    ------
    RepositoryError
        It is something else, an import, or described by a table.
    """
    params = read_params(worktree / paths.PARAMS).restructure
    source = Path(params.source)
    if params.layout == "csv":
        raise RepositoryError(
            where="restructure.layout", wanted="a layout without a table, so that images can land", got="csv"
        )
    if not (worktree / f"{source}.dvc").is_file() or not (worktree / source).is_dir():
        raise RepositoryError(
            where=f"restructure.source: {source}",
            wanted="a folder tracked by DVC, which grows by what lands",
            got="something else",
            advice=f"`dvc add {source}`, and commit {source}.dvc to {base}",
        )
    if read_dvc_file(worktree, f"{source}.dvc", DataFile).deps:
        raise RepositoryError(
            where=f"{source}.dvc",
            wanted="a folder that `dvc add` tracks",
            got="an import, whose next update would remove what lands",
            advice="set retrain.landing to null, and let images arrive at its origin",
        )
    return source


def drop_ignored(
    worktree: Path, source: Path, arrivals: Sequence[Arrival], cache: Path
) -> tuple[list[Arrival], list[Arrival]]:
    """Remove those arrivals from the source that DVC ignores; return those that it tracks, and those removed."""
    (output,) = list_outputs(worktree, [f"{source}.dvc"])
    tracked = list_members(output, cache).keys()
    ignored = [arrival for arrival in arrivals if arrival.target not in tracked]
    for arrival in ignored:
        (worktree / source / arrival.target).unlink()
    return [arrival for arrival in arrivals if arrival.target in tracked], ignored
