"""`relearn adopt`: a promoted classifier with its data and parameters, merged into the branch that is checked out."""

import subprocess
import sys
from pathlib import Path

from relearn.errors import CommandFailed, RepositoryError
from relearn.repository.git import call_git, find_commit, is_ancestor, merge, run_git
from relearn.repository.lock import LOCK, hold_lock
from relearn.repository.status import list_changed_data
from relearn.repository.tags import list_tags, name_tag
from relearn.retraining.records import find_record

N_NAMED = 3


def adopt(root: Path, records: str, name: str | None) -> list[str]:
    """Merge a version into the branch that is checked out, and check out its files; return what was done, in lines.

    Parameters
    ----------
    records
        The branch of the records.
    name
        A version or its tag; None for the production model.

    Raises
    ------
    RepositoryError
        There is no such version, something is not committed, or git cannot merge; then nothing is changed.
    CommandFailed
        The merge is done, and DVC could not bring the files.
    """
    tag = _choose_tag(root, records, name)
    with hold_lock(root / LOCK, "relearn adopt"):
        branch = _check_branch(root, records)
        if is_ancestor(root, f"{tag}^{{commit}}", "HEAD"):
            done = f"{branch} has {tag} already"
        else:
            _check_committed(root)
            _merge(root, branch, tag)
            done = f"{tag} is merged into {branch}"
        _check_out(root)
    return [f"{done}, and its files are checked out"]


def _choose_tag(root: Path, records: str, name: str | None) -> str:
    tags = list_tags(root)
    if name is None:
        tip = find_commit(root, f"refs/heads/{records}")
        record = find_record(root, tip) if tip else None
        if record is None or record.production is None:
            raise RepositoryError("no classifier was promoted there yet", where=records, advice="`make retrain` first")
        name = record.production
    if (tag := name_tag(name)) not in tags:
        raise RepositoryError(
            where=name, wanted=f"one of {', '.join(tags) or 'the tags classifier@vN.0.0'}", got="no such version"
        )
    return tag


def _check_branch(root: Path, records: str) -> str:
    """Return the branch that is checked out, which must be a person's own."""
    branch = call_git(root, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.decode().strip()
    if branch in ("", records):
        raise RepositoryError(
            wanted="a branch of your own that is checked out",
            got=branch or "none (a detached HEAD)",
            advice="`git switch main`",
        )
    return branch


def _check_committed(root: Path) -> None:
    """Raise `RepositoryError` if a merge or a checkout could touch what is not committed."""
    lines = run_git(root, "status", "--porcelain", "-z", "--untracked-files=no", "--no-renames").split("\0")[:-1]
    if changed := [line[3:] for line in lines] or list_changed_data(root):
        raise RepositoryError(
            wanted="a working copy without changes",
            got=f"changes in {_name_first(changed)}",
            advice="commit them (data with `dvc add` before that), or `git stash` them",
        )


def _merge(root: Path, branch: str, tag: str) -> None:
    if not call_git(root, "merge-base", "HEAD", tag).stdout:
        raise RepositoryError(
            where=branch,
            wanted=f"a history in common with {tag}",
            got="none",
            advice="`git switch` to the branch that is retrained",
        )
    if conflicts := merge(root, tag, f"Merge {tag}"):
        raise RepositoryError(
            where=branch,
            wanted=f"a merge of {tag} without a conflict",
            got=f"conflicts in {_name_first(conflicts)}",
            advice=f"nothing is changed; `git merge {tag}` by hand, then `dvc checkout`",
        )


def _check_out(root: Path) -> None:
    command = [sys.executable, "-m", "dvc", "checkout", "--quiet"]
    answer = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = answer.stderr.split()
        raise CommandFailed(
            f"{' '.join(lines)[:300]}", where="dvc checkout", advice="the merge is done; `dvc pull` may bring the files"
        )


def _name_first(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED:,} more" if names[N_NAMED:] else ""
    return ", ".join(names[:N_NAMED]) + more
