"""The one wrapper of the git command; nothing here touches the user's working copy or index."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from relearn.errors import RepositoryError

ABSENT = "0" * 40
PATIENCE_SECONDS = 10  # with the lock of a git that runs at the same moment
# Inside a hook these name the repository of the commit that runs the hook.
LOCAL_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def call_git(
    folder: Path, *arguments: str, text: str = "", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, without the hooks of the person whose repository it is, and return how it ended.

    Raises
    ------
    RepositoryError
        No command can have such an argument.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in LOCAL_VARIABLES}
    options = ["core.hooksPath=/dev/null", "commit.gpgSign=false", "tag.gpgSign=false"]
    try:
        return subprocess.run(
            ["git", *(part for option in options for part in ("-c", option)), *arguments],  # noqa: S607
            cwd=folder,
            env=inherited | {"LC_ALL": "C"} | dict(variables or {}),  # some of its messages are searched, in English
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            check=False,
        )
    except ValueError as error:  # a NUL, or half a character, in an argument
        raise RepositoryError(str(error), where=f"git {' '.join(arguments)}") from None


def run_git(folder: Path, *arguments: str, text: str = "", variables: Mapping[str, str] | None = None) -> str:
    """Run git as `call_git` does, and return what it printed.

    Raises
    ------
    RepositoryError
        It ended with an error; the message has git's own.
    """
    return _run(folder, *arguments, text=text, variables=variables).decode(errors="surrogateescape")


def read_blob(folder: Path, commit: str, name: str | Path) -> bytes:
    """Return the content of a file of a commit.

    Raises
    ------
    RepositoryError
        The commit has no such file.
    """
    return _run(folder, "cat-file", "blob", f"{commit}:{name}")


def find_prefix(root: Path) -> str:
    """Return the path of a folder below the top of its git repository, with a `/` at its end; empty at the top.

    Without git or a repository it is empty as well.
    """
    try:
        answer = call_git(root, "rev-parse", "--show-prefix")
    except FileNotFoundError:
        return ""
    return os.fsdecode(answer.stdout).removesuffix("\n") if answer.returncode == 0 else ""


def find_blob(folder: Path, commit: str, name: str) -> str | None:
    """Return git's hash of a file of a commit; None if the commit has no such file."""
    answer = call_git(folder, "rev-parse", "--verify", "--quiet", f"{commit}:{name}")
    return answer.stdout.decode().strip() if answer.returncode == 0 else None


def _run(folder: Path, *arguments: str, text: str = "", variables: Mapping[str, str] | None = None) -> bytes:
    answer = call_git(folder, *arguments, text=text, variables=variables)
    if answer.returncode:
        message = " ".join(answer.stderr.decode(errors="replace").split())
        raise RepositoryError(message, where=f"git {' '.join(arguments)}")
    return answer.stdout


def find_commit(folder: Path, revision: str) -> str | None:
    """Return the commit of a revision; None if there is none."""
    try:
        return run_git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()
    except RepositoryError:
        return None


def is_ancestor(folder: Path, commit: str, of: str) -> bool:
    """Return whether a commit is another one, or one of its ancestors."""
    return run_git(folder, "rev-list", "--max-count=1", commit, f"^{of}") == ""


def list_files(folder: Path, commit: str, paths: Sequence[str] = ()) -> list[str]:
    """Return those files of a commit that are, or are below, one of `paths`; all without any."""
    return run_git(folder, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, "--", *paths).split("\0")[:-1]


def read_trailers(folder: Path, commit: str) -> dict[str, str]:
    """Return the trailers of a commit's message by their names."""
    lines = run_git(folder, "log", "-1", "--format=%(trailers:only,unfold)", commit).splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def add_worktree(root: Path, folder: Path, base: str, head: str, paths: Sequence[str]) -> None:
    """Make a worktree with the files of one commit, and HEAD, detached, at another one, which `paths` come from."""
    remove_worktree(root, folder)
    run_git(root, "worktree", "add", "--quiet", "--detach", "--no-checkout", str(folder), head)
    run_git(folder, "read-tree", "--reset", "-u", base)
    if paths and (names := list_files(folder, head, paths)):
        listed = "".join(f":(literal){name}\n" for name in names)
        run_git(folder, "checkout", "--quiet", head, "--pathspec-from-file=-", text=listed)


def remove_worktree(root: Path, folder: Path) -> None:
    """Remove a worktree, also one that a killed run made or removed in part."""
    if folder.exists():
        shutil.rmtree(folder)
    for administration in find_git_folder(root).glob("worktrees/*"):
        link = administration / "gitdir"
        # One that was killed before it wrote where its worktree is has the worktree's name, maybe with a number.
        is_half = not link.exists() and re.fullmatch(rf"{re.escape(folder.name)}\d*", administration.name)
        if is_half or (link.exists() and Path(os.fsdecode(link.read_bytes()).strip()) == folder / ".git"):
            shutil.rmtree(administration)


