"""Retraining under Prefect: a challenger is trained on what is new, judged against the champion, recorded, promoted.

Usage: python -m flows.retrain [BASE] [--now] [--force] [--dry-run] [-S KEY=VALUE]...

BASE is the branch whose code, pipeline and parameters are run, as they are committed; main by default. All of it
happens in a git worktree of its own, so that no working copy is touched. A run ends in a state of this name: Skipped,
Promoted, NotPromoted and DryRun are completed, Blocked (by bad data) and Failed are failed.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from prefect import flow, get_run_logger
from prefect.runtime import deployment
from prefect.states import Completed, Failed, State

from flows.artifacts import name_run, publish_decision
from flows.child import ROOT, exit_with
from flows.job import STATE, WORKTREE, Job, Note, publish_notes
from flows.limits import LAST_SECONDS, limit_time, read_retry_seconds, retry
from flows.notify import check_webhook, notify
from flows.options import Options, parse_arguments
from flows.pipeline import run_to_its_end
from flows.steps import (
    clean_up,
    decide,
    describe_place,
    export,
    fetch_commits,
    fetch_data,
    find_unused,
    grow_source,
    look_for_images,
    open_worktree,
    push,
    record,
    recover,
    reject,
    run_stage,
    show_mistakes,
    take_away,
)
from relearn import paths
from relearn.errors import Locked, ParamsError, RelearnError, RepositoryError, ValidationFailed
from relearn.params.pipeline import RetrainParams
from relearn.repository.dvc_files import hash_sources, list_imports, list_stages
from relearn.repository.git import run_git
from relearn.repository.lock import LOCK, hold_lock
from relearn.retraining.arrivals import Arrival, Left, Unused, Waiting, list_unused
from relearn.retraining.landing import NOW, Landing, find_landing
from relearn.retraining.planning import Facts, Skip, plan_ending, plan_run
from relearn.retraining.publication import UNPUSHED
from relearn.retraining.records import Start
from relearn.retraining.settings import override_settings, read_settings, read_settings_of
from relearn.retraining.start import has_new_base, hash_waiting, keep_fruitless, was_fruitless
from relearn.retraining.versions import read_excluded
from relearn.runtime.text import escape_lines


@flow(name="retrain", flow_run_name="run of {base}", on_failure=[notify], on_crashed=[notify], on_cancellation=[notify])
def run_retraining(
    base: str = "main",
    overrides: list[str] | None = None,
    now: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> State:
    """Retrain on what is new; the release follows if the challenger is promoted."""
    os.chdir(ROOT)  # wherever it was started: what follows is about this repository
    logging.getLogger("prefect.task_runs").addFilter(drop_traceback)
    notes: list[Note] = []
    try:
        return lock_and_retrain(base, Options(tuple(overrides or ()), now, force, dry_run), notes)
    except RelearnError as error:
        return add_notes(Failed(message=str(error)), notes)
    except OSError as error:  # a full disk, no right to write
        return add_notes(Failed(message=f"{error.filename or STATE}: {error.strerror or error}"), notes)
    except Exception:
        publish_notes(notes)
        raise


def lock_and_retrain(base: str, options: Options, notes: list[Note]) -> State:
    """Retrain under the lock of the repository and within the time limit."""
    if (ROOT / ".git").is_file():
        raise RepositoryError(where=ROOT, wanted="the main repository", got="a worktree of it", advice="retrain there")
    check_variables()
    params = read_settings(ROOT, base)
    check_overrides(base, params, options)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(hold_lock(ROOT / LOCK, "retraining"))
        except Locked as error:
            return skip(str(error))
        stack.callback(clean_up)
        deadline = time.monotonic() + 60 * params.time_limit_minutes
        stack.enter_context(limit_time(deadline + LAST_SECONDS))
        return retrain(Job(base, params, options, lock, deadline, (ROOT / UNPUSHED).exists(), notes))


def check_variables() -> None:
    """Raise `ParamsError` now if an environment variable is wrong that is used later."""
    read_retry_seconds()
    check_webhook()


def check_overrides(base: str, params: RetrainParams, options: Options) -> None:
    """Raise `ParamsError` if the run may have no other parameters than the base's, or if they are wrong."""
    if not options.overrides:
        return
    if deployment.id and not params.deployments_may_override:
        raise ParamsError(
            where="overrides",
            wanted="none in a run of a deployment, such as a scheduled one",
            got=" ".join(options.overrides),
            advice="use `python -m flows.retrain -S`, or set retrain.deployments_may_override to true",
        )
    override_settings(ROOT, f"refs/heads/{base}", base, options.overrides)


def retrain(job: Job) -> State:
    """Retrain: find out what is new, bring it together, train and judge, record."""
    if job.params.git_remote and not job.options.dry_run:
        retry(fetch_commits, True)(job)
    start = recover(job)
    params = read_settings_of(ROOT, start.base, job.base)  # the base may be the remote's
    landing = find_landing(ROOT, params.landing)
    settle_seconds = NOW if job.options.now else params.settle_seconds
    waiting = retry(look_for_images, landing.is_remote)(job, landing, settle_seconds) if landing else []
    imports = list_imports(ROOT, start.base)
    facts = collect_facts(job, start, waiting, imports)
    if isinstance(plan := plan_run(facts), Skip):
        return finish(job, skip(plan.reason))
    get_run_logger().info("Runs, because %s", " and ".join(plan.reasons))

    settings = open_worktree(job, start)
    retry(fetch_data, bool(imports) or settings.has_remote)(job, imports, settings)
    arrivals = retry(grow_source, landing.is_remote)(job, landing, waiting, settings) if landing and waiting else []
    production_sha256 = hash_sources(ROOT, start.production) if start.production else None
    facts = facts._replace(sources_sha256=hash_sources(WORKTREE), production_sha256=production_sha256)
    if isinstance(plan := plan_run(facts), Skip):
        if not job.options.dry_run:
            forget(job, start, landing, waiting, arrivals if plan.is_in_data else [])
        return finish(job, skip(plan.reason))

    with suppress(ValidationFailed):  # the decision reports it
        for stage in list_stages(WORKTREE):
            run_stage.with_options(name=stage, task_run_name=stage)(job, stage, settings)
    return finish(job, conclude(job, start, landing, waiting, arrivals))


