"""How far a long run is: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


def track_progress(items: Iterable[Item], n_items: int, name: str) -> Iterator[Item]:
    """Yield `items` and show how many of `n_items` are done, the pace, and the time that is left."""
    if sys.stderr.isatty():
        yield from _draw_bar(items, n_items, name)
    else:
        yield from _log_lines(items, n_items, name)


def _draw_bar(items: Iterable[Item], n_items: int, name: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("eta"), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=n_items, description=name)


def _log_lines(items: Iterable[Item], n_items: int, name: str) -> Iterator[Item]:
    start = last = time.monotonic()
    n_done = 0
    for n_done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            pace = n_done / (now - start)
            left = (n_items - n_done) / pace
            log.info("%s: %s of %s images, %.1f images/s, %.0f s left", name, n_done, n_items, pace, left)
    seconds = time.monotonic() - start
    log.info("%s: %s images in %.1f s, %.1f images/s", name, n_done, seconds, n_done / max(seconds, 1e-9))
