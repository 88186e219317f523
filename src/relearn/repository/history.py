"""What earlier commits say in a file that git tracks."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from relearn.errors import IntegrityError


def iterate_committed(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield commit and content of a file for the commits that changed it, from HEAD backwards.

    Nothing comes where there is no git, no repository, or no commit.

    Raises
    ------
    IntegrityError
        There is a repository, but git cannot read it; its own words are told.
    """
    try:
        head = _run_git("rev-parse", "--verify", "--quiet", "HEAD")
    except FileNotFoundError:
        return
    if head.returncode == 1 or b"not a git repository" in head.stderr:
        return
    _read(head, path)
    for commit in _read(_run_git("rev-list", "HEAD", "--", path.as_posix()), path).decode().split():
        content = _run_git("cat-file", "blob", f"{commit}:./{path.as_posix()}")
        if content.returncode == 0:  # else the commit is the one that took the file away
            yield commit, content.stdout


def _run_git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}  # its words are read
    return subprocess.run(["git", *arguments], capture_output=True, check=False, env=environment)  # noqa: S607


def _read(answer: subprocess.CompletedProcess[bytes], path: Path) -> bytes:
    if answer.returncode:
        message = " ".join(answer.stderr.decode(errors="replace").split())
        raise IntegrityError(f"{path}: git cannot tell its earlier versions: {message}; mend the repository")
    return answer.stdout