def collect_facts(job: Job, start: Start, waiting: list[Waiting], imports: list[str]) -> Facts:
    """Return what is known before the data is fetched; log if the working copy has other parameters."""
    if run_git(ROOT, "diff", "--name-only", start.base, "--", str(paths.PARAMS)):
        get_run_logger().warning("%s differs from the committed one, which counts", paths.PARAMS)
    waiting_sha256 = hash_waiting(waiting)
    return Facts(
        record=start.tried,
        is_promotion=start.tried is not None and start.tried.commit == start.production,
        has_new_base=has_new_base(ROOT, start),
        has_imports=bool(imports),
        waiting_sha256=waiting_sha256,
        was_fruitless=was_fruitless(ROOT, start, waiting_sha256),
        has_overrides=bool(job.options.overrides),
        is_forced=job.options.force,
    )


def forget(job: Job, start: Start, landing: Landing | None, waiting: list[Waiting], arrivals: list[Arrival]) -> None:
    """Clear the landing folder of what the production model's data has, and remember that the rest brings nothing."""
    if landing and arrivals and start.version:  # a kill kept them from being taken away
        clear_landing(job, landing, arrivals, list_unused(arrivals, read_excluded(ROOT, start.version)), True)
    taken = {arrival.waiting for arrival in arrivals}
    keep_fruitless(ROOT, start, [file for file in waiting if file not in taken])


def conclude(job: Job, start: Start, landing: Landing | None, waiting: list[Waiting], arrivals: list[Arrival]) -> State:
    """Decide, record, and clear the landing folder of what was taken or cannot be used; a dry run only decides."""
    is_dry = job.options.dry_run
    decision = decide(job, start)
    publish_decision(decision, start.version, is_dry)
    if not decision["failed_checks"]:
        show_mistakes(job)
    if job.options.overrides:
        job.note(f"trained with {' '.join(job.options.overrides)}, which {job.base} does not have")
    unused = find_unused(arrivals)
    version = start.version
    if is_dry:
        job.note_left([Left(arrival.waiting.path, reason) for arrival, reason in unused], "that cannot be used")
    else:
        if decision["promoted"] and job.params.export:
            export(job, start)
        # What cannot be used is moved away. The rest was judged, unless a gate kept it from that.
        moved = set() if decision["failed_checks"] else {entry.arrival.waiting for entry in unused}
        version = record(job, start, decision, hash_waiting([file for file in waiting if file not in moved]))
        if landing:
            clear_landing(job, landing, arrivals, unused, decision["promoted"])
        n_used = len(arrivals) - len(unused)
        if version and decision["promoted"] and n_used:
            job.note(describe_place(n_used, version))
    ending = plan_ending(decision, version, waiting, job.params, is_dry)
    name_run(ending.title, [ending.name, decision["verdict"], *([version] if version else [])])
    return (Failed if ending.has_failed else Completed)(name=ending.name, message=ending.message)


def clear_landing(job: Job, landing: Landing, arrivals: list[Arrival], unused: list[Unused], is_in_data: bool) -> None:
    """Move what cannot be used to a folder of its own, and take away the rest if the recorded data has it."""
    if unused:
        retry(reject, landing.is_remote)(job, landing, unused)
    if is_in_data:
        rejected = {entry.arrival for entry in unused}
        used = [arrival for arrival in arrivals if arrival not in rejected]
        retry(take_away, landing.is_remote)(job, landing, used)


def drop_traceback(record: logging.LogRecord) -> bool:
    """Log an error that is explained by its message without a traceback."""
    if record.exc_info and isinstance(record.exc_info[1], RelearnError):
        record.exc_info = None
    return True


def finish(job: Job, state: State) -> State:
    """Add what was noted, and push what was recorded; a failed push fails the run, and the next run tries again."""
    state = add_notes(state, job.notes)
    if job.options.dry_run or not (ROOT / UNPUSHED).exists():
        return state
    try:
        retry(push, True)(job)
    except RelearnError as error:
        return Failed(message=escape_lines(f"{state.message}; not pushed, which the next run tries again: {error}"))
    return state


def add_notes(state: State, notes: Sequence[Note]) -> State:
    """Publish what was noted, and return a state whose message ends with it, safe for a terminal."""
    message = "; ".join([str(state.message), *publish_notes(notes)])
    return state.model_copy(update={"message": escape_lines(message)})


def skip(reason: str) -> State:
    """Return the state of a run that had nothing to do."""
    reason = escape_lines(reason)
    get_run_logger().info("Skipped: %s", reason)
    name_run("skipped", ["Skipped"])
    return Completed(name="Skipped", message=reason)


def main() -> None:
    """Retrain once, now; exit with 1 unless it completes."""
    base, options = parse_arguments(sys.argv[1:])
    try:
        check_variables()
    except RelearnError as error:
        exit_with(error)
    parameters = options._asdict() | {"overrides": list(options.overrides)}
    ended = run_to_its_end(run_retraining, base=base, **parameters)
    sys.stdout.write(escape_lines(f"{ended.name}: {ended.message}" if ended.message else str(ended.name)) + "\n")
    sys.exit(not ended.is_completed())


if __name__ == "__main__":
    main()
