import json
import os
import shutil

import pytest

from conftest import ROOT, commit, git
from relearn import paths
from relearn.dataset.manifest import Exclusion, ManifestRow, SourceDetails, write_manifest
from relearn.errors import AbsentFile, IntegrityError, ParamsError, RepositoryError
from relearn.params import read_params
from relearn.repository import git as repository
from relearn.repository.git import (
    add_worktree,
    find_commit,
    format_message,
    move_branch,
    read_trailers,
    run_git,
    write_commit,
)
from relearn.retraining import records as retraining
from relearn.retraining.candidate import IMAGES_HEADER
from relearn.retraining.landing import Waiting
from relearn.retraining.records import (
    align_release,
    check_refs,
    check_version,
    choose_version,
    describe_old_news,
    find_start,
    follow_remote,
    has_new_base,
    hash_sources,
    hash_waiting,
    keep_fruitless,
    list_gone,
    list_imports,
    list_kept_files,
    publish_record,
    read_settings,
    roll_back,
    was_fruitless,
    was_tried,
    write_record,
)
from relearn.storage.files import read_csv, write_csv

PARAMS = read_params(ROOT / "params.yaml").retrain
BRANCH = PARAMS.branch
PIPELINE = """
stages:
  evaluate:
    cmd: x
    outs:
    - data/features
    - reports/predictions.csv: {cache: false}
    - models/classifier
    metrics:
    - metrics/evaluation.json: {cache: false}
"""
FIRST = {"promoted": True, "verdict": "first", "reason": "no classifier was in use", "failed_checks": []}
WORSE = {"promoted": False, "verdict": "worse", "reason": "of 10", "failed_checks": []}
BETTER = {"promoted": True, "verdict": "better", "reason": "of 10", "failed_checks": []}
BLOCKED = {"promoted": False, "verdict": "blocked by data", "reason": "1 failed", "failed_checks": ["classes"]}


def write_candidate(folder, number):
    """Write what a run of the pipeline leaves, another one for each number; here git has all of it."""
    files = {
        "data/raw/photos.dvc": f"outs: [{{md5: '{number}', path: photos}}]",
        "dvc.lock": f"lock {number}",
        "data/manifest.csv": f"sha256,split\n{number:064x},training\n{'f' * 64},evaluation\n",
        "models/classifier/head.onnx": f"head {number}",
        "models/classifier/classifier.json": json.dumps({"record_sha256": str(number)}),
        "metrics/evaluation.json": f"metrics {number}",
        "reports/predictions.csv": f"predictions {number}",
        "reports/validation.json": f"validation {number}",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


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
    monkeypatch.setattr(
        retraining, "read_committed", lambda root, rev, path: run_git(root, "show", f"{rev}:{path}").encode()
    )
    monkeypatch.chdir(root)
    return root


def retrain(root, number, contest, landing_sha256=None, publish=True):
    """Go through a retraining whose pipeline makes candidate `number`."""
    start = find_start(root, "main", PARAMS)
    worktree = root / "worktree"
    add_worktree(root, worktree, start.base, start.in_use or start.base, list_kept_files(root, start))
    write_candidate(worktree, number)
    made, version = write_record(root, worktree, start, contest, landing_sha256)
    if publish:
        publish_record(root, BRANCH, made, start.tip)
    return made, version


def format_trailers(**changes):
    """Return a message with all the trailers of a record, `In_use` for In-use."""
    trailers = {"Verdict": "better", "In-use": "v1", "Base": "b", "Data-sha256": "none", "Landing-sha256": "none"}
    return format_message("Record", "", trailers | {key.replace("_", "-"): value for key, value in changes.items()})


def note_on_top(root, message, branch=BRANCH):
    """Commit on the branch of records as a person would."""
    git(root, "switch", "--quiet", branch)
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)
    git(root, "switch", "--quiet", "main")


def read_current(root):
    current = root / paths.RELEASE / "current"
    return os.readlink(current).split("/")[-1], (current / "head.onnx").read_text()


