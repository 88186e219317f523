"""What lies in a landing folder, and what becomes of it: plain values."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from relearn.runtime.text import count_nouns, escape_controls

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
    """Files of a landing folder: those that can be taken now, those that wait and why, those that are left and why.

    settled_at : when the files that were written to last can be taken, in seconds since 1970; None if all can now
    is_missing : there is no such folder yet
    """

    ready: list[Waiting]
    waiting: list[Left]
    left: list[Left]
    settled_at: float | None = None
    is_missing: bool = False


class Arrival(NamedTuple):
    """A copied file: as it was in the landing folder, its path in the source, and its hash."""

    waiting: Waiting
    target: str
    sha256: str


class Unused(NamedTuple):
    """A file that was copied and is not in the dataset, with the reason that `restructure` gave."""

    arrival: Arrival
    reason: str


def list_unused(arrivals: Sequence[Arrival], excluded: Mapping[str, str]) -> list[Unused]:
    """Return what was copied and is not in the dataset; `excluded` has the reasons by path in the source."""
    return [Unused(arrival, excluded[arrival.target]) for arrival in arrivals if arrival.target in excluded]


def describe_left(left: Sequence[Left], what: str) -> str:
    """Return how many files these are, and the first of them with the reason, in one line safe for a terminal."""
    first = ", ".join(f"{path} ({reason})" for path, reason in left[:N_NAMED])
    more = f", and {len(left) - N_NAMED:,} more" if left[N_NAMED:] else ""
    return escape_controls(f"{count_nouns(len(left), 'file')} {what}: {first}{more}")


def describe_settling(found: Found, address: str, settle_seconds: float) -> str:
    """Return how many files wait until the last of them has settled, and until when, in one line."""
    assert found.settled_at is not None
    n_files = len(found.waiting)
    return escape_controls(
        f"{count_nouns(n_files, 'file')} {'waits' if n_files == 1 else 'wait'} in {address} until "
        f"{format_time(found.settled_at)}, {settle_seconds:g} s after the last change (retrain.settle_seconds); "
        "`make retrain NOW=1` goes on at once"
    )


def format_time(seconds: float) -> str:
    """Return a time, given in seconds since 1970, in words."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S UTC}"
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return f"{seconds:.3g} s after 1970"
