"""Earlier versions of a file that git tracks."""

from collections.abc import Iterator
from pathlib import Path

from relearn.errors import IntegrityError, RepositoryError
from relearn.repository.git import call_git, run_git


def iterate_committed(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield commit and content of a file for the commits that changed it, from HEAD backwards.

    Nothing comes without git, without a repository, or before the first commit.

    Raises
    ------
    IntegrityError
        There is a repository, but git cannot read it; the message has git's own.
    """
    here = Path()
    try:
        head = call_git(here, "rev-parse", "--verify", "--quiet", "HEAD")
    except FileNotFoundError:
        return
    if head.returncode == 1 or b"not a git repository" in head.stderr:
        return
    try:
        commits = run_git(here, "rev-list", "HEAD", "--", path.as_posix()).split()
    except RepositoryError as error:
        raise IntegrityError(
            f"earlier versions cannot be read: {error}", where=path, advice="repair the repository"
        ) from None
    for commit in commits:
        content = call_git(here, "cat-file", "blob", f"{commit}:./{path.as_posix()}")
        if content.returncode == 0:  # otherwise the commit removed the file
            yield commit, content.stdout