def find_git_folder(root: Path) -> Path:
    """Return git's own folder, that of the main repository if `root` is a worktree of it."""
    return Path(run_git(root, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())


def check_branch_is_free(root: Path, branch: str) -> None:
    """Raise `RepositoryError` if a branch is checked out: there it must not move."""
    worktree = ""
    for line in run_git(root, "worktree", "list", "--porcelain").splitlines():
        key, _, value = line.partition(" ")
        if key == "worktree":
            worktree = value
        elif (key, value) == ("branch", f"refs/heads/{branch}"):
            raise RepositoryError(
                where=branch,
                wanted="a branch that is not checked out",
                got=f"one that is checked out in {worktree}",
                advice="`git switch` to another branch there, or name another one in retrain.branch",
            )


def is_branch_name(root: Path, name: str) -> bool:
    """Return whether git accepts a text as the name of a branch; a shorthand such as `@{-1}` is no name."""
    try:
        return run_git(root, "check-ref-format", "--branch", name).rstrip("\n") == name
    except RepositoryError:
        return False


def check_refs_can_move(root: Path, commit: str, refs: Mapping[str, str | None]) -> None:
    """Let git prepare to set refs to a commit, then abort: what it would refuse is an error now.

    Parameters
    ----------
    commit
        Any that is there.
    refs
        Where each ref is, by its full name; None where there is none yet.

    Raises
    ------
    RepositoryError
        A killed git left a lock, or git refuses for another reason.
    """
    lines = [f"update {ref} {commit} {before or ABSENT}" for ref, before in refs.items()]
    timeouts = [f"core.{name}Timeout={PATIENCE_SECONDS * 1000:.0f}" for name in ("filesRefLock", "packedRefs")]
    options = [part for timeout in timeouts for part in ("-c", timeout)]
    try:
        run_git(root, *options, "update-ref", "--stdin", text="\n".join(["start", *lines, "prepare", "abort", ""]))
        lock = _wait_for_lock(find_git_folder(root) / "packed-refs.lock")  # which not every update of a ref takes
    except RepositoryError as error:
        match = re.search(r"Unable to create '(.+\.lock)': File exists", str(error))
        if not match:
            reason = str(error).partition("fatal: ")[2] or str(error)
            raise RepositoryError(f"git refuses it: {reason}") from None
        lock = Path(match[1])
    if lock:
        raise RepositoryError(
            where=lock,
            wanted="no lock of git",
            got="one that a killed git left or a running git holds",
            advice="remove it if no git runs here",
        )


def _wait_for_lock(lock: Path) -> Path | None:
    """Wait until a lock is gone; return it if it stays."""
    end = time.monotonic() + PATIENCE_SECONDS
    while lock.exists():
        if time.monotonic() > end:
            return lock
        time.sleep(0.1)
    return None


def write_commit(folder: Path, parents: Sequence[str], message: str) -> str:
    """Commit the files of a worktree, all but the ignored ones, to no branch; return the commit."""
    run_git(folder, "add", "--all")
    return commit_tree(folder, run_git(folder, "write-tree").strip(), parents, message)


def commit_tree(folder: Path, tree: str, parents: Sequence[str], message: str) -> str:
    """Make a commit of a tree."""
    options = [part for parent in parents for part in ("-p", parent)]
    arguments = ["commit-tree", tree, *options, "-F", "-"]
    return run_git(folder, *arguments, text=message, variables=_choose_identity(folder)).strip()


def merge(root: Path, revision: str, message: str) -> list[str]:
    """Merge a revision into the branch that is checked out; return the files in conflict, and then nothing is changed.

    Raises
    ------
    RepositoryError
        Git refuses, such as because a file that it does not track is in the way.
    """
    try:
        run_git(root, "merge", "--quiet", "-m", message, revision, variables=_choose_identity(root))
    except RepositoryError:
        conflicts = run_git(root, "diff", "--name-only", "--diff-filter=U", "-z").split("\0")[:-1]
        if find_commit(root, "MERGE_HEAD"):
            run_git(root, "merge", "--abort")
        if not conflicts:
            raise
        return conflicts
    return []


def add_tag(root: Path, tag: str, commit: str, message: str) -> None:
    """Make an annotated tag, unless there is one of that name."""
    if find_commit(root, f"refs/tags/{tag}") is None:
        arguments = ["tag", "--annotate", "-F", "-", tag, commit]
        run_git(root, *arguments, text=message, variables=_choose_identity(root))


def _choose_identity(folder: Path) -> dict[str, str]:
    """Return the variables that name the committer if git does not know one: a server often has no name."""
    try:
        run_git(folder, "config", "user.email")
    except RepositoryError:
        names = {"NAME": "relearn", "EMAIL": "relearn@localhost"}
        return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in names.items()}
    return {}


def move_branch(root: Path, branch: str, commit: str, before: str | None) -> None:
    """Move a branch to a commit if it still is at `before`; None if it did not exist.

    Raises
    ------
    RepositoryError
        It was moved meanwhile.
    """
    run_git(root, "update-ref", "-m", "relearn", f"refs/heads/{branch}", commit, before or ABSENT)


def format_message(subject: str, body: str, trailers: Mapping[str, str]) -> str:
    """Return the message of a commit."""
    paragraphs = [subject, body, "\n".join(f"{name}: {value}" for name, value in trailers.items())]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"