def show(root, revision, name):
    return run_git(root, "show", f"{revision}:{name}")


def test_the_first_is_recorded_tagged_and_in_use(root):
    start = find_start(root, "main", PARAMS)
    assert (start.tip, start.record, start.in_use, start.version) == (None, None, None, None)
    assert has_new_base(root, start)
    made, version = retrain(root, 1, FIRST)
    assert version == "v1"
    assert read_current(root) == ("v1", "head 1")
    images = read_csv(root / "release" / "current" / "images.csv", IMAGES_HEADER)
    assert images == [[f"{1:064x}", "training"], ["f" * 64, "evaluation"]]
    start = find_start(root, "main", PARAMS)
    assert start.tip == start.in_use == start.record.commit == made
    assert (start.version, start.record.verdict, start.record.landing_sha256) == ("v1", "first", None)
    assert not has_new_base(root, start)
    assert run_git(root, "cat-file", "-t", "classifier@v1.0.0") == "tag\n"
    message = run_git(root, "log", "-1", "--format=%B", made)
    assert message.startswith(
        "Promote classifier@v1.0.0: first\n\nno classifier was in use\n\nVerdict: first\nPromoted: v1\nIn-use"
    )
    assert "\nData-sha256: " in message


def test_what_is_not_promoted_is_recorded_and_not_begun_from(root):
    retrain(root, 1, FIRST)
    made, version = retrain(root, 2, WORSE, "a" * 64)
    assert version == "v1"
    assert read_current(root) == ("v1", "head 1")
    assert show(root, made, "metrics/evaluation.json") == "metrics 2"
    start = find_start(root, "main", PARAMS)
    assert start.in_use == find_commit(root, "classifier@v1.0.0")
    assert start.record.landing_sha256 == "a" * 64
    assert was_tried(start, "a" * 64)
    assert not was_tried(start, "b" * 64)
    assert describe_old_news(start, "a" * 64) == (f"nothing new: what came was tried before, worse ({made[:12]})")
    assert describe_old_news(start, None) == "nothing new"
    add_worktree(root, root / "worktree", start.base, start.in_use, list_kept_files(root, start))
    assert (root / "worktree" / "data" / "raw" / "photos.dvc").read_text() == "outs: [{md5: '1', path: photos}]"
    assert (root / "worktree" / "dvc.lock").read_text() == "lock 1"
    assert (root / "worktree" / "reports" / "predictions.csv").read_text() == "predictions 1"
    assert retrain(root, 3, BETTER, "a" * 64)[1] == "v2"
    assert read_current(root) == ("v2", "head 3")
    assert not was_tried(find_start(root, "main", PARAMS), "a" * 64)  # a kill has kept it from being taken away


def test_what_brought_nothing_is_remembered_until_the_next_record(root):
    retrain(root, 1, FIRST, "a" * 64)
    start = find_start(root, "main", PARAMS)
    waiting = [Waiting("a.skip.png", "1")]
    left = hash_waiting(waiting)
    assert not was_fruitless(root, start, left)
    keep_fruitless(root, start, waiting)
    assert was_fruitless(root, start, left)
    assert not was_fruitless(root, start, hash_waiting([Waiting("a.skip.png", "2")]))
    assert describe_old_news(start, left).startswith("nothing new: what waits brought nothing to an earlier run, ")
    retrain(root, 2, WORSE, "a" * 64)
    assert not was_fruitless(root, find_start(root, "main", PARAMS), left)


def test_where_a_gate_failed_its_report_is_all_that_is_new(root):
    retrain(root, 1, FIRST)
    made, _ = retrain(root, 2, BLOCKED)
    assert show(root, made, "reports/validation.json") == "validation 2"
    assert run_git(root, "diff", "--name-only", f"{made}~", made) == "reports/validation.json\n"
    assert find_start(root, "main", PARAMS).record.verdict == "blocked by data"


