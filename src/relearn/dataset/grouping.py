"""Which images belong together, by their paths in the source or by the table of labels."""

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from relearn.dataset.assignments import hash_group
from relearn.errors import ParamsError, SourceError
from relearn.params.data import RestructureParams

log = logging.getLogger(__name__)

MAX_SECONDS = 60.0  # for all paths: a pattern with nested repetitions can take for ever on one


def group_paths(paths: Sequence[str], params: RestructureParams, cells: Mapping[str, str]) -> list[str]:
    """Return the group of each path in the source, as `hash_group` does; empty for an image without one.

    Near duplicates are no matter of paths: `near_groups` finds them.

    Parameters
    ----------
    cells
        The cell of `restructure.group_column` for each path below the subfolder.

    Raises
    ------
    SourceError
        No path has a group.
    ParamsError
        `restructure.group_pattern` takes too long.
    """
    if params.group_by in ("none", "near_duplicates") or not paths:
        return [""] * len(paths)
    root = PurePosixPath(params.subfolder or "")
    inner = [PurePosixPath(path).relative_to(root).as_posix() for path in paths]
    with _limit_seconds(MAX_SECONDS):
        groups = [hash_group(name) for name in map(_choose_rule(params, cells), inner)]
    alone = [path for path, group in zip(paths, groups, strict=True) if not group]
    if len(alone) == len(paths):
        raise SourceError(
            where=f"restructure.group_by: {params.group_by}",
            wanted="images with a group",
            got=f"none, for example {alone[0]}",
            advice="see restructure.group_depth, group_column and group_pattern",
        )
    if alone:
        log.warning("%s of %s images have no group, for example %s", f"{len(alone):,}", f"{len(paths):,}", alone[0])
    return groups


def _choose_rule(params: RestructureParams, cells: Mapping[str, str]) -> Callable[[str], str]:
    """Return what finds the name of the group of a path."""
    match params.group_by:
        case "folder":
            place = (params.group_depth or 1) - 1
            return lambda path: next(iter(path.split("/")[place:-1]), "")
        case "column":
            return lambda path: cells.get(path, "")
        case _:
            pattern = re.compile(params.group_pattern or "")
            return lambda path: (found["group"] or "") if (found := pattern.search(path)) else ""


@contextmanager
def _limit_seconds(seconds: float) -> Iterator[None]:
    """Raise `ParamsError` in the main thread after some seconds, also within a search by `re`, which looks for signals.

    Other threads get no signals, and no stage or command finds groups there.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("groups are found in the main thread alone")

    def _interrupt(_number: int, _frame: object) -> None:
        raise ParamsError(
            where="restructure.group_pattern",
            wanted=f"a pattern that takes at most {seconds:g} s for all paths",
            got="a slower one",
            advice="avoid repetitions within repetitions, such as (a+)+",
        )

    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
