import fcntl
import sys
import time

import psutil
import pytest
from flows.child import run_child

from conftest import wait_for
from relearn.errors import OutOfTime


def test_child_lines_and_exit_code():
    lines = []
    program = "import sys; print('one'); print(); print('two', file=sys.stderr); sys.exit(3)"
    code, last_lines = run_child([sys.executable, "-u", "-c", program], lines.append)
    assert code == 3
    assert lines == last_lines == ["one", "two"]


def test_lines_of_a_child_do_not_steer_a_terminal():
    lines = []
    _, last_lines = run_child([sys.executable, "-c", r"print('\tgit add \x1b[2J\x9b31m')"], lines.append)
    assert lines == last_lines == ["        git add \\u001b[2J\\u009b31m"]


def test_lines_of_a_child_are_parsed_as_they_are():
    raw, shown = [], []
    program = r"print('cache.dir=/a\tb\x85 \u202e '); print()"
    _, last_lines = run_child([sys.executable, "-c", program], shown.append, parse=raw.append)
    assert raw == ["cache.dir=/a\tb\x85 \u202e "]
    assert shown == last_lines == [r"cache.dir=/a    b\u0085 \u202e"]


def test_child_is_ended_at_its_deadline():
    started = []
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    deadline = time.monotonic() + 3
    with pytest.raises(
        OutOfTime, match=r"time.sleep\(300\): ended, because the time limit has passed; its last line: "
    ):
        run_child([sys.executable, "-c", program], started.append, deadline=deadline)
    assert deadline <= time.monotonic() < deadline + 60
    assert not any(psutil.pid_exists(int(pid)) for pid in started)
    assert run_child([sys.executable, "-c", ""], started.append, deadline=time.monotonic() + 300) == (0, [])


def test_group_of_a_child_holds_a_lock_that_its_command_does_not_know(tmp_path):
    with (tmp_path / "lock").open("w") as lock, (tmp_path / "lock").open("w") as other:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def release(line):
            lock.close()  # as if this process had been killed
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

        program = "import os; print(sorted(os.listdir('/dev/fd'))[:-1])"
        _, lines = run_child([sys.executable, "-c", program], release, descriptors=[lock.fileno()])
        assert lines == ["['0', '1', '2']"]
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_only_the_last_lines_are_kept():
    code, last_lines = run_child([sys.executable, "-c", "for n in range(100): print(n)"], lambda line: None)
    assert (code, last_lines) == (0, [str(n) for n in range(90, 100)])


def test_child_ends_when_its_reader_fails(tmp_path):
    def fail(line):
        (tmp_path / "pid").write_text(line)
        raise ValueError("reader")

    program = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    with pytest.raises(ValueError, match="reader"):
        run_child([sys.executable, "-c", program], fail)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_what_ignores_sigterm_below_the_command_is_killed_too(tmp_path):
    below = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(300)"
    )
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {below!r}]); time.sleep(300)"
    pids = []
    with pytest.raises(ValueError, match="enough"):

        def fail(line):
            pids.append(int(line))
            raise ValueError("enough")

        run_child([sys.executable, "-c", program], fail)
    wait_for(lambda: not psutil.pid_exists(pids[0]), 10)
