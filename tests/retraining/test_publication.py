import shutil

import pytest

from conftest import git
from relearn.errors import RepositoryError
from relearn.repository.git import find_commit, move_branch
from relearn.retraining.publication import align_release, publish_record
from relearn.retraining.rollback import roll_back
from relearn.retraining.start import find_start
from retrainings import BETTER, BRANCH, FIRST, PARAMS, WORSE, read_current, retrain


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
