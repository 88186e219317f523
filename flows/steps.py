"""The tasks of a retraining, in the order in which they run."""

import json
import sys
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import GATES, publish_confusion, publish_findings, publish_mistakes
from flows.child import ROOT
from flows.job import DVC, STATE, WORKTREE, Job
from relearn import paths
from relearn.dataset.manifest import Exclusion
from relearn.errors import CommandFailed, ValidationFailed
from relearn.params.pipeline import read_params
from relearn.repository.dvc_files import (
    DvcSettings,
    copy_dvc_settings,
    list_data_files,
    list_outputs,
    list_stage_outputs,
    read_dvc_settings,
)
from relearn.repository.git import add_worktree, check_branch_is_free, remove_worktree, run_git
from relearn.repository.tags import name_tag
from relearn.repository.tracked import check_outputs
from relearn.retraining.arrivals import Arrival, Left, Unused, Waiting, describe_settling, list_unused
from relearn.retraining.growth import IGNORED, check_source, drop_ignored, find_growing_source
from relearn.retraining.landing import Landing, check_room
from relearn.retraining.publication import UNPUSHED, align_release, publish_record
from relearn.retraining.records import Start, choose_version, write_record
from relearn.retraining.release import VERSIONS
from relearn.retraining.settings import override_settings
from relearn.retraining.start import check_refs, find_start, follow_remote, list_kept_files
from relearn.retraining.versions import PENDING_EXPORT, bring_version, check_version, list_gone
from relearn.runtime.text import count_nouns, escape_lines
from relearn.storage.files import read_csv, read_json

N_MISTAKES = 24  # in the artifact; the page has them all


@task(name="fetch commits", cache_policy=NO_CACHE)
def fetch_commits(job: Job) -> None:
    """Fetch what others have pushed: base, records and tags."""
    remote, branch = str(job.params.git_remote), job.params.branch
    job.execute(["git", "fetch", "--quiet", "--tags", remote], ROOT)
    check_branch_is_free(ROOT, branch)
    follow_remote(ROOT, remote, branch)


@task(name="recover", cache_policy=NO_CACHE)
def recover(job: Job) -> Start:
    """Repair what a killed run left: its worktree, and a release that is behind the newest record.

    A dry run moves no branch, tag or release; it only needs the files of the production model.
    """
    remove_worktree(ROOT, WORKTREE)
    if job.options.dry_run:
        start = find_start(ROOT, job.base, job.params, is_dry=True)
        if start.version:
            bring_version(ROOT, start.version)
        return start
    check_branch_is_free(ROOT, job.params.branch)
    start = find_start(ROOT, job.base, job.params)
    check_refs(ROOT, start, job.params.branch)
    align_release(ROOT, job.params.branch)
    return start


@task(name="look for images", cache_policy=NO_CACHE)
def look_for_images(job: Job, landing: Landing, settle_seconds: float) -> list[Waiting]:
    """Return the files of the landing folder that can be taken now, and report the others."""
    found = landing.look(settle_seconds)
    if found.is_missing:
        job.note(f"{landing.address} is not there yet: put new images there, or correct retrain.landing")
    counts = [len(part) for part in (found.ready, found.waiting, found.left)]
    get_run_logger().info("%s: files that can be taken: %d; waiting: %d; left: %d", landing.address, *counts)
    text = describe_settling(found, landing.address, settle_seconds) if found.settled_at else ""
    job.note_left(found.waiting, f"waiting in {landing.address}", text=text)
    job.note_left(found.left, f"left in {landing.address}")
    return found.ready


@task(name="open worktree", cache_policy=NO_CACHE)
def open_worktree(job: Job, start: Start) -> DvcSettings:
    """Make a worktree with the base's code and parameters, the production model's data, this repository's settings."""
    add_worktree(ROOT, WORKTREE, start.base, start.production or start.base, list_kept_files(ROOT, start))
    if job.options.overrides:
        changed = override_settings(ROOT, start.base, job.base, job.options.overrides)
        (WORKTREE / paths.PARAMS).write_bytes(changed)
    return copy_dvc_settings(ROOT, WORKTREE)


@task(name="fetch data", cache_policy=NO_CACHE)
def fetch_data(job: Job, imports: list[str], settings: DvcSettings) -> None:
    """Bring the tracked data into the worktree, and what is new at the origin of imports; check every file."""
    if names := list_data_files(WORKTREE, run_git(WORKTREE, "write-tree").strip()):
        job.execute([*DVC, "pull" if settings.has_remote else "checkout", *names])
    if imports:
        job.execute([*DVC, "update", *imports])
    check_outputs(WORKTREE, list_outputs(WORKTREE, names), settings.cache)
    check_source(WORKTREE, job.base)


@task(name="grow source", cache_policy=NO_CACHE)
def grow_source(job: Job, landing: Landing, waiting: list[Waiting], settings: DvcSettings) -> list[Arrival]:
    """Copy what waits into the source, and track it; return what DVC tracks then."""
    source = find_growing_source(WORKTREE, job.base)
    landing.check_is_apart(ROOT, source)
    check_room(waiting, WORKTREE / source)
    copied, left = landing.copy_in(waiting, WORKTREE / source)
    job.execute([*DVC, "add", str(source)])
    arrivals, ignored = drop_ignored(WORKTREE, source, copied, settings.cache)
    left += [Left(arrival.waiting.path, IGNORED) for arrival in ignored]
    job.note_left(left, f"left in {landing.address}")
    return arrivals


