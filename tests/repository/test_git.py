import subprocess

import pytest

from conftest import commit, git
from relearn.errors import RepositoryError
from relearn.repository.git import (
    add_tag,
    add_worktree,
    check_branch_is_free,
    find_blob,
    find_commit,
    format_message,
    is_ancestor,
    list_files,
    move_branch,
    read_blob,
    read_trailers,
    remove_worktree,
    run_git,
    write_commit,
)


@pytest.fixture
def root(tmp_path):
    """A repository with two commits, of which the second changed `b`."""
    root = tmp_path / "main"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    (root / "a").write_text("1")
    (root / "b [x].txt").write_text("1")
    commit(root)
    (root / "b [x].txt").write_text("2")
    commit(root)
    return root


def read_state(root):
    files = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    return files, (root / ".git" / "index").read_bytes(), (root / ".git" / "HEAD").read_bytes()


def test_the_words_of_git_are_told(root):
    with pytest.raises(RepositoryError, match=r"^git show nothing: fatal: ambiguous argument 'nothing'"):
        run_git(root, "show", "nothing")


def test_git_speaks_english_whatever_the_locale(root, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")  # which counts for nothing in the locale C
    assert run_git(root, "-c", "alias.show-locale=!printenv LC_ALL", "show-locale") == "C\n"


def test_names_are_the_same_in_every_locale(root):
    (root / "Übung.txt").write_text("1")
    commit(root)
    assert list_files(root, "HEAD", ["Übung.txt"]) == ["Übung.txt"]
    message = format_message("Übung", "日本", {"Verdict": "größer"})
    made = write_commit(root, [find_commit(root, "HEAD")], message)
    assert run_git(root, "log", "-1", "--format=%B", made).strip() == message.strip()
    assert read_trailers(root, made) == {"Verdict": "größer"}


@pytest.mark.parametrize("revision", ["main\0", "\ud800", "a\nb"])
def test_a_revision_that_no_command_can_name_is_none(root, revision):
    assert find_commit(root, revision) is None


def test_a_worktree_has_the_files_of_one_commit_and_some_of_another(root, tmp_path):
    before = read_state(root)
    (root / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch hooked\n")
    (root / ".git" / "hooks" / "post-checkout").chmod(0o755)
    folder = tmp_path / "worktree"
    first, second = find_commit(root, "HEAD~"), find_commit(root, "HEAD")
    add_worktree(root, folder, second, first, ["b [x].txt", "nothing"])
    assert ((folder / "a").read_text(), (folder / "b [x].txt").read_text()) == ("1", "1")
    assert find_commit(folder, "HEAD") == first
    (folder / "new").write_text("3")
    made = write_commit(folder, [second, first], format_message("S", "B: C", {"Verdict": "better", "In-use": "v2"}))
    assert list_files(root, made) == ["a", "b [x].txt", "new"]
    assert list_files(root, made, ["b [x].txt"]) == ["b [x].txt"]
    assert read_trailers(root, made) == {"Verdict": "better", "In-use": "v2"}
    remove_worktree(root, folder)
    assert not folder.exists()
    assert not list((root / ".git" / "worktrees").glob("*"))
    assert read_state(root) == before
    assert not list(tmp_path.rglob("hooked"))


@pytest.mark.parametrize("left", ["nothing", "no folder", "no link", "no administration", "half"])
def test_a_worktree_that_was_left_halfway_is_made_again(root, tmp_path, left):
    folder = tmp_path / "worktree"
    administration = root / ".git" / "worktrees" / "worktree"
    add_worktree(root, folder, "HEAD", "HEAD", [])
    match left:
        case "no folder":
            subprocess.run(["rm", "-r", folder], check=True)
        case "no link":
            (folder / ".git").unlink()
        case "no administration":
            subprocess.run(["rm", "-r", administration], check=True)
        case "half":
            (administration / "gitdir").unlink()
            (administration / "locked").write_text("initializing")
    add_worktree(root, folder, "HEAD", "HEAD", [])
    assert (folder / "a").read_text() == "1"
    assert [path.name for path in (root / ".git" / "worktrees").iterdir()] == ["worktree"]


def test_another_ones_worktree_stays(root, tmp_path):
    theirs = [tmp_path / "worktree-theirs", tmp_path / "elsewhere" / "worktree"]
    for number, folder in enumerate(theirs):
        git(root, "worktree", "add", "--quiet", str(folder), "-b", f"theirs-{number}")
    add_worktree(root, tmp_path / "worktree", "HEAD", "HEAD", [])
    remove_worktree(root, tmp_path / "worktree")
    for folder in theirs:
        assert (folder / "a").read_text() == "1"
        git(folder, "status")


def test_a_branch_moves_only_from_where_it_was_seen(root):
    first, second = find_commit(root, "HEAD~"), find_commit(root, "HEAD")
    move_branch(root, "retrain/main", first, None)
    with pytest.raises(RepositoryError, match="update-ref"):
        move_branch(root, "retrain/main", second, None)
    with pytest.raises(RepositoryError, match="update-ref"):
        move_branch(root, "retrain/main", second, second)
    move_branch(root, "retrain/main", second, first)
    assert find_commit(root, "retrain/main") == second
    assert find_commit(root, "nowhere") is None
    assert is_ancestor(root, first, second)
    assert is_ancestor(root, first, first)
    assert not is_ancestor(root, second, first)


def test_a_branch_that_is_checked_out_is_told(root, tmp_path):
    check_branch_is_free(root, "retrain/main")
    git(root, "worktree", "add", "--quiet", str(tmp_path / "theirs"), "-b", "retrain/main")
    with pytest.raises(RepositoryError, match=r"^retrain/main: wanted .* checked out in .*/theirs; `git switch`"):
        check_branch_is_free(root, "retrain/main")


def test_commits_need_no_name_of_a_person(root, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{name}_NAME", raising=False)
        monkeypatch.delenv(f"GIT_{name}_EMAIL", raising=False)
    monkeypatch.delenv("EMAIL", raising=False)
    made = write_commit(root, ["HEAD"], "x")
    add_tag(root, "t", made, "told")
    add_tag(root, "t", "HEAD~", "again")
    assert find_commit(root, "t") == made
    assert run_git(root, "log", "-1", "--format=%an <%ae>", made) == "relearn <relearn@localhost>\n"
    git(root, "config", "user.email", "me@example.org")
    git(root, "config", "user.name", "Me")
    assert run_git(root, "log", "-1", "--format=%an", write_commit(root, ["HEAD"], "y")) == "Me\n"


def test_a_blob_is_read_byte_for_byte(root):
    content = b"\xff\r\n\r\x00\n"
    (root / "c").write_bytes(content)
    commit(root)
    assert read_blob(root, "HEAD", "c") == content
    assert find_blob(root, "HEAD", "c") == run_git(root, "hash-object", "c").strip()
    assert find_blob(root, "HEAD~1", "c") is None
    with pytest.raises(RepositoryError, match=r"^git cat-file blob HEAD~1:c: fatal: "):
        read_blob(root, "HEAD~1", "c")
