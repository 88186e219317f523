import pytest
from typer.testing import CliRunner

from conftest import ROOT, commit, git
from relearn import cli
from relearn.commands import release
from relearn.errors import CommandFailed, RepositoryError
from relearn.repository.lock import LOCK, hold_lock
from relearn.retraining import adoption
from relearn.retraining.adoption import adopt
from relearn.retraining.start import find_start, has_new_base
from retrainings import BETTER, BRANCH, FIRST, PARAMS, WORSE, retrain

DATA = "data/raw/photos.dvc"


@pytest.fixture
def checked_out(monkeypatch):
    """Without DVC: the calls of its checkout, and what it finds changed."""
    calls, changed = [], []
    monkeypatch.setattr(adoption, "_check_out", calls.append)
    monkeypatch.setattr(adoption, "list_changed_data", lambda _: changed)
    return calls, changed


def test_the_production_model_comes_into_the_branch(root, checked_out):
    retrain(root, 1, FIRST)
    retrain(root, 2, BETTER)
    retrain(root, 3, WORSE)
    (root / "untracked").write_text("stays")
    assert adopt(root, BRANCH, None) == ["classifier@v2.0.0 is merged into main, and its files are checked out"]
    assert (root / DATA).read_text() == "outs: [{md5: '2', path: photos}]"
    assert git(root, "rev-parse", "HEAD") == git(root, "rev-parse", "classifier@v2.0.0^{commit}")
    assert not has_new_base(root, find_start(root, "main", PARAMS))
    assert adopt(root, BRANCH, "v1") == ["main has classifier@v1.0.0 already, and its files are checked out"]
    assert len(checked_out[0]) == 2
    assert git(root, "status", "--porcelain") == "?? untracked\n"


def test_the_branch_keeps_its_own_commits(root, checked_out, monkeypatch):
    retrain(root, 1, FIRST)
    (root / "code").write_text("2")
    commit(root)
    for role in ("AUTHOR", "COMMITTER"):  # a server has no name
        monkeypatch.delenv(f"GIT_{role}_NAME", raising=False)
    adopt(root, BRANCH, "classifier@v1.0.0")
    assert (root / "code").read_text() == "2"
    assert git(root, "log", "-1", "--format=%s") == "Merge classifier@v1.0.0\n"


def refuse(root, pattern, name=None):
    """Assert that nothing is adopted, and that nothing changed."""
    before = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")
    with pytest.raises(RepositoryError, match=pattern):
        adopt(root, BRANCH, name)
    assert (git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")) == before


def test_what_stands_in_the_way_is_one_line_and_changes_nothing(root, checked_out):
    refuse(root, r"^retrain/main: no classifier was promoted there yet; `make retrain` first$")
    retrain(root, 1, FIRST)
    refuse(root, r"^v7: wanted one of classifier@v1.0.0, got no such version$", "v7")
    (root / "code").write_text("in the middle of")
    refuse(root, r"^wanted a working copy without changes, got changes in code; commit them \(data with `dvc add`")
    git(root, "checkout", "--quiet", "code")
    checked_out[1].append("data/raw/photos")
    refuse(root, r"^wanted a working copy without changes, got changes in data/raw/photos; commit them \(data")
    checked_out[1].clear()
    (root / DATA).write_text("outs: [{md5: person, path: photos}]")
    commit(root)
    refuse(
        root,
        r"^main: wanted a merge of classifier@v1.0.0 without a conflict, got conflicts in data/raw/photos.dvc; nothing "
        r"is changed; `git merge classifier@v1.0.0` by hand, then `dvc checkout`$",
    )
    with hold_lock(root / LOCK, "make repro"), pytest.raises(Exception, match=r"^make repro already runs \(pid "):
        adopt(root, BRANCH, None)
    git(root, "switch", "--quiet", "--detach")
    refuse(root, r"^wanted a branch of your own that is checked out, got none \(a detached HEAD\); `git switch main`$")
    git(root, "switch", "--quiet", BRANCH)
    refuse(root, r"^wanted a branch of your own that is checked out, got retrain/main; `git switch main`$")
    assert checked_out[0] == []


def test_a_file_that_git_does_not_track_is_not_overwritten(root, checked_out):
    retrain(root, 1, FIRST)
    git(root, "switch", "--quiet", BRANCH)
    (root / "notes").write_text("of the records")
    commit(root)
    git(root, "tag", "--force", "classifier@v1.0.0")
    git(root, "switch", "--quiet", "main")
    (root / "notes").write_text("of a person")
    refuse(
        root, r"^git merge .*: error: The following untracked working tree files would be overwritten by merge: notes"
    )
    assert (root / "notes").read_text() == "of a person"


def test_two_histories_are_named(root, checked_out):
    retrain(root, 1, FIRST)
    git(root, "switch", "--quiet", "--orphan", "other")
    (root / ".gitignore").write_text("/release/\n/worktree/\n/.relearn/\n")
    commit(root)
    refuse(
        root, r"^other: wanted a history in common with classifier@v1.0.0, got none; `git switch` to the branch that"
    )


@pytest.mark.slow
def test_files_that_dvc_cannot_bring_are_named_after_the_merge(root, monkeypatch):
    """This repository is none of DVC's."""
    monkeypatch.setattr(adoption, "list_changed_data", lambda _: [])
    retrain(root, 1, FIRST)
    with pytest.raises(CommandFailed, match=r"^dvc checkout: .*; the merge is done; `dvc pull` may bring the files$"):
        adopt(root, BRANCH, None)
    assert git(root, "rev-parse", "HEAD") == git(root, "rev-parse", BRANCH)


def test_the_command_reads_the_branch_of_the_records(root, checked_out, monkeypatch):
    monkeypatch.setattr(release, "enter_root", lambda: root)
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    commit(root)
    retrain(root, 1, FIRST)
    answer = CliRunner().invoke(cli.app, ["adopt", "v1"])
    assert answer.stdout == "classifier@v1.0.0 is merged into main, and its files are checked out\n", answer
