"""The pipeline under Prefect: one task per stage, which runs `dvc repro` for it.

Usage: python -m flows.pipeline
"""

import json
import signal
import sys
from typing import Any

from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed, State

from flows.artifacts import GATES, publish_findings
from flows.child import ROOT, run_child
from flows.repro import check_inputs
from relearn import paths
from relearn.commands.report import describe_evaluation
from relearn.errors import Locked, RelearnError
from relearn.repository.dvc_files import list_stages
from relearn.repository.lock import LOCK, hold_lock
from relearn.runtime.text import escape_lines


@flow(name="pipeline")
def run_pipeline() -> State:
    """Bring every stage up to date, in the order of dvc.yaml; the first that fails ends the flow as failed."""
    try:
        with hold_lock(ROOT / LOCK, "the flow") as lock:
            check_inputs(ROOT)
            return run_stages(lock)
    except Locked as error:
        return Failed(message=f"{error}; try again when it has ended")
    except RelearnError as error:
        return Failed(message=escape_lines(str(error)))
    except OSError as error:  # a full disk, no right to write
        return Failed(message=escape_lines(f"{error.filename or LOCK}: {error.strerror or error}"))


def run_stages(lock: int) -> State:
    """Bring every stage up to date; each holds the lock as well."""
    for stage in list_stages(ROOT):
        ended = run_stage.with_options(name=stage, task_run_name=stage)(stage, lock, return_state=True)
        if stage in GATES:
            publish_findings(ROOT, *GATES[stage])
        if not ended.is_completed():
            return Failed(message=ended.message)
    publish_metrics()
    return Completed()


@task
def run_stage(stage: str, lock: int) -> State:
    """Bring one stage up to date; its state is failed, with its last lines, unless `dvc repro` ends with 0.

    A state and not an exception: the stage's own lines say what went wrong, and a traceback of the flow hides them.
    """
    code, last_lines = run_child(
        [sys.executable, "-m", "dvc", "repro", stage], get_run_logger().info, descriptors=[lock]
    )
    if code == 0:
        return Completed()
    message = f"{stage}: dvc repro ended with exit code {code}; its last lines:\n" + "\n".join(last_lines)
    return Failed(message=message)


def publish_metrics() -> None:
    """Publish the metrics of training and evaluation as a table artifact, and log the headlines."""
    table = [
        {"stage": stage, "metric": name, "value": value}
        for stage, path in (("train", paths.TRAINING_METRICS), ("evaluate", paths.EVALUATION_METRICS))
        for name, value in json.loads((ROOT / path).read_text()).items()
    ]
    create_table_artifact(key="metrics", table=table, description="Metrics of the last run")
    for line in describe_evaluation(ROOT):
        get_run_logger().info(line)


def run_to_its_end(flow: Flow[..., State], **parameters: Any) -> State:
    """Run a flow and return its state; exit with one line if no server answers.

    SIGTERM is an orderly exit, because only that ends a temporary server too.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        return flow(**parameters, return_state=True)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        advice = "no Prefect server answers there; `make ui` starts one, or unset PREFECT_API_URL"
        sys.exit(escape_lines(f"relearn: {error}: {advice}"))


def main() -> None:
    """Run the flow; exit with 1 unless it completes."""
    sys.exit(not run_to_its_end(run_pipeline).is_completed())


if __name__ == "__main__":
    main()
