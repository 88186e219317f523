"""Retraining: what is new is trained on, judged against the classifier in use, recorded, and put in use if it may be.

Usage: python -m flows.retrain [BASE]

BASE is the branch whose code, pipeline and parameters are run, as they are committed; main if nothing is said.
All of it happens in a git worktree of its own, so that nobody's working copy is touched. How a run ended is the name of
its state: Skipped, Promoted and NotPromoted are completed, Blocked (by bad data) and Failed are failed.
"""

import errno
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed, Failed, State

from flows.artifacts import (
    GATES,
    publish_confusion,
    publish_contest,
    publish_findings,
    publish_left,
    publish_mistakes,
)
from flows.child import ROOT, run_child
from flows.notify import check_webhook, notify
from flows.pipeline import read_stages, run_to_its_end
from relearn import paths
from relearn.dataset.manifest import Exclusion
from relearn.errors import (
    CommandFailed,
    Locked,
    OutOfTime,
    ParamsError,
    RelearnError,
    RepositoryError,
    UnreachableSource,
    ValidationFailed,
)
from relearn.params import RetrainParams, read_params
from relearn.repository.git import add_worktree, check_branch_is_free, remove_worktree, run_git
from relearn.repository.lock import LOCK, hold_lock
from relearn.repository.tracked import (
    DataFile,
    check_outputs,
    list_members,
    list_outputs,
    list_stage_outputs,
    read_dvc_file,
)
from relearn.retraining.landing import (
    HIDDEN,
    Arrival,
    Found,
    Landing,
    Left,
    Waiting,
    check_room,
    describe_left,
    list_unused,
)
from relearn.retraining.records import (
    UNPUSHED,
    Start,
    align_release,
    check_refs,
    check_version,
    describe_old_news,
    find_start,
    follow_remote,
    has_new_base,
    hash_sources,
    hash_waiting,
    keep_fruitless,
    list_data_files,
    list_gone,
    list_imports,
    list_kept_files,
    publish_record,
    read_settings,
    read_settings_of,
    was_fruitless,
    was_tried,
    write_record,
)
from relearn.retraining.release import VERSIONS
from relearn.runtime.text import escape_controls, escape_lines
from relearn.storage.files import read_csv, read_json

STATE = Path(".relearn/retrain")
N_LEFT_LOGGED = 20
IGNORED = "DVC would not keep it: .dvcignore names it"
LAST_SECONDS = 10  # after the deadline, for a command to be ended and its last line to be reported
N_MISTAKES = 24  # in the artifact; the page has them all
RETRY = "RELEARN_RETRY_SECONDS"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
P = ParamSpec("P")
R = TypeVar("R")

DVC = [sys.executable, "-m", "dvc"]
WORKTREE = ROOT / STATE / "relearn-retraining"  # git names its own folder of it like the last part


class Note(NamedTuple):
    """Files that a person should know of: the artifact that lists them, what they are, and each with the reason."""

    key: str
    what: str
    left: tuple[Left, ...]


class Run(NamedTuple):
    """What the tasks of one retraining share.

    base, params : the branch that is run, and its settings
    lock : descriptor of the lock, which every child holds too
    deadline : by `time.monotonic()`
    was_unpushed : whether an earlier run could not push
    notes : what a person should know beside how the run ended
    """

    base: str
    params: RetrainParams
    lock: int
    deadline: float
    was_unpushed: bool
    notes: list[Note]

    def execute(self, command: list[str], folder: Path = WORKTREE, parse: Callable[[str], None] | None = None) -> None:
        """Run a command in a folder, with the code that is there; its lines go to the log, or as they are to `parse`.

        Raises
        ------
        CommandFailed
            Its exit code is not 0; its last lines are told.
        """
        code, last_lines = run_child(
            command,
            None if parse else get_run_logger().info,
            parse=parse,
            folder=folder,
            variables={
                "PYTHONPATH": str(folder / "src"),
                "RELEARN_CACHE": str(paths.find_cache().absolute()),
                "GIT_TERMINAL_PROMPT": "0",
            },
            descriptors=[self.lock],
            deadline=self.deadline,
        )
        if code:
            told = "\n".join(last_lines)
            name = command[2:] if command[0] == sys.executable else command
            raise CommandFailed(f"{' '.join(name)} ended with exit code {code}; its last lines:\n{told}")


