"""Retrain by the clock, as `retrain.cron` says, from this process; a Prefect server has to be there.

Usage: python -m flows.schedule [BASE]

One retraining at a time: the limit below is this process's own, and the lock of the repository covers whoever else
runs the pipeline. Not used is a concurrency limit of the deployment, which the server keeps: when a process dies
between getting its slot and starting, the slot stays taken, and the schedule never fires again.
"""

import sys

import httpx
from prefect.client.schemas.schedules import CronSchedule
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from flows.child import ROOT
from flows.notify import check_webhook
from flows.retrain import read_retry_seconds, run_retraining
from relearn.errors import ParamsError, RelearnError
from relearn.retraining.records import read_settings
from relearn.runtime.text import escape_lines


def plan_schedule(base: str) -> CronSchedule:
    """Read the schedule from the `params.yaml` of a branch.

    Raises
    ------
    ParamsError
        It is no cron expression, or no time zone.
    """
    params = read_settings(ROOT, base)
    try:
        return CronSchedule(cron=params.cron, timezone=params.timezone)
    except ValidationError as error:
        (key,) = error.errors()[0]["loc"]
        wanted = "five fields such as 0 3 * * *" if key == "cron" else "a name such as Europe/Zurich"
        got = params.cron if key == "cron" else params.timezone
        raise ParamsError(f"params.yaml: retrain.{key}: wanted {wanted}, got {got!r}") from None


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
        f"{address or 'PREFECT_API_URL is not set'}: wanted a Prefect server there; `make ui` starts one in another "
        "terminal"
    )


def main() -> None:
    """Serve until it is stopped; the schedule stays as it is, so that runs come as soon as it is started again."""
    base = [*sys.argv[1:], "main"][0]
    try:
        read_retry_seconds()
        check_webhook()
        schedule = plan_schedule(base)
        check_server()
    except RelearnError as error:
        sys.exit(escape_lines(f"relearn: {error}"))
    clock = Cron(schedule.cron, timezone=schedule.timezone)
    run_retraining.serve(name="scheduled", schedule=clock, parameters={"base": base}, pause_on_shutdown=False, limit=1)


if __name__ == "__main__":
    main()
