"""What `dvc status` finds: where a workspace differs from what `dvc.lock` and the `.dvc` files say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relearn.errors import RepositoryError

CODE = "src/"


def list_changes(root: Path) -> list[str]:
    """Return the parameters and the data of a workspace that are not those of its last results.

    Code does not count, and neither does what is missing, as in a fresh clone. A block of parameters is left out if
    some of its keys are named.

    Raises
    ------
    RepositoryError
        DVC cannot say, such as while it runs.
    """
    found = {name: None for entries in _read_status(root).values() for name in _iterate_modified(entries)}
    blocks = {name.rpartition(".")[0] for name in found}
    return [name for name in found if not name.startswith(CODE) and name not in blocks]


def list_changed_data(root: Path) -> list[str]:
    """Return what `.dvc` files track, and is not as they say; see `list_changes`."""
    return [
        name
        for stage, entries in _read_status(root).items()
        if stage.endswith(".dvc")
        for name in _iterate_modified(entries)
    ]


def _read_status(root: Path) -> dict[str, list[Any]]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            status: dict[str, list[Any]] = repo.status()
    except DvcException as error:
        raise RepositoryError(" ".join(str(error).split()), where="dvc status") from None
    return status


def _iterate_modified(entries: list[Any]) -> Iterator[str]:
    """Yield parameters by their keys and files by their paths; an entry may be a text, such as `changed command`."""
    for entry in entries:
        for changes in entry.values() if isinstance(entry, dict) else ():
            for name, state in changes.items():
                if isinstance(state, dict):  # of params.yaml
                    yield from state
                elif state in ("modified", "new"):
                    yield name