class Storage(NamedTuple):
    """DVC's cache, and whether DVC has a default remote."""

    cache: Path
    has_remote: bool


@flow(name="retrain", on_failure=[notify], on_crashed=[notify], on_cancellation=[notify])
def run_retraining(base: str = "main") -> State:
    """Retrain on what is new, and let the release follow if the candidate may take the place of the one in use."""
    os.chdir(ROOT)  # whoever started this: what follows is about this repository
    logging.getLogger("prefect.task_runs").addFilter(drop_traceback)
    notes: list[Note] = []
    try:
        if (ROOT / ".git").is_file():
            raise RepositoryError(f"{ROOT}: wanted the main repository, got a worktree of it; retrain there")
        read_retry_seconds()  # what is wrong in the environment is an error now
        check_webhook()
        params = read_settings(ROOT, base)
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(hold_lock(ROOT / LOCK, "retraining"))
            except Locked as error:
                return skip(str(error))
            stack.callback(clean_up)
            deadline = time.monotonic() + 60 * params.time_limit_minutes
            stack.enter_context(limit_time(deadline + LAST_SECONDS))
            return retrain(Run(base, params, lock, deadline, (ROOT / UNPUSHED).exists(), notes))
    except RelearnError as error:
        return add_notes(Failed(message=str(error)), notes)
    except OSError as error:  # a full disk, no right to write
        return add_notes(Failed(message=f"{error.filename or STATE}: {error.strerror or error}"), notes)
    except Exception:
        publish_notes(notes)
        raise


@contextmanager
def limit_time(deadline: float) -> Iterator[None]:
    """Raise `OutOfTime` in whatever this thread does, be it waiting, when the deadline by `time.monotonic()` comes."""

    def interrupt(_number: int, _frame: object) -> None:
        context = TaskRunContext.get()
        step = context.task.name if context else "retrain"
        raise OutOfTime(f"{step}: ended, for the time limit has passed (retrain.time_limit_minutes)")

    if threading.current_thread() is not threading.main_thread():  # no signal reaches it
        get_run_logger().warning("not in the main thread: retrain.time_limit_minutes ends commands alone")
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    # Again after that, for somebody may have caught it.
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-3), LAST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def retrain(run: Run) -> State:
    """Retrain under the lock."""
    if run.params.git_remote:
        retry(fetch_commits, True)(run)
    start = recover(run)
    params = read_settings_of(ROOT, start.base, run.base)  # the base may have been the remote's
    if run_git(ROOT, "diff", "--name-only", start.base, "--", str(paths.PARAMS)):
        get_run_logger().warning(
            "%s: what is committed in %s counts, which is not what is here", paths.PARAMS, run.base
        )
    landing = find_landing(params)
    waiting = retry(look_for_images, landing.is_remote)(run, landing, params.settle_seconds) if landing else []
    imports = list_imports(ROOT, start.base)
    landing_sha256 = hash_waiting(waiting)
    is_known = was_tried(start, landing_sha256) or was_fruitless(ROOT, start, landing_sha256)
    is_waiting = bool(waiting) and not is_known
    is_new = has_new_base(ROOT, start)
    if not (is_new or is_waiting or imports):
        return finish(run, skip(describe_old_news(start, landing_sha256)))

    storage = open_worktree(run, start)
    retry(fetch_data, bool(imports) or storage.has_remote)(run, imports, storage)
    arrivals = retry(grow_source, landing.is_remote)(run, landing, waiting, storage) if landing and waiting else []
    sources_sha256 = hash_sources(WORKTREE)
    if not is_new and start.in_use and sources_sha256 == hash_sources(ROOT, start.in_use):
        if landing:  # all that waits is in the data, and was not taken away for a kill
            retry(take_away, landing.is_remote)(run, landing, arrivals)
            taken = {arrival.waiting for arrival in arrivals}
            keep_fruitless(ROOT, start, [file for file in waiting if file not in taken])
        return finish(run, skip("nothing new"))
    if not is_new and start.record and sources_sha256 == start.record.sources_sha256:
        keep_fruitless(ROOT, start, waiting)
        return finish(run, skip(describe_old_news(start, sources_sha256)))

    with suppress(ValidationFailed):  # the decision says so
        for stage in read_stages(WORKTREE / "dvc.yaml"):
            run_stage.with_options(name=stage, task_run_name=stage)(run, stage, storage)
    if arrivals:
        note_unused(run, arrivals)
    contest = decide(run, start)
    publish_contest(contest, start.version)
    if not contest["failed_checks"]:
        show_mistakes(run)
    version = record(run, start, contest, landing_sha256)
    if contest["promoted"] and landing:
        retry(take_away, landing.is_remote)(run, landing, arrivals)
    message = f"{contest['verdict']}: {contest['reason']}"
    if contest["promoted"]:
        return finish(run, Completed(name="Promoted", message=f"{version} is in use, {message}"))
    told = f"{version or 'nothing'} stays in use, {message}"
    if contest["verdict"] == "blocked by data":
        has_too_few = not contest["failed_checks"] and contest["n_judged"] < run.params.min_images
        told += f"; correct it, or take it out of {params.landing}" if waiting and not has_too_few else ""
        return finish(run, Failed(name="Blocked", message=told))
    return finish(run, Completed(name="NotPromoted", message=told))


