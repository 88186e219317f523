"""The progress of a long run: a bar on a terminal, a line every few seconds in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


def track_progress(
    items: Iterable[Item],
    n_items: int,
    name: str,
    unit: str = "images",
    *,
    count: Callable[[Item], float] = lambda _: 1,
    quiet_seconds: float = 0.0,
    batch_size: int | None = None,
) -> Iterator[Item]:
    """Yield `items` and show how many of `n_items` are done, the pace, and the time left.

    Parameters
    ----------
    count
        Returns how much an item counts; it may be a fraction.
    quiet_seconds
        A run that takes less shows nothing.
    batch_size
        How many items come at once, if they do: they count when all of them are there, and the time left is estimated
        from the second batch on, because the first takes longer.
    """
    counted: Iterable[tuple[Item, float]] = ((item, count(item)) for item in items)
    if batch_size:
        counted = _count_batches(counted, batch_size, n_items)
    if sys.stderr.isatty():
        yield from _draw_bar(counted, n_items, name, unit, quiet_seconds)
    else:
        yield from _log_lines(counted, n_items, name, unit, quiet_seconds, skips_first=batch_size is not None)


def _count_batches(
    counted: Iterable[tuple[Item, float]], batch_size: int, n_items: int
) -> Iterator[tuple[Item, float]]:
    """Yield items, the last of each batch with the count of all of it, the others with 0."""
    n_done = n_batch = 0.0
    for item, n_new in counted:
        n_done, n_batch = n_done + n_new, n_batch + n_new
        is_whole = n_batch >= batch_size or n_done >= n_items
        yield item, n_batch if is_whole else 0.0
        if is_whole:
            n_batch = 0.0


def _draw_bar(
    counted: Iterable[tuple[Item, float]], n_items: int, name: str, unit: str, quiet_seconds: float
) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    times = (TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn())
    progress = Progress(*columns, *times, console=Console(stderr=True))
    task = progress.add_task(name, total=n_items)
    start = time.monotonic()
    try:
        for item, n_new in counted:
            yield item
            if n_new:  # rich takes the pace from these calls
                progress.advance(task, n_new)
            if not progress.live.is_started and time.monotonic() - start >= quiet_seconds:
                progress.start()
    finally:
        progress.stop()


def _log_lines(
    counted: Iterable[tuple[Item, float]],
    n_items: int,
    name: str,
    unit: str,
    quiet_seconds: float,
    *,
    skips_first: bool,
) -> Iterator[Item]:
    start = last = time.monotonic()
    n_done = 0.0
    first = None if skips_first else (start, n_done)  # since when the pace is measured, and what was done then
    for item, n_new in counted:
        yield item
        if not n_new:
            continue
        n_done += n_new
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and now - start >= quiet_seconds:
            last = now
            done = f"{_format(n_done)} of {n_items} {unit}"
            if first is None:
                log.info("%s: %s", name, done)
            else:
                pace = (n_done - first[1]) / max(now - first[0], 1e-9)
                left = (n_items - n_done) / pace
                log.info("%s: %s, %s %s/s, %.0f s left", name, done, _format_pace(pace), unit, left)
        first = first or (now, n_done)
    seconds = time.monotonic() - start
    if seconds >= quiet_seconds:
        pace = n_done / max(seconds, 1e-9)
        log.info("%s: %s %s in %.1f s, %s %s/s", name, _format(n_done), unit, seconds, _format_pace(pace), unit)


def _format(n_done: float) -> str:
    """Return a number of items, with two decimals if the last item is not done."""
    return f"{n_done:.2f}".removesuffix(".00")


def _format_pace(pace: float) -> str:
    return f"{pace:.1f}" if pace >= 1 else f"{pace:.2g}"
