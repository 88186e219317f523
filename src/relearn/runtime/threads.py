"""Work on all cores, with results in order, without reading the whole input first."""

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from relearn.errors import ParamsError

# Libraries create all threads at once, and each takes memory.
MAX_THREADS = 1024

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_threads() -> int:
    """Return `RELEARN_THREADS`, by default the number of cores that this process may use."""
    if wanted := os.environ.get("RELEARN_THREADS"):
        if not re.fullmatch("[1-9][0-9]{0,3}", wanted) or int(wanted) > MAX_THREADS:
            text = f"a whole number from 1 to {MAX_THREADS:,}"
            raise ParamsError(where="RELEARN_THREADS", wanted=text, got=repr(wanted[:40]), advice="unset it")
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Budget:
    """A limit for the bytes in memory at once; a request above the whole limit is granted when nothing else is."""

    def __init__(self, n_bytes: int) -> None:
        self._free = self._total = n_bytes
        self._changed = threading.Condition()

    def acquire(self, n_bytes: int) -> None:
        """Wait until there is room for `n_bytes`."""
        with self._changed:
            self._changed.wait_for(lambda: n_bytes <= self._free or self._free == self._total)
            self._free -= n_bytes

    def release(self, n_bytes: int) -> None:
        """Return `n_bytes` to the limit."""
        with self._changed:
            self._free += n_bytes
            self._changed.notify()


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], n_ahead: int) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`, computed in threads up to `n_ahead` items in advance.

    Only the calling thread advances `items`. The first exception ends the iteration and the work in advance.
    """
    waiting: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(count_threads())
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def prefetch(items: Iterable[Item], n_ahead: int) -> Iterator[Item]:
    """Yield `items`, which a separate thread advances up to `n_ahead` (at least 1) in advance.

    The first item is there as soon as it is made. An exception in the generator `items` is raised in place of its item.
    """
    arriving = iter(items)
    end = object()
    executor = ThreadPoolExecutor(1)
    waiting: deque[Future[Any]] = deque(executor.submit(next, arriving, end) for _ in range(n_ahead))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(executor.submit(next, arriving, end))
            yield item
    finally:
        executor.shutdown(cancel_futures=True)
