"""The flow under a real Prefect server: what it runs, how it fails, and what it leaves behind."""

import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from conftest import (
    SMALL,
    commit,
    execute,
    make_environment,
    read_last_run,
    read_yaml,
    repro,
    wait_for,
    write_small_set,
)

# A stage that says where it is and then takes its time, with a process of its own below it.
SLOW_STAGE = """
stages:
  slow:
    cmd: python slow.py
    outs:
      - result
"""


SLOW_PROGRAM = """
import pathlib, subprocess, sys, time
if not pathlib.Path("fast").exists():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    pathlib.Path("started.tmp").write_text(str(child.pid))
    pathlib.Path("started.tmp").rename("started")
    time.sleep(300)
pathlib.Path("result").write_text("done")
"""


@pytest.mark.slow
def test_flow_runs_every_stage_and_publishes(server, clone, ran):
    """With a store that has the features, so that `extract` need not load a network."""
    write_small_set(clone)
    shutil.copy(ran / "params.yaml", clone)
    shutil.copytree(ran / ".relearn", clone / ".relearn")
    answer = execute(clone, "flows.pipeline", PREFECT_API_URL=server)
    assert answer.returncode == 0, answer.stderr
    state, tasks, log, artifacts = read_last_run(server)
    assert state == "Completed"
    assert tasks == dict.fromkeys(read_yaml(clone / "dvc.yaml")["stages"], "Completed")
    assert "images: 28 images kept (training 16, validation 6, evaluation 6) of 2 classes" in log
    assert "6 evaluation images of 2 classes" in log
    assert "Validation passed: 28 images" in artifacts["validation"]
    assert "Verification passed: 28 images" in artifacts["verification"]
    assert '"metric": "accuracy_score"' in artifacts["metrics"]
    assert "Data and pipelines are up to date." in repro(clone).stdout


@pytest.mark.slow
def test_stage_that_fails_ends_the_flow(server, clone, set_params):
    write_small_set(clone)
    set_params(SMALL | {"validate.min_images.min": 4}, clone / "params.yaml")
    answer = execute(clone, "flows.pipeline", PREFECT_API_URL=server)
    assert answer.returncode != 0
    state, tasks, log, artifacts = read_last_run(server)
    assert state == "Failed"
    assert tasks == {"restructure": "Completed", "validate": "Failed"}
    assert "min_images: wanted at least 4 images of every class in every split" in log
    assert "validate: dvc repro ended with exit code 255; its last lines:" in log
    assert "Validation failed: 28 images" in artifacts["validation"]
    assert r"validation/cat \(3\)" in artifacts["validation"]
    assert "Traceback" not in answer.stdout + answer.stderr


@pytest.mark.long
@pytest.mark.slow
def test_server_that_is_not_there_is_told_in_one_line(clone):
    answer = execute(clone, "flows.pipeline", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].endswith(
        "no Prefect server answers there; `make ui` starts one, or unset PREFECT_API_URL"
    )
    assert "Traceback" not in answer.stderr


@pytest.mark.long
@pytest.mark.slow
def test_flow_works_with_a_temporary_server(clone):
    (clone / "dvc.yaml").write_text(SLOW_STAGE)
    (clone / "slow.py").write_text(SLOW_PROGRAM)
    (clone / "fast").touch()
    answer = execute(clone, "flows.pipeline", PREFECT_API_URL="")
    assert answer.returncode == 0, answer.stderr
    assert "Starting temporary server" in answer.stdout + answer.stderr
    assert (clone / "result").read_text() == "done"
    assert (clone / ".prefect").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending",
    [signal.SIGTERM, *(pytest.param(sent, marks=pytest.mark.long) for sent in (signal.SIGINT, signal.SIGKILL))],
)
def test_interrupted_flow_leaves_no_process(server, clone, ending):
    (clone / "dvc.yaml").write_text(SLOW_STAGE)
    (clone / "slow.py").write_text(SLOW_PROGRAM)
    commit(clone)
    # A test run in the background has SIGINT ignored, and so would the flow.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline"],
        cwd=clone,
        env=make_environment(clone) | {"PREFECT_API_URL": server},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: (clone / "started").exists() or flow.poll() is not None, 60)
    grandchild = int((clone / "started").read_text())
    below = psutil.Process(flow.pid).children(recursive=True)
    assert grandchild in {process.pid for process in below}
    flow.send_signal(ending)
    assert flow.wait(60) != 0
    wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in below), 20)

    (clone / "fast").touch()
    answer = repro(clone)
    assert answer.returncode == 0, answer.stderr
    assert (clone / "result").read_text() == "done"