def test_a_first_run_may_be_blocked(root):
    retrain(root, 1, BLOCKED)
    start = find_start(root, "main", PARAMS)
    assert (start.version, start.in_use) == (None, None)
    assert not has_new_base(root, start)
    align_release(root, BRANCH)
    assert not (root / "release" / "current").exists()


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
        match=r"^data/raw/photos.dvc: was changed in the base and by retraining, .*: merge classifier@v1.0.0 into",
    ):
        list_kept_files(root, find_start(root, "main", PARAMS))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", IntegrityError, "^[0-9a-f]{12}:data/raw/photos.dvc: wanted a file of DVC, got nothing; commit a whole f"),
        ("[1]", IntegrityError, r"wanted a file of DVC, got \[1\]"),
        ("deps: 3", IntegrityError, "data/raw/photos.dvc: deps: wanted a valid list, got 3"),
        ("desc: \udcff", ParamsError, "^[0-9a-f]{12}:data/raw/photos.dvc: wanted YAML, got: "),
        ("outs: [", ParamsError, "^[0-9a-f]{12}:data/raw/photos.dvc: wanted YAML, got: "),
        ("a: " + "[" * 900, ParamsError, "data/raw/photos.dvc: line 1: wanted at most 20 levels of blocks and lists"),
    ],
)
def test_damaged_file_of_dvc_is_reported(root, content, error, message):
    (root / "data" / "raw" / "photos.dvc").write_text(content, errors="surrogateescape")
    commit(root)
    head = find_commit(root, "HEAD")
    assert hash_sources(root, head) == hash_sources(root)
    with pytest.raises(error, match=message):
        list_imports(root, head)


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


def test_tag_and_release_follow_after_a_kill(root):
    made, _ = retrain(root, 1, FIRST, publish=False)
    move_branch(root, BRANCH, made, None)  # and here it was killed
    align_release(root, BRANCH)
    assert read_current(root) == ("v1", "head 1")
    assert find_commit(root, "classifier@v1.0.0") == made
    shutil.rmtree(root / "release")  # a fresh clone has none
    align_release(root, BRANCH)
    assert read_current(root) == ("v1", "head 1")
    (root / "release" / "current").unlink()
    (root / "release" / "current").symlink_to("versions/v9")
    align_release(root, BRANCH)
    assert read_current(root) == ("v1", "head 1")


def test_a_clone_begins_with_the_branch_of_its_remote(root, tmp_path):
    made, _ = retrain(root, 1, FIRST)
    git(tmp_path, "clone", "--quiet", str(root), "clone")
    start = find_start(tmp_path / "clone", "main", PARAMS)
    assert (start.tip, start.version) == (made, "v1")
    assert find_commit(tmp_path / "clone", BRANCH) == made


def test_settings_are_those_that_are_committed(root):
    with pytest.raises(RepositoryError, match=r"^base: trunk: wanted a branch with a commit, got none of that name$"):
        read_settings(root, "trunk")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("margin: 0.01", "margin: 0.02"))
    commit(root)
    (root / "params.yaml").write_text("in the middle of")
    assert read_settings(root, "main").margin == 0.02
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("margin: 0.01", "margin: 2"))
    commit(root)
    with pytest.raises(ParamsError, match=r"^main:params.yaml: 1 wrong\n  retrain.margin: wanted less than 1, got 2"):
        read_settings(root, "main")


BAD_BRANCHES = [
    "a..b",
    "x.lock",
    "a//b",
    "a/",
    "a.",
    "a/.b",
    "a@{b",
    "@{-1}",
    "HEAD",
    "-x",
    "a b",
    "a\\\\b",
    "",
]