@task(cache_policy=NO_CACHE)
def run_stage(job: Job, stage: str, settings: DvcSettings) -> None:
    """Bring one stage of the worktree up to date; raise `ValidationFailed` if it is a gate that failed on the data."""
    try:
        job.execute([*DVC, "repro", stage])
        check_outputs(WORKTREE, list_stage_outputs(WORKTREE, stage), settings.cache)
    except CommandFailed as error:
        report = WORKTREE / GATES[stage][1] if stage in GATES else None
        # A killed stage leaves no report, because DVC removes the old one before it starts.
        if report and report.exists() and not read_json(report, ["passed"])["passed"]:
            raise ValidationFailed(str(error)) from None
        raise
    finally:
        if stage in GATES:
            publish_findings(WORKTREE, *GATES[stage])


@task(name="decide", cache_policy=NO_CACHE)
def decide(job: Job, start: Start) -> dict[str, Any]:
    """Judge the challenger against the champion, on the same images."""
    output = ROOT / STATE / "decision.json"
    if start.version and (problem := check_version(ROOT, start.version)):
        get_run_logger().warning("%s", escape_lines(problem))
    champion = [str(ROOT / paths.RELEASE / VERSIONS / start.version)] if start.version else []
    job.execute([sys.executable, "-m", "relearn", "decide", *champion, "--output", str(output)])
    decision: dict[str, Any] = json.loads(output.read_text())
    decision["gone"] = list_gone(ROOT, WORKTREE, start.version) if start.version else []
    job.note_left([Left(*image) for image in decision["gone"]], f"of {start.version} not in this data", "gone")
    return decision


def find_unused(arrivals: list[Arrival]) -> list[Unused]:
    """Return the files that were copied into the source and are still not in the data."""
    return list_unused(arrivals, dict(read_csv(WORKTREE / paths.EXCLUDED, Exclusion._fields))) if arrivals else []


def describe_place(n_images: int, version: str) -> str:
    """Return where the images are that landed, and how they come into a person's own branch."""
    source = read_params(WORKTREE / paths.PARAMS).restructure.source
    return (
        f"{count_nouns(n_images, 'new image')} in {source} of {name_tag(version)}; `relearn adopt` brings data, "
        "parameters and results of it into your branch"
    )


@task(name="show mistakes", cache_policy=NO_CACHE)
def show_mistakes(job: Job) -> None:
    """Publish the confusion matrix, and the images that the challenger gets wrong."""
    page = ROOT / STATE / "mistakes.html"
    markdown: list[str] = []
    command = [sys.executable, "-m", "relearn", "mistakes", "--output", str(page), "--md", str(N_MISTAKES)]
    job.execute(command, parse=markdown.append)
    publish_confusion(WORKTREE)
    publish_mistakes(markdown, page)


@task(name="export", cache_policy=NO_CACHE)
def export(job: Job, start: Start) -> None:
    """Export the challenger as the version that it becomes, and prove it; the release takes it when it is recorded."""
    version = choose_version(ROOT, start.tip)
    target = ROOT / PENDING_EXPORT
    job.execute([sys.executable, "-m", "relearn", "export", "--output", str(target), "--version-name", version])


@task(name="record", cache_policy=NO_CACHE)
def record(job: Job, start: Start, decision: dict[str, Any], landing_sha256: str | None) -> str | None:
    """Commit the result to the branch; tag and release follow. Return the version of the production model."""
    commit, version = write_record(ROOT, WORKTREE, start, decision, landing_sha256, overrides=job.options.overrides)
    publish_record(ROOT, job.params.branch, commit, start.tip)
    get_run_logger().info("%s is at %s", job.params.branch, commit)
    return version


@task(name="take away", cache_policy=NO_CACHE)
def take_away(job: Job, landing: Landing, arrivals: list[Arrival]) -> None:
    """Remove from the landing folder what the recorded data has."""
    left = landing.remove(arrivals)
    get_run_logger().info("%s taken away", count_nouns(len(arrivals) - len(left), "file"))
    job.note_left(left, f"not taken away from {landing.address}")


@task(name="reject", cache_policy=NO_CACHE)
def reject(job: Job, landing: Landing, unused: list[Unused]) -> None:
    """Move what cannot be used to a folder of its own in the landing folder, with the reasons beside it."""
    batch, stays = landing.reject(unused)
    paths_that_stay = {entry.path for entry in stays}
    entries = [Left(arrival.waiting.path, reason) for arrival, reason in unused]
    moved = [entry for entry in entries if entry.path not in paths_that_stay]
    job.note_left(moved, f"that cannot be used, now in {landing.address}/{batch}")
    job.note_left(stays, f"that cannot be used, not moved to {landing.address}/{batch}")


@task(name="push", cache_policy=NO_CACHE)
def push(job: Job) -> None:
    """Push data to DVC's default remote, branch and tags to git's, if there are such."""
    if read_dvc_settings(ROOT).has_remote:
        if WORKTREE.exists():
            job.execute([*DVC, "push"])
        if job.was_unpushed or not WORKTREE.exists():
            job.execute([*DVC, "push", "--all-tags"], ROOT)
    if job.params.git_remote:
        refs = [f"refs/heads/{job.params.branch}", "refs/tags/classifier@*:refs/tags/classifier@*"]
        job.execute(["git", "push", "--quiet", job.params.git_remote, *refs], ROOT)
    (ROOT / UNPUSHED).unlink(missing_ok=True)


@task(name="clean up", cache_policy=NO_CACHE)
def clean_up() -> None:
    """Remove the worktree."""
    remove_worktree(ROOT, WORKTREE)
