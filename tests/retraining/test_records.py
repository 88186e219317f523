import pytest

from conftest import commit, git
from relearn.errors import RepositoryError
from relearn.repository.dvc_files import hash_sources
from relearn.repository.git import add_worktree, find_commit, run_git
from relearn.retraining.publication import align_release, publish_record
from relearn.retraining.records import choose_version, write_record
from relearn.retraining.release import IMAGES_HEADER
from relearn.retraining.rollback import roll_back
from relearn.retraining.start import find_start, has_new_base, list_kept_files
from relearn.storage.files import read_csv
from retrainings import (
    BETTER,
    BLOCKED,
    BRANCH,
    FIRST,
    PARAMS,
    WORSE,
    format_trailers,
    note_on_top,
    read_current,
    retrain,
    show,
    write_candidate,
)


def test_the_first_is_recorded_tagged_and_in_use(root):
    start = find_start(root, "main", PARAMS)
    assert (start.tip, start.record, start.production, start.version) == (None, None, None, None)
    assert has_new_base(root, start)
    made, version = retrain(root, 1, FIRST)
    assert version == "v1"
    assert read_current(root) == ("v1", "head 1")
    images = read_csv(root / "release" / "current" / "images.csv", IMAGES_HEADER)
    assert images == [[f"{1:064x}", "training"], ["f" * 64, "evaluation"]]
    start = find_start(root, "main", PARAMS)
    assert start.tip == start.production == start.record.commit == made
    assert (start.version, start.record.verdict, start.record.landing_sha256) == ("v1", "first", None)
    assert not has_new_base(root, start)
    assert run_git(root, "cat-file", "-t", "classifier@v1.0.0") == "tag\n"
    message = run_git(root, "log", "-1", "--format=%B", made)
    assert message.startswith(
        "Promote classifier@v1.0.0: first\n\nthere was no production model\n\nVerdict: first\nPromoted: v1\nIn-use"
    )
    assert "\nData-sha256: " in message


def test_where_a_gate_failed_its_report_is_all_that_is_new(root):
    retrain(root, 1, FIRST)
    made, _ = retrain(root, 2, BLOCKED)
    assert show(root, made, "reports/validation.json") == "validation 2"
    assert run_git(root, "diff", "--name-only", f"{made}~", made) == "reports/validation.json\n"
    assert find_start(root, "main", PARAMS).record.verdict == "blocked by data"


def test_a_first_run_may_be_blocked(root):
    retrain(root, 1, BLOCKED)
    start = find_start(root, "main", PARAMS)
    assert (start.version, start.production) == (None, None)
    assert not has_new_base(root, start)
    align_release(root, BRANCH)
    assert not (root / "release" / "current").exists()


def test_a_branch_of_another_name_begins_without_a_comparison_and_keeps_the_data(root):
    """The way out if the one in use cannot be compared for any reason, which docs/deployment.md names."""
    retrain(root, 1, FIRST)
    git(root, "merge", "--quiet", "classifier@v1.0.0")
    start = find_start(root, "main", PARAMS.model_copy(update={"branch": "retrain/second"}))
    assert (start.tip, start.version, start.production) == (None, None, None)
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
    assert (start.record.commit, start.version, start.production) == (made, "v1", made)


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
    assert find_start(root, "main", PARAMS).production == find_commit(root, "classifier@v1.0.0") == made
    assert retrain(root, 3, BETTER)[1] == "v2"
    roll_back(root, BRANCH, "v1")
    assert find_start(root, "main", PARAMS).production == made


@pytest.mark.parametrize("production", ["banana", "v", "main", ".*", "v" + "9" * 5000])
def test_what_is_no_version_is_not_in_use(root, production):
    retrain(root, 1, FIRST)
    note_on_top(root, format_trailers(In_use=production))
    with pytest.raises(RepositoryError, match=r"^[0-9a-f]{12}: wanted the trailer In-use: vN or none, got '"):
        find_start(root, "main", PARAMS)
    with pytest.raises(RepositoryError, match="wanted the trailer In-use"):
        align_release(root, BRANCH)


def test_a_run_with_other_parameters_has_not_tried_the_bases_own(root):
    tried, _ = retrain(root, 1, FIRST)
    (root / "code").write_text("2")
    commit(root)
    made, _ = retrain(root, 2, BETTER, "a" * 64, overrides=["extract.network=vgg16", "train.seed=1"])
    assert "\nOverrides: extract.network=vgg16 train.seed=1\n" in run_git(root, "log", "-1", "--format=%B", made)
    start = find_start(root, "main", PARAMS)
    assert (start.record.commit, start.version, start.record.overrides) == (
        made,
        "v2",
        "extract.network=vgg16 train.seed=1",
    )
    assert (start.tried.commit, start.tried.landing_sha256, start.production) == (tried, None, made)
    assert has_new_base(root, start)
    roll_back(root, BRANCH, None)
    assert find_start(root, "main", PARAMS).tried == start.tried
    retrain(root, 3, WORSE)
    start = find_start(root, "main", PARAMS)
    assert start.tried == start.record
    assert not has_new_base(root, start)


def test_a_first_run_with_other_parameters_leaves_the_base_to_try(root):
    retrain(root, 1, FIRST, overrides=["train.seed=1"])
    start = find_start(root, "main", PARAMS)
    assert (start.version, start.tried) == ("v1", None)
    assert has_new_base(root, start)


def test_sources_are_told_apart_by_their_dvc_files(root):
    retrain(root, 1, FIRST)
    retrain(root, 2, WORSE)
    start = find_start(root, "main", PARAMS)
    assert start.record.sources_sha256 == hash_sources(root, BRANCH) != hash_sources(root, start.production)
    add_worktree(root, root / "worktree", start.base, start.production, list_kept_files(root, start))
    assert hash_sources(root / "worktree") == hash_sources(root, start.production)
    write_candidate(root / "worktree", 2)
    assert hash_sources(root / "worktree") == start.record.sources_sha256
    retrain(root, 3, BETTER)
    roll_back(root, BRANCH, None)
    assert find_start(root, "main", PARAMS).record.sources_sha256 == hash_sources(root, "classifier@v2.0.0")
