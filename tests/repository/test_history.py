from pathlib import Path

import pytest

from conftest import commit, git
from relearn.errors import IntegrityError
from relearn.repository.history import iterate_committed

REPORT = Path("reports/report.json")


def read_committed():
    return [content for _, content in iterate_committed(REPORT)]


def write(text):
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text)


def test_newest_comes_first(workspace):
    git(workspace, "init", "--quiet")
    for text in ("one", "two", "two", "three"):
        write(text)
        commit(workspace)
    write("not committed")
    assert read_committed() == [b"three", b"two", b"one"]
    newest, _ = next(iterate_committed(REPORT))
    assert newest == git(workspace, "rev-parse", "HEAD").strip()


def test_commit_that_took_the_file_away_is_passed_over(workspace):
    git(workspace, "init", "--quiet")
    write("one")
    commit(workspace)
    REPORT.unlink()
    commit(workspace)
    assert read_committed() == [b"one"]


def test_repository_may_be_further_up(workspace, monkeypatch):
    git(workspace, "init", "--quiet")
    (workspace / "inner").mkdir()
    monkeypatch.chdir(workspace / "inner")
    write("one")
    commit(workspace)
    assert read_committed() == [b"one"]


def test_nothing_where_there_is_no_history(workspace, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    monkeypatch.setenv("LANGUAGE", "de")
    assert read_committed() == []
    git(workspace, "init", "--quiet")
    assert read_committed() == []
    commit(workspace)
    assert read_committed() == []
    monkeypatch.setenv("PATH", "")
    assert read_committed() == []


def test_broken_repository_is_told(workspace):
    git(workspace, "init", "--quiet")
    write("one")
    commit(workspace)
    (workspace / ".git" / "config").write_text("[core\n")
    with pytest.raises(
        IntegrityError, match=r"report\.json: earlier versions cannot be read: git rev-list .*: fatal: bad config"
    ):
        read_committed()
