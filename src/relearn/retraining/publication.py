"""Publication of a record: branch, tag and `release/current` move to it, in this order."""

from pathlib import Path

from relearn import paths
from relearn.errors import IntegrityError, RepositoryError
from relearn.repository.git import add_tag, check_branch_is_free, find_commit, move_branch, run_git
from relearn.repository.lock import hold_lock
from relearn.repository.tags import name_tag
from relearn.retraining.records import find_promotion, find_record
from relearn.retraining.release import find_current, switch_current
from relearn.retraining.versions import bring_version

UNPUSHED = Path(".relearn/retrain/unpushed")  # exists while only this clone has a record
LOCK = ".lock"
PATIENCE_SECONDS = 60  # with another process that switches the release


def publish_record(root: Path, branch: str, commit: str, before: str | None) -> None:
    """Move the branch to a new record; tag and release follow.

    Raises
    ------
    RepositoryError
        The branch moved since the retraining began, such as by a rollback.
    """
    with hold_lock(root / paths.RELEASE / LOCK, "a change of the release", PATIENCE_SECONDS):
        check_branch_is_free(root, branch)
        (root / UNPUSHED).parent.mkdir(parents=True, exist_ok=True)
        (root / UNPUSHED).touch()
        try:
            move_branch(root, branch, commit, before)
        except RepositoryError as error:
            if find_commit(root, f"refs/heads/{branch}") == before:
                raise
            raise RepositoryError(
                f"{branch} was moved while this ran, so nothing is recorded; the next run begins there ({error})"
            ) from None
        _follow_record(root, branch)


def align_release(root: Path, branch: str) -> None:
    """Make tag and `release/current` agree with the newest record, whatever came in between."""
    with hold_lock(root / paths.RELEASE / LOCK, "a change of the release", PATIENCE_SECONDS):
        _follow_record(root, branch)


def _follow_record(root: Path, branch: str) -> None:
    tip = find_commit(root, f"refs/heads/{branch}")
    record = find_record(root, tip) if tip else None
    if tip is None or record is None or record.production is None:
        return
    promotion = find_promotion(root, tip, record.production)
    add_tag(root, name_tag(record.production), promotion, run_git(root, "log", "-1", "--format=%B", promotion))
    bring_version(root, record.production)
    release = root / paths.RELEASE
    try:
        current = find_current(release)
    except IntegrityError:
        current = None
    if current != record.production:
        switch_current(release, record.production)
