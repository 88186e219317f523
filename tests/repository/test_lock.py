import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from conftest import ROOT
from relearn.errors import Locked, RelearnError
from relearn.repository import lock
from relearn.repository.lock import describe_owner, hold_lock, read_owner

PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from relearn.repository.lock import hold_lock

with hold_lock(Path("pipeline.lock"), "retraining") as descriptor:
    child = subprocess.Popen(["sleep", "60"], stdout=-3, pass_fds=[descriptor] if "hand" in sys.argv else [])
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pipeline.lock"


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    return process, int(process.stdout.readline())


def test_the_second_is_told_who_is_first(path):
    process, child = start()
    try:
        message = rf"^retraining already runs \(pid {process.pid} on \S+, since 20\d\d-.*\)$"
        with pytest.raises(Locked, match=message), hold_lock(path, "make repro"):
            pass
    finally:
        process.kill()
        process.communicate()
        os.kill(child, 9)


def test_it_is_free_again_however_its_owner_ended(path):
    with hold_lock(path, "one"), pytest.raises(Locked), hold_lock(path, "two"):
        pass
    with pytest.raises(ZeroDivisionError), hold_lock(path, "three"):
        raise ZeroDivisionError
    process, child = start()
    process.kill()
    process.communicate()
    with hold_lock(path, "four"):
        assert describe_owner(path).startswith(f"four already runs (pid {os.getpid()} on ")
    os.kill(child, 9)


def test_a_child_that_was_handed_it_holds_it_after_its_owners_death(path, monkeypatch):
    monkeypatch.setattr(lock, "DYING_SECONDS", 0.3)
    process, child = start("hand")
    process.kill()
    process.communicate()
    begin = time.monotonic()
    with pytest.raises(Locked, match=f"pid {process.pid}"), hold_lock(path, "other"):
        pass
    assert time.monotonic() - begin >= 0.3
    os.kill(child, 9)


def test_the_last_children_of_a_dead_owner_are_waited_for(path):
    process, child = start("hand")
    process.kill()
    process.communicate()
    threading.Timer(0.5, os.kill, (child, 9)).start()
    with hold_lock(path, "other"):
        assert read_owner(path).what == "other"


def test_a_living_owner_is_waited_for_as_long_as_one_likes(path):
    process, child = start("hand")
    with pytest.raises(Locked), hold_lock(path, "other", 0.2):
        pass
    threading.Timer(0.5, lambda: (process.kill(), os.kill(child, 9))).start()
    with hold_lock(path, "other", 60):
        pass
    process.communicate()


@pytest.mark.parametrize("case", ["a file for the folder", "a folder for the file", "a pipe", "not writable"])
def test_a_lock_that_cannot_be_made_is_one_line(path, monkeypatch, case):
    target = path.parent / "state" / "lock"
    if case == "a file for the folder":
        (path.parent / "state").write_text("")
    elif case == "a folder for the file":
        target.mkdir(parents=True)
    elif case == "a pipe":
        target.parent.mkdir()
        os.mkfifo(target)
    else:

        def refuse(*arguments):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))

        monkeypatch.setattr(lock.os, "open", refuse)
    message = rf"^{target}: wanted a file that this process may write, as a lock, got [^\n]+; remove what has the name"
    with pytest.raises(RelearnError, match=message), hold_lock(target, "x"):
        pass


def run_repro(folder):
    """Run `make repro`'s module in a copy of the flows, because lock and parameters are those of their repository."""
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "flows.repro"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=60)


def test_repro_checks_the_parameters_before_dvc_reads_them(tmp_path):
    """DVC writes values behind aliases out, which takes for ever where they multiply."""
    lists = "\n".join(f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40))
    (tmp_path / "params.yaml").write_text(f"b0: &a0 [x]\n{lists}\n")
    answer = run_repro(tmp_path)
    assert answer.returncode == 3
    assert answer.stderr.startswith(f"relearn: {tmp_path}/params.yaml: line 6: wanted at most 200,000 values, got more")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("case", ["file", "folder"])
def test_repro_says_in_one_line_what_is_in_the_way(tmp_path, case):
    if case == "file":
        (tmp_path / ".relearn").write_text("")
    else:
        (tmp_path / ".relearn" / "lock").mkdir(parents=True)
    answer = run_repro(tmp_path)
    assert answer.returncode == 6
    assert answer.stderr.startswith(f"relearn: {tmp_path}/.relearn/lock: wanted a file that this process may write")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"what": 1}', "[]", '{"what":"x","pid":"x","host":"h","since":"s"}']
)
def test_an_owner_that_is_none_is_no_error(path, content):
    path.write_text(content.replace('"h"', json.dumps(socket.gethostname())))
    assert read_owner(path) is None
    with hold_lock(path, "x"):
        pass


def test_an_owner_that_cannot_be_read_is_no_error(path):
    path.write_text("{")
    assert describe_owner(path) == "another run has just begun"
