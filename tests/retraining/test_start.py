import pytest

from conftest import commit, git
from relearn.errors import IntegrityError, RepositoryError
from relearn.repository import git as git_module
from relearn.repository.git import add_worktree, find_commit, move_branch, run_git
from relearn.retraining.arrivals import Waiting
from relearn.retraining.start import (
    check_refs,
    find_start,
    follow_remote,
    has_new_base,
    hash_waiting,
    keep_fruitless,
    list_kept_files,
    was_fruitless,
)
from retrainings import BETTER, BRANCH, FIRST, PARAMS, WORSE, read_current, retrain, show


def test_what_is_not_promoted_is_recorded_and_not_begun_from(root):
    retrain(root, 1, FIRST)
    made, version = retrain(root, 2, WORSE, "a" * 64)
    assert version == "v1"
    assert read_current(root) == ("v1", "head 1")
    assert show(root, made, "metrics/evaluation.json") == "metrics 2"
    start = find_start(root, "main", PARAMS)
    assert start.production == find_commit(root, "classifier@v1.0.0")
    assert start.record.landing_sha256 == "a" * 64
    add_worktree(root, root / "worktree", start.base, start.production, list_kept_files(root, start))
    assert (root / "worktree" / "data" / "raw" / "photos.dvc").read_text() == "outs: [{md5: '1', path: photos}]"
    assert (root / "worktree" / "dvc.lock").read_text() == "lock 1"
    # An evaluation image of the production model stays one.
    assert (root / "worktree" / "data" / "splits.csv").read_text() == "splits 1"
    assert show(root, "classifier@v1.0.0", "data/splits.csv") == "splits 1"
    assert (root / "worktree" / "reports" / "predictions.csv").read_text() == "predictions 1"
    assert retrain(root, 3, BETTER, "a" * 64)[1] == "v2"
    assert read_current(root) == ("v2", "head 3")
    start = find_start(root, "main", PARAMS)
    assert (start.production, start.record.landing_sha256) == (start.record.commit, "a" * 64)


def test_what_brought_nothing_is_remembered_until_the_next_record(root):
    retrain(root, 1, FIRST, "a" * 64)
    start = find_start(root, "main", PARAMS)
    waiting = [Waiting("a.skip.png", "1")]
    left = hash_waiting(waiting)
    assert not was_fruitless(root, start, left)
    keep_fruitless(root, start, waiting)
    assert was_fruitless(root, start, left)
    assert not was_fruitless(root, start, hash_waiting([Waiting("a.skip.png", "2")]))
    retrain(root, 2, WORSE, "a" * 64)
    assert not was_fruitless(root, find_start(root, "main", PARAMS), left)


def test_the_base_is_run_as_it_is_with_the_data_in_use(root):
    retrain(root, 1, FIRST)
    (root / "code").write_text("2")
    commit(root)
    start = find_start(root, "main", PARAMS)
    assert has_new_base(root, start)
    made, _ = retrain(root, 2, WORSE)
    assert show(root, made, "code") == "2"
    assert run_git(root, "log", "-1", "--format=%P", made).split() == [start.tip, start.base]
    assert not has_new_base(root, find_start(root, "main", PARAMS))
    assert "data/raw/photos.dvc" in list_kept_files(root, find_start(root, "main", PARAMS))
    git(root, "merge", "--quiet", BRANCH)  # a person takes the branch over: nothing is new by that
    assert not has_new_base(root, find_start(root, "main", PARAMS))


def test_data_that_was_changed_in_the_base_is_the_bases(root):
    retrain(root, 1, FIRST)
    git(root, "merge", "--quiet", "classifier@v1.0.0")
    (root / "data" / "raw" / "photos.dvc").write_text("outs: [{md5: person, path: photos}]")
    commit(root)
    assert "data/raw/photos.dvc" not in list_kept_files(root, find_start(root, "main", PARAMS))
    assert "dvc.lock" in list_kept_files(root, find_start(root, "main", PARAMS))


def test_data_that_was_changed_in_two_ways_is_told(root):
    retrain(root, 1, FIRST)
    (root / "data" / "raw" / "photos.dvc").write_text("outs: [{md5: person, path: photos}]")
    commit(root)
    with pytest.raises(
        RepositoryError,
        match=r"^data/raw/photos.dvc: both the base and retraining changed it since .*; merge classifier@v1.0.0 into",
    ):
        list_kept_files(root, find_start(root, "main", PARAMS))


@pytest.mark.parametrize(
    "content", ["stages: [1]", "stages: {evaluate: {outs: 3}}", "stages: {evaluate: {outs: [3]}}", "stages: {a: null}"]
)
def test_damaged_pipeline_is_reported(root, content):
    retrain(root, 1, FIRST)
    (root / "dvc.yaml").write_text(content)
    commit(root)
    with pytest.raises(IntegrityError, match=r"^[0-9a-f]{12}:dvc.yaml: stages.*: wanted a .*; commit a whole file$"):
        list_kept_files(root, find_start(root, "main", PARAMS))


