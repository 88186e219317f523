"""The flow under a real Prefect server: what it runs, how it fails, and what it leaves behind."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from flows.pipeline import escape_markdown, read_stages, run_child

from conftest import ROOT, SMALL, commit, execute, make_environment, read_yaml, repro, write_small_set

SERVER_STARTS_WITHIN_SECONDS = 180
SUPERVISE = ROOT / "flows" / "supervise.py"

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


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prefect server of its own; gives the address of its API."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def is_up():
        try:
            return httpx.get(f"{address}/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(is_up, SERVER_STARTS_WITHIN_SECONDS)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def ask(server, path, **body):
    return httpx.post(f"{server}/{path}", json=body).raise_for_status().json()


def read_last_run(server):
    (run,) = ask(server, "flow_runs/filter", sort="START_TIME_DESC", limit=1)
    tasks = ask(server, "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, sort="ID_DESC")
    logs = ask(server, "logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}}, sort="TIMESTAMP_ASC", limit=200)
    artifacts = ask(server, "artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    return (
        run["state_name"],
        {task["name"]: task["state_name"] for task in tasks},
        "\n".join(log["message"] for log in logs),
        {artifact["key"]: artifact["data"] for artifact in artifacts},
    )


@pytest.mark.slow
def test_flow_runs_every_stage_and_publishes(server, clone, set_params):
    write_small_set(clone)
    set_params(SMALL, clone / "params.yaml")
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
    assert "validation/cat (3)" in artifacts["validation"]
    assert "Traceback" not in answer.stdout + answer.stderr


@pytest.mark.slow
def test_server_that_is_not_there_is_told_in_one_line(clone):
    answer = execute(clone, "flows.pipeline", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].endswith(
        "no Prefect server answers there; `make ui` starts one, or unset PREFECT_API_URL"
    )
    assert "Traceback" not in answer.stderr


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
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
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


def test_child_lines_and_exit_code():
    lines = []
    program = "import sys; print('one'); print(); print('two', file=sys.stderr); sys.exit(3)"
    code, last_lines = run_child([sys.executable, "-u", "-c", program], lines.append)
    assert code == 3
    assert lines == last_lines == ["one", "two"]


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


def test_child_that_ignores_sigterm_is_killed(tmp_path):
    program = (
        "import os, pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(300)"
    )
    impatient = SUPERVISE.read_text().replace("GRACE_SECONDS = 5", "GRACE_SECONDS = 0.5")
    (tmp_path / "supervise.py").write_text(impatient)
    supervisor = subprocess.Popen(
        [sys.executable, tmp_path / "supervise.py", sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20)
    supervisor.stdin.close()
    assert supervisor.wait(20) == -signal.SIGKILL
    wait_for(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())), 10)


def test_stages_are_those_of_dvc_yaml():
    assert read_stages(ROOT / "dvc.yaml") == list(read_yaml(ROOT / "dvc.yaml")["stages"])


def test_names_do_not_break_the_table():
    assert escape_markdown("a|b<script>\nc&d") == "a\\|b&lt;script> c&amp;d"