@pytest.mark.parametrize("branch", BAD_BRANCHES)
def test_a_branch_that_git_refuses_is_an_error_of_the_settings(root, branch):
    git(root, "switch", "--quiet", "--create", "earlier")  # which @{-1} names later on
    git(root, "switch", "--quiet", "main")
    text = (ROOT / "params.yaml").read_text()
    assert "branch: retrain/main " in text
    (root / "params.yaml").write_text(text.replace("branch: retrain/main ", f'branch: "{branch}" '))
    commit(root)
    with pytest.raises(ParamsError, match=r"^main:params.yaml: (1 wrong\s+)?retrain\.branch: wanted ") as raised:
        read_settings(root, "main")
    assert "hexadecimal" not in str(raised.value)


def test_settings_that_are_no_text_are_an_error(root):
    (root / "params.yaml").write_bytes(b"retrain: \xff")
    commit(root)
    with pytest.raises(ParamsError, match=r"^main:params.yaml: wanted YAML, got: "):
        read_settings(root, "main")


def test_a_branch_that_git_takes_is_taken(root):
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("retrain/main", "rétrain/a.b-c@d"))
    commit(root)
    assert read_settings(root, "main").branch == "rétrain/a.b-c@d"


@pytest.mark.parametrize("name", ["refs/heads/retrain/main", "refs/tags/classifier@v2.0.0", "packed-refs"])
def test_a_lock_that_git_left_is_found_before_anything_is_computed(root, monkeypatch, name):
    monkeypatch.setattr(repository, "PATIENCE_SECONDS", 0.1)
    retrain(root, 1, FIRST)
    start = find_start(root, "main", PARAMS)
    before = run_git(root, "for-each-ref")
    check_refs(root, start, PARAMS.branch)
    assert run_git(root, "for-each-ref") == before
    lock = root / ".git" / f"{name}.lock"
    lock.touch()
    message = f"^{lock}: a lock that git left when it was killed, or uses now; remove it if no git runs here$"
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


def test_what_keeps_a_record_from_being_published_is_said_as_it_is(root):
    """Not that the branch was moved, where it was not."""
    retrain(root, 1, FIRST)
    start = find_start(root, "main", PARAMS)
    made, _ = retrain(root, 2, BETTER, publish=False)
    (root / ".git" / "refs" / "heads" / "retrain" / "main.lock").touch()
    with pytest.raises(RepositoryError, match=r"^git update-ref .*main\.lock': File exists"):
        publish_record(root, BRANCH, made, start.tip)


def test_a_tag_that_is_missing_is_that_of_the_promotion(root):
    """A clone without tags, after a record that promoted nothing."""
    first, _ = retrain(root, 1, FIRST)
    retrain(root, 2, WORSE)
    git(root, "tag", "--delete", "classifier@v1.0.0")
    shutil.rmtree(root / "release")
    align_release(root, BRANCH)
    assert find_commit(root, "classifier@v1.0.0") == first
    assert read_current(root) == ("v1", "head 1")
    retrain(root, 3, BETTER)
    roll_back(root, BRANCH, None)
    git(root, "tag", "--delete", "classifier@v2.0.0")
    assert retrain(root, 4, BETTER)[1] == "v3"  # a number is never used again


def test_a_rollback_first_puts_right_what_a_kill_left(root):
    retrain(root, 1, FIRST)
    made, _ = retrain(root, 2, BETTER, publish=False)
    move_branch(root, BRANCH, made, find_commit(root, BRANCH))  # and here it was killed
    roll_back(root, BRANCH, None)
    assert find_commit(root, "classifier@v2.0.0") == made
    assert read_current(root) == ("v1", "head 1")


def test_a_branch_that_is_checked_out_is_not_moved(root):
    retrain(root, 1, FIRST)
    retrain(root, 2, BETTER)
    start = find_start(root, "main", PARAMS)
    git(root, "switch", "--quiet", BRANCH)
    with pytest.raises(RepositoryError, match="is checked out in"):
        roll_back(root, BRANCH, None)
    with pytest.raises(RepositoryError, match="is checked out in"):
        publish_record(root, BRANCH, start.tip, start.tip)
    assert git(root, "status", "--porcelain") == ""


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
        RepositoryError, match=r"^retrain/main: has other records here than on origin; retrain in one clone"
    ):
        follow_remote(clone, "origin", BRANCH)


