import pytest

from conftest import commit, git
from relearn.repository.git import read_blob
from relearn.retraining import versions
from retrainings import PIPELINE, write_candidate


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository without DVC: what a retraining needs of it is in git."""
    root = tmp_path / "main"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / ".gitignore").write_text("/release/\n/worktree/\n/.relearn/\n")
    (root / "code").write_text("1")
    write_candidate(root, 0)
    commit(root)
    monkeypatch.setattr(versions, "read_committed", read_blob)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def folder(tmp_path):
    """A landing folder with one good file."""
    (tmp_path / "landing" / "good").mkdir(parents=True)
    (tmp_path / "landing" / "good" / "1.png").write_bytes(b"one")
    return tmp_path / "landing"
