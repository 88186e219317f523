import shutil

import pytest

from conftest import git
from relearn.errors import RepositoryError
from relearn.repository.git import find_commit, move_branch
from relearn.retraining.publication import publish_record
from relearn.retraining.rollback import roll_back
from relearn.retraining.start import find_start
from retrainings import BETTER, BRANCH, FIRST, PARAMS, read_current, retrain, show


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
    with pytest.raises(
        RepositoryError, match="wanted a branch that is not checked out, got one that is checked out in "
    ):
        roll_back(root, BRANCH, None)
    with pytest.raises(
        RepositoryError, match="wanted a branch that is not checked out, got one that is checked out in "
    ):
        publish_record(root, BRANCH, start.tip, start.tip)
    assert git(root, "status", "--porcelain") == ""


def test_rollback_is_recorded_and_its_data_is_begun_from(root):
    with pytest.raises(RepositoryError, match="no classifier was promoted there yet"):
        roll_back(root, BRANCH, None)
    first, _ = retrain(root, 1, FIRST)
    with pytest.raises(
        RepositoryError, match=r"^classifier@v1.0.0 is the production model, and there is none before it$"
    ):
        roll_back(root, BRANCH, None)
    retrain(root, 2, BETTER, "a" * 64)
    with pytest.raises(
        RepositoryError, match=r"^v7: wanted one of classifier@v2.0.0, classifier@v1.0.0, got no such version$"
    ):
        roll_back(root, BRANCH, "v7")
    told, left = roll_back(root, BRANCH, None)
    assert told.startswith("classifier@v1.0.0 is the production model, classifier@v2.0.0 is not any more; recorded as ")
    assert left.startswith("images of classifier@v2.0.0 that are not in the data of the next retraining: 1; ")
    assert read_current(root) == ("v1", "head 1")
    start = find_start(root, "main", PARAMS)
    assert (start.production, start.version, start.record.verdict) == (first, "v1", "rolled back")
    assert start.record.landing_sha256 == "a" * 64
    assert show(root, BRANCH, "metrics/evaluation.json") == "metrics 1"
    assert retrain(root, 3, BETTER)[1] == "v3"
    assert roll_back(root, BRANCH, "classifier@v2.0.0")[0].startswith("classifier@v2.0.0 is the production model")
    assert roll_back(root, BRANCH, "v2") == ["classifier@v2.0.0 is the production model"]
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