def test_rollback_is_recorded_and_its_data_is_begun_from(root):
    with pytest.raises(RepositoryError, match="no classifier was promoted there yet"):
        roll_back(root, BRANCH, None)
    first, _ = retrain(root, 1, FIRST)
    with pytest.raises(RepositoryError, match=r"^classifier@v1.0.0 is in use, and there is none before it$"):
        roll_back(root, BRANCH, None)
    retrain(root, 2, BETTER, "a" * 64)
    with pytest.raises(RepositoryError, match=r"^v7: wanted one of classifier@v2.0.0, classifier@v1.0.0$"):
        roll_back(root, BRANCH, "v7")
    told, left = roll_back(root, BRANCH, None)
    assert told.startswith("classifier@v1.0.0 is in use, classifier@v2.0.0 is not any more; recorded as ")
    assert left.startswith("images of classifier@v2.0.0 that are not in the data of the next retraining: 1; ")
    assert read_current(root) == ("v1", "head 1")
    start = find_start(root, "main", PARAMS)
    assert (start.in_use, start.version, start.record.verdict) == (first, "v1", "rolled back")
    assert start.record.landing_sha256 == "a" * 64
    assert show(root, BRANCH, "metrics/evaluation.json") == "metrics 1"
    assert retrain(root, 3, BETTER)[1] == "v3"
    assert roll_back(root, BRANCH, "classifier@v2.0.0")[0].startswith("classifier@v2.0.0 is in use")
    assert roll_back(root, BRANCH, "v2") == ["classifier@v2.0.0 is in use"]
    shutil.rmtree(root / "release")
    roll_back(root, BRANCH, "1")
    assert read_current(root) == ("v1", "head 1")


def test_a_retraining_that_a_rollback_overtook_records_nothing(root):
    retrain(root, 1, FIRST)
    retrain(root, 2, BETTER)
    start = find_start(root, "main", PARAMS)
    made, _ = retrain(root, 3, BETTER, publish=False)
    roll_back(root, BRANCH, None)
    with pytest.raises(
        RepositoryError, match=r"^retrain/main was moved while this ran, so nothing is recorded; the next"
    ):
        publish_record(root, BRANCH, made, start.tip)
    assert read_current(root) == ("v1", "head 1")
    assert find_commit(root, "classifier@v3.0.0") is None


def test_a_branch_of_another_name_begins_without_a_contest_and_keeps_the_data(root):
    """The way out if the one in use cannot be compared for any reason, which docs/deployment.md names."""
    retrain(root, 1, FIRST)
    git(root, "merge", "--quiet", "classifier@v1.0.0")
    start = find_start(root, "main", PARAMS.model_copy(update={"branch": "retrain/second"}))
    assert (start.tip, start.version, start.in_use) == (None, None, None)
    add_worktree(root, root / "worktree", start.base, start.base, list_kept_files(root, start))
    assert (root / "worktree" / "data" / "raw" / "photos.dvc").read_text() == "outs: [{md5: '1', path: photos}]"
    made, version = write_record(root, root / "worktree", start, BLOCKED, None)
    publish_record(root, "retrain/second", made, start.tip)
    assert (version, read_current(root)) == (None, ("v1", "head 1"))
    write_candidate(root / "worktree", 2)
    start = find_start(root, "main", PARAMS.model_copy(update={"branch": "retrain/second"}))
    made, version = write_record(root, root / "worktree", start, FIRST, None)
    publish_record(root, "retrain/second", made, start.tip)
    assert (version, read_current(root)) == ("v2", ("v2", "head 2"))


def test_the_newest_record_counts_whatever_a_person_committed_on_top(root):
    made, _ = retrain(root, 1, FIRST)
    git(root, "switch", "--quiet", BRANCH)
    (root / "note").write_text("x")
    commit(root)
    git(root, "switch", "--quiet", "main")
    start = find_start(root, "main", PARAMS)
    assert start.record.commit == made != start.tip


