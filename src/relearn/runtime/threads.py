"""Work on all cores, in order, without reading the whole input first."""

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from relearn.errors import ParamsError

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_threads() -> int:
    """Return `RELEARN_THREADS`, or else the number of cores that this process may use."""
    if wanted := os.environ.get("RELEARN_THREADS"):
        if not re.fullmatch("[1-9][0-9]{0,5}", wanted):
            raise ParamsError(f"RELEARN_THREADS: wanted a whole number of at least 1, got {wanted[:40]!r}; unset it")
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Budget:
    """So many bytes may be in memory at once; more wait. What is larger than all of them goes alone."""

    def __init__(self, n_bytes: int) -> None:
        self._free = self._total = n_bytes
        self._changed = threading.Condition()

    def take(self, n_bytes: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: n_bytes <= self._free or self._free == self._total)
            self._free -= n_bytes

    def give_back(self, n_bytes: int) -> None:
        """Make room again."""
        with self._changed:
            self._free += n_bytes
            self._changed.notify()


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], n_ahead: int) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`, computed in threads up to `n_ahead` items before it is asked for.

    `items` is advanced by the calling thread alone. The first exception ends the iteration and the work ahead of it.
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
    """Yield `items`, which a thread of its own advances, up to `n_ahead` (at least 1) before they are asked for.

    The first is there as soon as it is made. An exception of `items`, a generator, is raised where its item would come.
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