def drop_traceback(record: logging.LogRecord) -> bool:
    """Let an error that is told in words be told without a traceback."""
    if record.exc_info and isinstance(record.exc_info[1], RelearnError):
        record.exc_info = None
    return True


def finish(run: Run, state: State) -> State:
    """Push, if anything was recorded since the last push; where that fails, the run does, and the next tries again.

    What the run noted is added to how it ended.
    """
    state = add_notes(state, run.notes)
    if not (ROOT / UNPUSHED).exists():
        return state
    try:
        retry(push, True)(run)
    except RelearnError as error:
        return Failed(message=escape_lines(f"{state.message}; not pushed, which the next run tries again: {error}"))
    return state


def add_notes(state: State, notes: Sequence[Note]) -> State:
    """Publish what was noted, add it to the message of how a run ended, and let that steer no terminal."""
    message = "; ".join([str(state.message), *publish_notes(notes)])
    return state.model_copy(update={"message": escape_lines(message)})


def retry(step: Task[P, R], is_network: bool) -> Task[P, R]:
    """Let a task be tried again where the network may be what fails."""
    if not is_network:
        return step
    seconds = read_retry_seconds()
    return step.with_options(retries=len(seconds), retry_delay_seconds=seconds, retry_condition_fn=may_pass_by_itself)


