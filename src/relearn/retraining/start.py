"""Where a retraining begins: at the base, the newest record, and what waits.

A run begins with the data of the production model and with what waits in the landing folder. So images that failed the
gate, or made a challenger worse, go on waiting there until a person has looked at them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from relearn.errors import RepositoryError
from relearn.params.pipeline import RetrainParams
from relearn.repository.dvc_files import list_data_files, list_uncached
from relearn.repository.git import check_refs_can_move, find_blob, find_commit, is_ancestor, move_branch, run_git
from relearn.repository.tags import name_tag
from relearn.retraining.arrivals import Waiting
from relearn.retraining.records import NONE, Start, choose_version, find_promotion, find_record
from relearn.storage.files import hash_bytes, write_file

FRUITLESS = Path(".relearn/retrain/fruitless")  # what waited when a run found nothing new, and the record then


def find_start(root: Path, base: str, params: RetrainParams, is_dry: bool = False) -> Start:
    """Find where a retraining begins; a branch of records that only a remote has is created here, unless `is_dry`.

    Raises
    ------
    RepositoryError
        The base has no commit, or the newest record is wrong.
    """
    commit = find_commit(root, f"refs/heads/{base}")
    if commit is None:
        raise RepositoryError(where=f"base: {base}", wanted="a branch with a commit", got="none of that name")
    theirs = params.git_remote and find_commit(root, f"refs/remotes/{params.git_remote}/{base}")
    if theirs and is_ancestor(root, commit, theirs):
        commit = theirs
    tip = find_commit(root, f"refs/heads/{params.branch}")
    if tip is None:  # in a fresh clone only its remote has the branch
        remotes = run_git(root, "for-each-ref", "--format=%(objectname)", f"refs/remotes/*/{params.branch}").split()
        if len(set(remotes)) == 1:
            (tip,) = set(remotes)
            if not is_dry:
                move_branch(root, params.branch, tip, None)
    record = find_record(root, tip) if tip else None
    tried = find_record(root, tip, is_plain=True) if tip and record and record.overrides else record
    production = find_promotion(root, tip, record.production) if tip and record and record.production else None
    return Start(commit, tip, production, record, tried)


def check_refs(root: Path, start: Start, branch: str) -> None:
    """Raise `RepositoryError` if git would refuse to record, because of a lock or of another ref."""
    tag = name_tag(choose_version(root, start.tip))
    try:
        check_refs_can_move(root, start.base, {f"refs/heads/{branch}": start.tip, f"refs/tags/{tag}": None})
    except RepositoryError as error:
        if error.where is not None:
            raise
        raise RepositoryError(str(error), where=f"retrain.branch: {branch}") from None


def follow_remote(root: Path, remote: str, branch: str) -> None:
    """Move a branch of records to the remote's if that is ahead.

    Raises
    ------
    RepositoryError
        Each has records that the other has not.
    """
    here, there = find_commit(root, f"refs/heads/{branch}"), find_commit(root, f"refs/remotes/{remote}/{branch}")
    if here is None or there is None or is_ancestor(root, there, here):
        return
    if not is_ancestor(root, here, there):
        raise RepositoryError(
            where=branch,
            wanted=f"the records of {remote}",
            got="other ones",
            advice=f"retrain in one clone only, and let this one follow: git branch --force {branch} {remote}/{branch}",
        )
    move_branch(root, branch, there, here)


def has_new_base(root: Path, start: Start) -> bool:
    """Return whether the base has commits that no record with the base's own parameters has seen."""
    tried = start.tried
    if tried is None or start.tip is None:
        return True
    seen = start.tip if tried is start.record else tried.commit
    return start.base != tried.base and not is_ancestor(root, start.base, seen)


def hash_waiting(waiting: Sequence[Waiting]) -> str | None:
    """Return a hash of the list of what waits; None if nothing does."""
    return hash_bytes(json.dumps(waiting).encode()) if waiting else None


def was_fruitless(root: Path, start: Start, landing_sha256: str | None) -> bool:
    """Return whether a run since the newest record found nothing new in what waits: no record says so."""
    try:
        return (root / FRUITLESS).read_bytes() == _describe_fruitless(start, landing_sha256)
    except FileNotFoundError:
        return False


def keep_fruitless(root: Path, start: Start, waiting: Sequence[Waiting]) -> None:
    """Remember that what goes on waiting brings nothing, such as a file that `.dvcignore` names."""
    with write_file(root / FRUITLESS) as file:
        file.write(_describe_fruitless(start, hash_waiting(waiting)))


def _describe_fruitless(start: Start, landing_sha256: str | None) -> bytes:
    return f"{start.record.commit if start.record else NONE} {landing_sha256 or NONE}\n".encode()


def list_kept_files(root: Path, start: Start) -> list[str]:
    """Return what the worktree takes from the production model's commit: data, `dvc.lock`, small outputs.

    All else comes from the base, and so does data that the base changed since it parted from that commit.

    Raises
    ------
    RepositoryError
        Both changed the same data in different ways.
    """
    if start.production is None:
        return []
    fork = run_git(root, "merge-base", start.base, start.production).strip()
    kept = []
    for name in list_data_files(root, start.production):
        at_fork, at_base, production = (
            find_blob(root, commit, name) for commit in (fork, start.base, start.production)
        )
        if at_base == at_fork:
            kept.append(name)
        elif production not in (at_fork, at_base):
            raise RepositoryError(
                f"both the base and retraining changed it since {fork[:12]}",
                where=name,
                advice=f"merge {start.version and name_tag(start.version)} into the base, and commit",
            )
    return [*kept, "dvc.lock", *list_uncached(root, start.base)]
