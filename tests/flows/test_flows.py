"""The flow under a real Prefect server: what it runs, how it fails, and what it leaves behind."""

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from flows.child import run_child
from flows.notify import quote_message

from conftest import (
    ROOT,
    SMALL,
    commit,
    execute,
    make_environment,
    read_last_run,
    read_yaml,
    render_markdown,
    repro,
    wait_for,
    write_small_set,
)
from flows import artifacts
from relearn.errors import OutOfTime
from relearn.runtime.text import escape_controls

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


HOSTILE = "![x](http://h/x.png)<img src=x onerror=alert(1)>|`_*\n\x1b[2J"


def test_names_are_not_live_in_artifacts(tmp_path, monkeypatch):
    """Every name of an image or a class in an artifact of Markdown shows as it stands."""
    made = {}
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda key, markdown, description: made.update({key: markdown})
    )
    finding = {"name": "x", "severity": "error", "wanted": HOSTILE, "observed": HOSTILE, "passed": False}
    report = {"passed": False, "n_images": 1, "findings": [{**finding, "rows": [HOSTILE]}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    artifacts.publish_findings(tmp_path, "validation", Path("report.json"))
    images = [{"path": HOSTILE}]
    decision = {"promoted": False, "verdict": "worse", "reason": HOSTILE, "n_judged": 1, "n_new": 1}
    artifacts.publish_decision(
        {**decision, "only_champion": images, "only_challenger": images, "differences": []}, "v1"
    )
    artifacts.publish_mistakes([], tmp_path / HOSTILE.replace("/", ""))
    for key, n_names in {"validation": 3, "verdict": 3}.items():
        shown, tags = render_markdown(made[key])
        assert shown.count(escape_controls(HOSTILE)) == n_names, key
        assert not tags & {"img", "a", "script", "code", "em", "strong"} - (
            {"strong"} if key == "validation" else set()
        )
    shown, tags = render_markdown(made["mistakes"])
    assert "img" not in tags


def test_messages_are_not_live_in_chats():
    told = quote_message("a <!channel> & ![](http://h/x.png)\n```\n\x1b[2J")
    assert told == "```\na &lt;!channel&gt; &amp; ![](http://h/x.png)\n'''\n\\u001b[2J\n```"
