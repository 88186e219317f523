"""The pipeline under Prefect: a task a stage, each running `dvc repro` for it.

Usage: python -m flows.pipeline
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Completed, Failed, State
from ruamel.yaml import YAML

from relearn import paths
from relearn.report import describe_evaluation

ROOT = Path(__file__).resolve().parent.parent
SUPERVISE = ROOT / "flows" / "supervise.py"
N_LAST_LINES = 10

# The stages that check, the artifact that tells what they found, and their report.
GATES = {"validate": ("validation", paths.VALIDATION_REPORT), "verify": ("verification", paths.VERIFICATION_REPORT)}


@flow(name="pipeline")
def run_pipeline() -> State:
    """Bring every stage up to date, in the order of dvc.yaml; the first that fails ends the flow as failed."""
    for stage in read_stages(ROOT / "dvc.yaml"):
        ended = run_stage.with_options(name=stage, task_run_name=stage)(stage, return_state=True)
        if stage in GATES:
            publish_findings(*GATES[stage])
        if not ended.is_completed():
            return Failed(message=ended.message)
    publish_metrics()
    return Completed()


def read_stages(path: Path) -> list[str]:
    """Return the names of the stages, in the order in which they stand in `dvc.yaml`."""
    return list(YAML(typ="safe", pure=True).load(path.read_bytes())["stages"])


@task
def run_stage(stage: str) -> State:
    """Bring one stage up to date; its state is failed, with its last lines, unless `dvc repro` ends with 0.

    A state and not an exception: what went wrong is in the stage's own lines, and a traceback of the flow hides them.
    """
    code, last_lines = run_child([sys.executable, "-m", "dvc", "repro", stage], get_run_logger().info)
    if code == 0:
        return Completed()
    message = f"{stage}: dvc repro ended with exit code {code}; its last lines:\n" + "\n".join(last_lines)
    return Failed(message=message)


def run_child(command: list[str], report: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command in its own process group, and report each line as it comes.

    However this function is left, and also if this process is killed, no process of the group goes on.

    Returns
    -------
    The exit code and the last lines.
    """
    last_lines: deque[str] = deque(maxlen=N_LAST_LINES)
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
        # The `python` of dvc.yaml is this one.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    with subprocess.Popen(
        [sys.executable, str(SUPERVISE), *command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line := line.rstrip():
                    last_lines.append(line)
                    report(line)
        finally:
            child.stdin.close()
            child.wait()
    return child.returncode, list(last_lines)


def publish_findings(key: str, path: Path) -> None:
    """Publish the report of a gate, if there is one, as a markdown artifact."""
    if not (ROOT / path).exists():
        return
    report = json.loads((ROOT / path).read_text())
    title = f"{key.capitalize()} {'passed' if report['passed'] else 'failed'}"
    lines = [f"## {title}: {report['n_images']:,} images", ""]
    lines += ["| check | severity | wanted | found | passed | first rows |", "| --- | --- | --- | --- | --- | --- |"]
    for finding in report["findings"]:
        rows = "<br>".join(escape_markdown(row) for row in finding["rows"][:5])
        mark = "yes" if finding["passed"] else "**no**"
        cells = [finding["name"], finding["severity"], finding["wanted"], finding["observed"]]
        lines.append(f"| {' | '.join(escape_markdown(cell) for cell in cells)} | {mark} | {rows} |")
    create_markdown_artifact(key=key, markdown="\n".join(lines), description=title)


def escape_markdown(text: str) -> str:
    """Keep the name of a file from breaking a table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def publish_metrics() -> None:
    """Publish the metrics of training and evaluation as a table artifact, and tell the headlines in the log."""
    table = [
        {"stage": stage, "metric": name, "value": value}
        for stage, path in (("train", paths.TRAINING_METRICS), ("evaluate", paths.EVALUATION_METRICS))
        for name, value in json.loads((ROOT / path).read_text()).items()
    ]
    create_table_artifact(key="metrics", table=table, description="Metrics of the last run")
    for line in describe_evaluation(ROOT):
        get_run_logger().info(line)


def main() -> None:
    """Run the flow; exit with 1 unless it completes."""
    try:
        ended = run_pipeline(return_state=True)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        sys.exit(f"relearn: {error}: no Prefect server answers there; `make ui` starts one, or unset PREFECT_API_URL")
    sys.exit(not ended.is_completed())


if __name__ == "__main__":
    main()
