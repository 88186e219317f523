"""How long a run may take, and when a task is tried again."""

import errno
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger
from prefect.context import TaskRunContext
from prefect.states import State

from relearn.errors import CommandFailed, OutOfTime, ParamsError, RelearnError, UnreachableSource

LAST_SECONDS = 10  # after the deadline, for a command to end and its last line to be reported
RETRY = "RELEARN_RETRY_SECONDS"
MAX_RETRIES = 50  # Prefect accepts no more
MAX_RETRY_SECONDS = 100_000
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def limit_time(deadline: float) -> Iterator[None]:
    """Raise `OutOfTime` in whatever this thread does, even waiting, at the deadline by `time.monotonic()`."""

    def _interrupt(_number: int, _frame: object) -> None:
        context = TaskRunContext.get()
        step = context.task.name if context else "retrain"
        raise OutOfTime("ended, because the time limit has passed (retrain.time_limit_minutes)", where=step)

    if threading.current_thread() is not threading.main_thread():  # no signal reaches it
        get_run_logger().warning("not in the main thread: retrain.time_limit_minutes ends only commands")
        yield
        return
    before = signal.signal(signal.SIGALRM, _interrupt)
    # Again after that, in case something caught the first.
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-3), LAST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def retry(step: Task[P, R], may_fail: bool) -> Task[P, R]:
    """Let a task be tried again if the network may fail it."""
    if not may_fail:
        return step
    seconds = read_retry_seconds()
    return step.with_options(retries=len(seconds), retry_delay_seconds=seconds, retry_condition_fn=may_pass_by_itself)


def read_retry_seconds() -> list[float]:
    """Return the seconds before each new attempt, from the environment variable.

    Raises
    ------
    ParamsError
        It holds something else than at most 50 numbers below 100,000.
    """
    text = os.environ.get(RETRY, "10 60 300")
    try:
        seconds = [float(part) for part in text.split()]
    except ValueError:
        seconds = [math.nan]
    if len(seconds) > MAX_RETRIES or not all(0 <= number < MAX_RETRY_SECONDS for number in seconds):
        raise ParamsError(where=RETRY, wanted='seconds such as "10 60 300"', got=repr(text[:40]), advice="unset it")
    return seconds


def may_pass_by_itself(_task: object, _run: object, state: State[Any]) -> bool:
    """Return whether a failed task may do better after a while: a command failed, or the network may have."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, OSError):
        return error.errno not in FULL_DISK
    return isinstance(error, CommandFailed | UnreachableSource) or not isinstance(error, RelearnError)