def read_retry_seconds() -> list[float]:
    """Return after how many seconds each new attempt begins, from the environment variable.

    Raises
    ------
    ParamsError
        It holds something else than at most 50 numbers below 100,000.
    """
    text = os.environ.get(RETRY, "10 60 300")
    parts = text.split()
    # Prefect takes no more than 50.
    if len(parts) > 50 or not all(re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", part) for part in parts):
        raise ParamsError(f'{RETRY}: wanted seconds such as "10 60 300", got {text[:40]!r}; unset it')
    return [float(part) for part in parts]


def may_pass_by_itself(_task: object, _run: object, state: State[Any]) -> bool:
    """Return whether a failed task may do better after a while: a command failed, or the network may have."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, OSError):
        return error.errno not in FULL_DISK
    return isinstance(error, CommandFailed | UnreachableSource) or not isinstance(error, RelearnError)


def skip(reason: str) -> State:
    """Return the state of a run that had nothing to do."""
    reason = escape_lines(reason)
    get_run_logger().info("Skipped: %s", reason)
    return Completed(name="Skipped", message=reason)


def find_landing(params: RetrainParams) -> Landing | None:
    """Return the landing folder, a path being relative to the repository."""
    if params.landing is None:
        return None
    return Landing(params.landing if "://" in params.landing else str(ROOT / params.landing))


def note_left(run: Run, left: Sequence[Left], what: str, key: str = "landing") -> None:
    """Say which files are not taken, or not used: in the log now, and at the end as an artifact and with the state."""
    lines = [f"{what}: {path}: {reason}" for path, reason in left[:N_LEFT_LOGGED]]
    lines += [f"{what}: and {len(left) - N_LEFT_LOGGED:,} more"] * (len(left) > N_LEFT_LOGGED)
    for line in lines:
        get_run_logger().warning("%s", escape_controls(line))
    if left:
        run.notes.append(Note(key, what, tuple(left)))


def publish_notes(notes: Sequence[Note]) -> list[str]:
    """Publish what was noted, an artifact for each key, and return it in short."""
    notes = list(dict.fromkeys(notes))  # a task that was tried again notes it again
    for key in dict.fromkeys(note.key for note in notes):
        publish_left(key, [(note.what, entry) for note in notes if note.key == key for entry in note.left])
    named = [(note.what, [entry for entry in note.left if entry.reason != HIDDEN]) for note in notes]
    return [describe_left(left, what) for what, left in named if left]


@task(name="fetch commits", cache_policy=NO_CACHE)
def fetch_commits(run: Run) -> None:
    """Bring what others have pushed: base, records and tags."""
    remote, branch = str(run.params.git_remote), run.params.branch
    run.execute(["git", "fetch", "--quiet", "--tags", remote], ROOT)
    check_branch_is_free(ROOT, branch)
    follow_remote(ROOT, remote, branch)


@task(name="recover", cache_policy=NO_CACHE)
def recover(run: Run) -> Start:
    """Put right what a killed run left: its worktree, and a release that is behind the newest record."""
    remove_worktree(ROOT, WORKTREE)
    check_branch_is_free(ROOT, run.params.branch)
    start = find_start(ROOT, run.base, run.params)
    check_refs(ROOT, start, run.params.branch)
    align_release(ROOT, run.params.branch)
    return start


@task(name="look for images", cache_policy=NO_CACHE)
def look_for_images(run: Run, landing: Landing, settle_seconds: float) -> list[Waiting]:
    """Return the files in the landing folder that can be taken now, and say what becomes of the others."""
    found: Found = landing.look(settle_seconds)
    get_run_logger().info(
        "%s: %d files can be taken, %d wait, %d are left", landing.address, *(len(part) for part in found)
    )
    note_left(run, found.waiting, f"waiting in {landing.address}")
    note_left(run, found.left, f"left in {landing.address}")
    return found.ready


@task(name="open worktree", cache_policy=NO_CACHE)
def open_worktree(run: Run, start: Start) -> Storage:
    """Make a worktree with code and parameters of the base and the data in use, and DVC's settings as they are here."""
    head = start.in_use or start.base
    add_worktree(ROOT, WORKTREE, start.base, head, list_kept_files(ROOT, start))
    local = ROOT / ".dvc" / "config.local"
    if local.exists():
        (WORKTREE / ".dvc" / "config.local").write_bytes(local.read_bytes())
    settings = read_dvc_settings(run)
    cache = settings.get("cache.dir", str(ROOT / ".dvc" / "cache"))
    run.execute([*DVC, "cache", "dir", "--local", cache])
    for key, value in settings.items():  # a path in the file would be relative to that
        if (match := re.fullmatch(r"remote\.(.+)\.url", key)) and Path(value).is_absolute():
            run.execute([*DVC, "remote", "modify", "--local", match[1], "url", value])
    return Storage(Path(cache), "core.remote" in settings)


def read_dvc_settings(run: Run) -> dict[str, str]:
    """Return DVC's settings for this repository, from wherever they come; paths are absolute."""
    lines: list[str] = []
    run.execute([*DVC, "config", "--list"], ROOT, lines.append)
    return dict(line.split("=", 1) for line in lines if "=" in line)


@task(name="fetch data", cache_policy=NO_CACHE)
def fetch_data(run: Run, imports: list[str], storage: Storage) -> None:
    """Bring the tracked data into the worktree, and what is new at the origin of what was imported.

    Raises
    ------
    RepositoryError
        The source is in neither git nor DVC.
    IntegrityError
        What came is not what is tracked.
    """
    if names := list_data_files(WORKTREE, run_git(WORKTREE, "write-tree").strip()):
        run.execute([*DVC, "pull" if storage.has_remote else "checkout", *names])
    if imports:
        run.execute([*DVC, "update", *imports])
    check_outputs(WORKTREE, list_outputs(WORKTREE, names), storage.cache)
    source = read_params(WORKTREE / paths.PARAMS).restructure.source
    if not (WORKTREE / source).exists():
        raise RepositoryError(
            f"restructure.source: {source}: wanted what git or DVC tracks: `dvc add {source}`, and commit {source}.dvc "
            f"to {run.base}"
        )


@task(name="grow source", cache_policy=NO_CACHE)
def grow_source(run: Run, landing: Landing, waiting: list[Waiting], storage: Storage) -> list[Arrival]:
    """Copy what waits into the source, and track it.

    Raises
    ------
    RepositoryError
        The source is no folder that `dvc add` tracks.
    """
    params = read_params(WORKTREE / paths.PARAMS).restructure
    source = Path(params.source)
    tracked = WORKTREE / f"{source}.dvc"
    if params.layout == "csv":
        raise RepositoryError("restructure.layout: csv: wanted a layout without a table, into which nothing can land")
    if not tracked.is_file() or not (WORKTREE / source).is_dir():
        raise RepositoryError(
            f"restructure.source: {source}: wanted a folder tracked by DVC, which grows by what lands: "
            f"`dvc add {source}`, and commit {source}.dvc to {run.base}"
        )
    if read_dvc_file(WORKTREE, f"{source}.dvc", DataFile).deps:
        raise RepositoryError(
            f"{source}.dvc: wanted a folder that `dvc add` tracks, got an import, whose next update would take away "
            "what lands; retrain.landing: null, and let images arrive where it comes from"
        )
    landing.check_is_apart(ROOT, source)
    check_room(waiting, WORKTREE / source)
    arrivals, left = landing.copy_in(waiting, WORKTREE / source)
    note_left(run, left, f"left in {landing.address}")
    run.execute([*DVC, "add", str(source)])
    (output,) = list_outputs(WORKTREE, [f"{source}.dvc"])
    tracked_names = list_members(output, storage.cache).keys()
    ignored = [arrival for arrival in arrivals if arrival.target not in tracked_names]
    for arrival in ignored:
        (WORKTREE / source / arrival.target).unlink()
    note_left(run, [Left(arrival.waiting.path, IGNORED) for arrival in ignored], f"left in {landing.address}")
    return [arrival for arrival in arrivals if arrival.target in tracked_names]


@task(cache_policy=NO_CACHE)
def run_stage(run: Run, stage: str, storage: Storage) -> None:
    """Bring one stage of the worktree up to date.

    Raises
    ------
    ValidationFailed, CommandFailed
        It is a gate that failed on the data, or another failure.
    IntegrityError
        An output that DVC had kept is not the one that it was.
    """
    if stage not in GATES:
        run.execute([*DVC, "repro", stage])
        check_outputs(WORKTREE, list_stage_outputs(WORKTREE, stage), storage.cache)
        return
    key, path = GATES[stage]
    try:
        run.execute([*DVC, "repro", stage])
        check_outputs(WORKTREE, list_stage_outputs(WORKTREE, stage), storage.cache)
    except CommandFailed as error:
        # A stage that was killed leaves no report, for DVC removes the old one before it starts.
        if (WORKTREE / path).exists() and not read_json(WORKTREE / path, ["passed"])["passed"]:
            raise ValidationFailed(str(error)) from None
        raise
    finally:
        publish_findings(WORKTREE, key, path)


@task(name="decide", cache_policy=NO_CACHE)
def decide(run: Run, start: Start) -> dict[str, Any]:
    """Judge the candidate against the one in use, on the same images."""
    output = ROOT / STATE / "contest.json"
    if start.version and (problem := check_version(ROOT, start.version)):
        get_run_logger().warning("%s", escape_lines(problem))
    in_use = [str(ROOT / paths.RELEASE / VERSIONS / start.version)] if start.version else []
    run.execute([sys.executable, "-m", "relearn", "decide", *in_use, "--output", str(output)])
    contest: dict[str, Any] = json.loads(output.read_text())
    contest["gone"] = list_gone(ROOT, WORKTREE, start.version) if start.version else []
    note_left(run, [Left(*image) for image in contest["gone"]], f"of {start.version} not in this data", "gone")
    return contest


def note_unused(run: Run, arrivals: list[Arrival]) -> None:
    """Say which of the files that were taken are not in the data all the same."""
    rows = read_csv(WORKTREE / paths.EXCLUDED, Exclusion._fields)
    unused = list_unused(arrivals, [Exclusion(*row) for row in rows])
    note_left(run, unused, "that landed but not in the data")


@task(name="show mistakes", cache_policy=NO_CACHE)
def show_mistakes(run: Run) -> None:
    """Publish the confusion matrix, and the images that the candidate gets wrong."""
    page = ROOT / STATE / "mistakes.html"
    markdown: list[str] = []
    command = [sys.executable, "-m", "relearn", "mistakes", "--output", str(page), "--md", str(N_MISTAKES)]
    run.execute(command, parse=markdown.append)
    publish_confusion(WORKTREE)
    publish_mistakes(markdown, page)


@task(name="record", cache_policy=NO_CACHE)
def record(run: Run, start: Start, contest: dict[str, Any], landing_sha256: str | None) -> str | None:
    """Commit what came of it to the branch, and let tag and release follow; return the version in use."""
    commit, version = write_record(ROOT, WORKTREE, start, contest, landing_sha256)
    publish_record(ROOT, run.params.branch, commit, start.tip)
    get_run_logger().info("%s is at %s", run.params.branch, commit)
    return version


@task(name="take away", cache_policy=NO_CACHE)
def take_away(run: Run, landing: Landing, arrivals: list[Arrival]) -> None:
    """Remove from the landing folder what is safe in the data."""
    left = landing.remove(arrivals)
    get_run_logger().info("%d files taken away", len(arrivals) - len(left))
    note_left(run, left, f"not taken away from {landing.address}")


@task(name="push", cache_policy=NO_CACHE)
def push(run: Run) -> None:
    """Push data to DVC's default remote, branch and tags to git's, where there are such."""
    if "core.remote" in read_dvc_settings(run):
        if WORKTREE.exists():
            run.execute([*DVC, "push"])
        if run.was_unpushed or not WORKTREE.exists():
            run.execute([*DVC, "push", "--all-tags"], ROOT)
    if run.params.git_remote:
        refs = [f"refs/heads/{run.params.branch}", "refs/tags/classifier@*:refs/tags/classifier@*"]
        run.execute(["git", "push", "--quiet", run.params.git_remote, *refs], ROOT)
    (ROOT / UNPUSHED).unlink(missing_ok=True)


@task(name="clean up", cache_policy=NO_CACHE)
def clean_up() -> None:
    """Remove the worktree."""
    remove_worktree(ROOT, WORKTREE)


def main() -> None:
    """Retrain once, now; exit with 1 unless it completes."""
    ended = run_to_its_end(run_retraining, *sys.argv[1:2])
    print(escape_lines(f"{ended.name}: {ended.message}" if ended.message else str(ended.name)))
    sys.exit(not ended.is_completed())


if __name__ == "__main__":
    main()