def test_small_outputs_come_from_the_version_in_use(root):
    """However `dvc.yaml` writes them; it may hold dates."""
    retrain(root, 1, FIRST)
    git(root, "merge", "--quiet", "classifier@v1.0.0")
    (root / "dvc.yaml").write_text(
        "stages:\n  a: {cmd: x, meta: {added: 2026-01-01}, outs: [b, {c: {cache: false}}, {d: {push: false}}],\n"
        "    plots: [{e: {cache: false}}, {f: [{x: 1}]}], metrics: null}\n"
        "  g: {foreach: [1], do: {cmd: x, outs: [{h: {cache: false}}]}}\n"
    )
    commit(root)
    kept = list_kept_files(root, find_start(root, "main", PARAMS))
    assert kept == ["data/raw/photos.dvc", "dvc.lock", "c", "e", "h"]


def test_a_clone_begins_with_the_branch_of_its_remote(root, tmp_path):
    made, _ = retrain(root, 1, FIRST)
    git(tmp_path, "clone", "--quiet", str(root), "clone")
    start = find_start(tmp_path / "clone", "main", PARAMS)
    assert (start.tip, start.version) == (made, "v1")
    assert find_commit(tmp_path / "clone", BRANCH) == made


@pytest.mark.parametrize("name", ["refs/heads/retrain/main", "refs/tags/classifier@v2.0.0", "packed-refs"])
def test_a_lock_that_git_left_is_found_before_anything_is_computed(root, monkeypatch, name):
    monkeypatch.setattr(git_module, "PATIENCE_SECONDS", 0.1)
    retrain(root, 1, FIRST)
    start = find_start(root, "main", PARAMS)
    before = run_git(root, "for-each-ref")
    check_refs(root, start, PARAMS.branch)
    assert run_git(root, "for-each-ref") == before
    lock = root / ".git" / f"{name}.lock"
    lock.touch()
    message = f"^{lock}: wanted no lock of git, got one that a killed git left or a running git holds; remove it if "
    with pytest.raises(RepositoryError, match=message):
        check_refs(root, start, PARAMS.branch)
    assert list((root / ".git").rglob("*.lock")) == [lock]


def test_a_branch_in_the_way_of_another_is_found_before_anything_is_computed(root):
    git(root, "branch", "retrain")
    message = (
        r"^retrain\.branch: retrain/main: git refuses it: .*'refs/heads/retrain' exists; cannot create 'refs/heads/"
    )
    with pytest.raises(RepositoryError, match=message):
        check_refs(root, find_start(root, "main", PARAMS), PARAMS.branch)


def test_records_of_a_remote_are_followed(root, tmp_path):
    retrain(root, 1, FIRST)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(root), "clone")
    params = PARAMS.model_copy(update={"git_remote": "origin"})
    find_start(clone, "main", params)
    made, _ = retrain(root, 2, BETTER)
    (root / "code").write_text("new")
    commit(root)
    git(clone, "fetch", "--quiet")
    follow_remote(clone, "origin", BRANCH)
    start = find_start(clone, "main", params)
    assert (start.tip, start.version) == (made, "v2")
    assert start.base == find_commit(root, "main") != find_commit(clone, "main")
    follow_remote(clone, "origin", BRANCH)
    retrain(root, 3, WORSE)
    git(clone, "fetch", "--quiet")
    move_branch(clone, BRANCH, find_commit(clone, "main"), made)
    git(clone, "-c", "user.name=t", "commit", "--allow-empty", "--quiet", "--message", "x")
    move_branch(clone, BRANCH, find_commit(clone, "main"), find_commit(clone, BRANCH))
    with pytest.raises(
        RepositoryError,
        match=r"^retrain/main: wanted the records of origin, got other ones; retrain in one clone only, ",
    ):
        follow_remote(clone, "origin", BRANCH)


def test_a_dry_run_creates_no_branch(root, tmp_path):
    retrain(root, 1, FIRST)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(root), "clone")
    start = find_start(clone, "main", PARAMS, is_dry=True)
    assert (start.version, git(clone, "branch", "--list", BRANCH)) == ("v1", "")
    assert find_start(clone, "main", PARAMS) == start
    assert git(clone, "branch", "--list", BRANCH) == f"  {BRANCH}\n"


def test_what_waits_is_told_apart_by_its_list():
    assert hash_waiting([]) is None
    one = hash_waiting([Waiting("a", "1")])
    assert len(one) == 64
    assert one != hash_waiting([Waiting("a", "2")]) != hash_waiting([Waiting("b", "2")])
