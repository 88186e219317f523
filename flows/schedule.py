"""Retrain by the clock, as `retrain.cron` says, from this process; a Prefect server must run.

Usage: python -m flows.schedule [BASE]

One retraining at a time: the limit below is this process's own, and the lock of the repository covers anyone else who
runs the pipeline. A concurrency limit of the deployment is not used, because the server keeps it: if a process dies
between getting its slot and starting, the slot stays taken, and the schedule never fires again.
"""

import sys

import httpx
from prefect.client.schemas.schedules import CronSchedule
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from flows.child import ROOT, exit_with
from flows.retrain import check_variables, run_retraining
from relearn.errors import ParamsError, RelearnError
from relearn.retraining.settings import read_settings


def plan_schedule(base: str) -> CronSchedule:
    """Read the schedule from the `params.yaml` of a branch.

    Raises
    ------
    ParamsError
        It is no cron expression or no time zone.
    """
    params = read_settings(ROOT, base)
    try:
        return CronSchedule(cron=params.cron, timezone=params.timezone)
    except ValidationError as error:
        (key,) = error.errors()[0]["loc"]
        wanted = "five fields such as 0 3 * * *" if key == "cron" else "a name such as Europe/Zurich"
        got = params.cron if key == "cron" else params.timezone
        raise ParamsError(where=f"params.yaml: retrain.{key}", wanted=wanted, got=repr(got)) from None


def check_server() -> None:
    """Raise `RelearnError` unless a Prefect server answers."""
    address = PREFECT_API_URL.value()
    try:
        if address:
            httpx.get(f"{address}/health", timeout=10).raise_for_status()
            return
    except httpx.HTTPError:
        pass
    raise RelearnError(
        where=address or "PREFECT_API_URL is not set",
        wanted="a Prefect server there",
        got="no answer",
        advice="`make ui` starts one in another terminal",
    )


def main() -> None:
    """Serve until stopped; the schedule stays active, so that runs come as soon as it is started again."""
    base = [*sys.argv[1:], "main"][0]
    try:
        check_variables()
        schedule = plan_schedule(base)
        check_server()
    except RelearnError as error:
        exit_with(error)
    clock = Cron(schedule.cron, timezone=schedule.timezone)
    run_retraining.serve(name="scheduled", schedule=clock, parameters={"base": base}, pause_on_shutdown=False, limit=1)


if __name__ == "__main__":
    main()
