"""What lies in a landing folder, and what becomes of it: plain values."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from relearn.dataset.manifest import Exclusion
from relearn.runtime.text import escape_controls

N_NAMED = 3


class Waiting(NamedTuple):
    """A file in the landing folder: its path below it, a stamp that changes with it, and its size if known."""

    path: str
    stamp: str
    n_bytes: int = 0


class Left(NamedTuple):
    """A file that is not taken, by its path in one line of text, and why."""

    path: str
    reason: str


class Found(NamedTuple):
    """Files of a landing folder: those that can be taken now, those that wait and why, those that are left and why."""

    ready: list[Waiting]
    waiting: list[Left]
    left: list[Left]


class Arrival(NamedTuple):
    """A copied file: as it was in the landing folder, its path in the source, and its hash."""

    waiting: Waiting
    target: str
    sha256: str


def list_unused(arrivals: Iterable[Arrival], excluded: Iterable[Exclusion]) -> list[Left]:
    """Return what was taken and is still not in the dataset, with the reason that `restructure` gave."""
    reasons = {exclusion.path: exclusion.reason for exclusion in excluded}
    return [Left(arrival.target, reasons[arrival.target]) for arrival in arrivals if arrival.target in reasons]


def describe_left(left: Sequence[Left], what: str) -> str:
    """Return how many files these are, and the first of them with the reason, in one line safe for a terminal."""
    first = ", ".join(f"{path} ({reason})" for path, reason in left[:N_NAMED])
    more = f", and {len(left) - N_NAMED:,} more" if left[N_NAMED:] else ""
    return escape_controls(f"{len(left):,} file{'' if len(left) == 1 else 's'} {what}: {first}{more}")