@pytest.mark.parametrize("promoted", ["the boss", "v", "vv3", "v0", "v" + "9" * 5000, "v\uff13", "v3.0.0"])
def test_a_trailer_of_a_person_names_no_version(root, promoted):
    retrain(root, 1, FIRST)
    note_on_top(root, f"Note\n\nPromoted: {promoted}\n")
    start = find_start(root, "main", PARAMS)
    assert (start.version, choose_version(root, start.tip)) == ("v1", "v2")


def test_a_verdict_of_a_person_is_no_record(root):
    made, _ = retrain(root, 1, FIRST)
    note_on_top(root, "Note\n\nVerdict: I like it\n\nAnd more.\n")
    assert find_start(root, "main", PARAMS).record.commit == made


@pytest.mark.parametrize("told", ["Verdict: I like it", "Verdict: better\nIn-use: v9", "Verdict: better\nPromoted: v1"])
def test_some_trailers_of_a_person_are_no_record(root, told):
    made, _ = retrain(root, 1, FIRST)
    note_on_top(root, f"Note\n\n{told}\n")
    start = find_start(root, "main", PARAMS)
    assert (start.record.commit, start.version, start.in_use) == (made, "v1", made)


@pytest.mark.parametrize(
    "told", ["Release\n\nPromoted: v1\n\nAnd more.\n", "Release\n\nPromoted: v1\n", "Promoted: v1\nVerdict: first\n"]
)
def test_a_promotion_is_a_record_and_no_line_of_a_person(root, told, monkeypatch):
    made, _ = retrain(root, 1, FIRST)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2090-01-01T00:00:00Z")  # later than the record
    git(root, "merge", "--quiet", BRANCH)
    note_on_top(root, told, "main")
    retrain(root, 2, WORSE)
    git(root, "tag", "--delete", "classifier@v1.0.0")
    align_release(root, BRANCH)
    assert find_start(root, "main", PARAMS).in_use == find_commit(root, "classifier@v1.0.0") == made
    assert retrain(root, 3, BETTER)[1] == "v2"
    roll_back(root, BRANCH, "v1")
    assert find_start(root, "main", PARAMS).in_use == made


@pytest.mark.parametrize("in_use", ["banana", "v", "main", ".*", "v" + "9" * 5000])
def test_what_is_no_version_is_not_in_use(root, in_use):
    retrain(root, 1, FIRST)
    note_on_top(root, format_trailers(In_use=in_use))
    with pytest.raises(RepositoryError, match=r"^[0-9a-f]{12}: wanted the trailer In-use: vN or none, got '"):
        find_start(root, "main", PARAMS)
    with pytest.raises(RepositoryError, match="wanted the trailer In-use"):
        align_release(root, BRANCH)


def test_imports_are_those_of_this_repository(root):
    (root / "data" / "raw" / "there.dvc").write_text("deps: [{path: a}]\nouts: [{path: there}]")
    (root / "sub" / ".dvc").mkdir(parents=True)
    (root / "sub" / ".dvc" / "config").write_text("")
    (root / "sub" / "theirs.dvc").write_text("deps: [{path: a}]\nouts: [{path: theirs}]")
    commit(root)
    assert list_imports(root, "HEAD") == ["data/raw/there.dvc"]


def test_sources_are_told_apart_by_their_dvc_files(root):
    retrain(root, 1, FIRST)
    retrain(root, 2, WORSE)
    start = find_start(root, "main", PARAMS)
    assert start.record.sources_sha256 == hash_sources(root, BRANCH) != hash_sources(root, start.in_use)
    add_worktree(root, root / "worktree", start.base, start.in_use, list_kept_files(root, start))
    assert hash_sources(root / "worktree") == hash_sources(root, start.in_use)
    write_candidate(root / "worktree", 2)
    assert hash_sources(root / "worktree") == start.record.sources_sha256
    retrain(root, 3, BETTER)
    roll_back(root, BRANCH, None)
    assert find_start(root, "main", PARAMS).record.sources_sha256 == hash_sources(root, "classifier@v2.0.0")


