import threading

import pytest

from conftest import ROOT
from relearn.dataset import grouping
from relearn.dataset.assignments import hash_group
from relearn.dataset.grouping import group_paths
from relearn.errors import ParamsError, SourceError
from relearn.params.pipeline import read_params

PARAMS = read_params(ROOT / "params.yaml").restructure


def group(paths, cells=None, **changes):
    return group_paths(paths, PARAMS.model_copy(update=changes), cells or {})


def test_no_groups():
    assert group(["a/1.png", "b/1.png"]) == ["", ""]


def test_folder_of_a_depth(caplog):
    paths = ["x/a/p1/1.png", "x/b/p1/2.png", "x/b/p2/s/3.png", "x/b/4.png"]
    found = group(paths, group_by="folder", group_depth=2, subfolder="x")
    assert found == [hash_group("p1"), hash_group("p1"), hash_group("p2"), ""]
    assert caplog.messages == ["1 of 4 images have no group, for example x/b/4.png"]


def test_column():
    assert group(["1.png", "2.png"], {"1.png": "Jane"}, group_by="column", group_column="x") == [hash_group("Jane"), ""]


def test_pattern():
    found = group(["a/p1_1.png", "a/p2_1.png"], group_by="pattern", group_pattern=r"(?P<group>p\d+)_")
    assert found == [hash_group("p1"), hash_group("p2")]


def test_no_group_at_all():
    with pytest.raises(
        SourceError, match=r"group_by: pattern: wanted images with a group, got none, for example a/1.png"
    ):
        group(["a/1.png"], group_by="pattern", group_pattern=r"(?P<group>x)")


def test_pattern_that_takes_for_ever_is_stopped(monkeypatch):
    monkeypatch.setattr(grouping, "MAX_SECONDS", 0.2)
    with pytest.raises(ParamsError, match=r"group_pattern: wanted a pattern that takes at most 0.2 s for all paths"):
        group(["a/" + "a" * 100 + "!"], group_by="pattern", group_pattern=r"(?P<group>(a+)+)$")


def test_other_threads_find_no_groups():
    caught = []

    def run():
        with pytest.raises(RuntimeError) as error:
            group(["a/1.png"], group_by="folder", group_depth=1)
        caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert caught
