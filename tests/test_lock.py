import os
import subprocess
import sys

import pytest

from conftest import ROOT
from relearn.lock import Locked, describe_owner, hold_lock

PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from relearn.lock import hold_lock

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


def test_a_child_that_was_handed_it_holds_it_after_its_owners_death(path):
    process, child = start("hand")
    process.kill()
    process.wait()
    with pytest.raises(Locked, match=f"pid {process.pid}"), hold_lock(path, "other"):
        pass
    os.kill(child, 9)
    process.stdout.close()
    for _ in range(1000):  # until the system has ended it
        try:
            with hold_lock(path, "other"):
                return
        except Locked:
            continue
    raise AssertionError("still locked")


def test_an_owner_that_cannot_be_read_is_no_error(path):
    path.write_text("{")
    assert describe_owner(path) == "another run has just begun"