@pytest.mark.parametrize("name", ["images.csv", "head.onnx", "classifier.json"])
def test_a_version_that_was_changed_after_its_promotion_judges_nothing(root, name):
    retrain(root, 1, FIRST)
    assert check_version(root, "v1") is None
    path = root / "release" / "versions" / "v1" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"^\S+/v1: wanted the classifier that is recorded as v1, got another; "):
        check_version(root, "v1")
    shutil.rmtree(path.parent)
    assert check_version(root, "v1") is None
    assert path.exists()


def test_images_of_a_version_are_those_that_its_record_names(root, monkeypatch):
    retrain(root, 1, FIRST)
    read = retraining.read_committed
    monkeypatch.setattr(retraining, "read_committed", lambda *where: read(*where).replace(b"training", b"evaluation"))
    shutil.rmtree(root / "release")
    with pytest.raises(
        IntegrityError, match=r"^data/manifest.csv of classifier@v1.0.0: wanted sha256 \w+, as is recorded"
    ):
        align_release(root, BRANCH)

    def fail(*_where):
        raise AbsentFile("gone")

    monkeypatch.setattr(retraining, "read_committed", fail)
    assert check_version(root, "v1") == "release/versions/v1 was not held against its record: gone"


def write_data(folder, images, excluded=()):
    """Write what `restructure` does; an image is the letter of its hash and its path in the source."""
    rows = [
        ManifestRow(f"training/x/{letter}.png", "training", "x", letter * 64, 1, 1, 1, "L", "PNG")
        for letter, _ in images
    ]
    write_manifest(folder / paths.MANIFEST, rows)
    sightings = [(row.path, source, 1.0) for row, (_, source) in zip(rows, images, strict=True)]
    write_csv(folder / paths.SIGHTINGS, SourceDetails._fields, sightings)
    write_csv(folder / paths.EXCLUDED, Exclusion._fields, excluded)


def test_images_that_are_gone_are_named(root, tmp_path):
    write_data(root, [("a", "x/1.png"), ("b", "x/2.png"), ("c", "x/3.png"), ("d", "x/4.png"), ("d", "x/copy.png")])
    git(root, "add", "--all")
    start = find_start(root, "main", PARAMS)
    trailers = format_trailers(Promoted="v1")
    publish_record(root, BRANCH, write_commit(root, [start.base], trailers), None)
    write_data(tmp_path, [("a", "moved.png"), ("e", "x/2.png")], [("x/3.png", "empty")])
    gone = list_gone(root, tmp_path, "v1")
    assert gone == [
        ("x/2.png", f"other bytes have its name: sha256 {'e' * 64}"),
        ("x/3.png", "empty"),
        ("x/4.png", "no longer in the source"),
        ("x/copy.png", "no longer in the source"),
    ]
    start = find_start(root, "main", PARAMS)
    add_worktree(root, root / "worktree", start.base, start.in_use, list_kept_files(root, start))
    write_candidate(root / "worktree", 2)
    made, _ = write_record(root, root / "worktree", start, WORSE | {"gone": gone}, None)
    body = run_git(root, "log", "-1", "--format=%b", made)
    assert body.startswith("of 10\n\nImages of v1 that are not in this data: 4\n- x/2.png: other bytes have its name: ")
    assert read_trailers(root, made)["In-use"] == "v1"
    write_data(tmp_path, [(letter, f"{letter}.png") for letter in "abcd"])
    assert list_gone(root, tmp_path, "v1") == []


def test_what_waits_is_told_apart_by_its_list():
    assert hash_waiting([]) is None
    one = hash_waiting([Waiting("a", "1")])
    assert len(one) == 64
    assert one != hash_waiting([Waiting("a", "2")]) != hash_waiting([Waiting("b", "2")])
