import pytest

from conftest import commit, git
from relearn.repository.tags import list_tags, name_tag, name_version


@pytest.mark.parametrize("name", ["3", "v3", "classifier@v3", "classifier@v3.0.0", "v3.0.0"])
def test_a_version_is_named_in_many_ways(name):
    assert name_tag(name) == "classifier@v3.0.0"


@pytest.mark.parametrize("name", ["main", "v0", "classifier@v1.2.0", "HEAD~1"])
def test_what_is_no_version_stays_as_it_is(name):
    assert name_tag(name) == name


def test_tags_come_with_the_newest_first(workspace):
    git(workspace, "init", "--quiet")
    commit(workspace)
    assert list_tags() == []
    for tag in ("classifier@v2.0.0", "classifier@v10.0.0", "classifier@v3.1.0", "v4.0.0"):
        git(workspace, "tag", tag)
    assert list_tags() == ["classifier@v10.0.0", "classifier@v2.0.0"]
    assert [name_version(tag) for tag in list_tags()] == ["v10", "v2"]
