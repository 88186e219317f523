import errno
import os
import signal
import time

import pytest
from flows.limits import limit_time, may_pass_by_itself, read_retry_seconds
from prefect.states import Failed

from relearn.errors import (
    CommandFailed,
    IntegrityError,
    OutOfTime,
    ParamsError,
    RepositoryError,
    SourceError,
    UnreachableSource,
)


@pytest.mark.slow
def test_the_time_limit_covers_what_is_no_command(tmp_path):
    """Reading a pipe into which nobody writes would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    before = signal.getsignal(signal.SIGALRM)
    message = r"^retrain: ended, because the time limit has passed \(retrain.time_limit_minutes\)$"
    with pytest.raises(OutOfTime, match=message), limit_time(time.monotonic() + 0.2):
        (tmp_path / "pipe").read_bytes()
    with limit_time(time.monotonic() + 0.1):
        pass
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGALRM) == before


@pytest.mark.parametrize("text", ["abc", "a b", "nan", "-1", "1e5", "10,60", "inf", "9" * 5000, "1 " * 51])
def test_seconds_that_are_none_are_one_line(monkeypatch, text):
    monkeypatch.setenv("RELEARN_RETRY_SECONDS", text)
    with pytest.raises(
        ParamsError, match=r'^RELEARN_RETRY_SECONDS: wanted seconds such as "10 60 300", got \'.{1,42}\'; '
    ):
        read_retry_seconds()
    for good, seconds in {"5 0.5": [5.0, 0.5], "": [], " 7\n": [7.0]}.items():
        monkeypatch.setenv("RELEARN_RETRY_SECONDS", good)
        assert read_retry_seconds() == seconds


@pytest.mark.parametrize(
    "error",
    [
        IntegrityError("another file came"),
        ParamsError("no settings"),
        SourceError("no room"),
        RepositoryError("no source"),
        OutOfTime("too long"),
        OSError(errno.ENOSPC, "no space left"),
    ],
)
def test_what_no_network_fails_is_not_tried_again(error):
    assert not may_pass_by_itself(None, None, Failed(data=error))
    for passing in (
        CommandFailed("dvc pull"),
        UnreachableSource("no answer"),
        TimeoutError(),
        ValueError("of a library"),
    ):
        assert may_pass_by_itself(None, None, Failed(data=passing))
