import re
import shutil
from pathlib import Path

import pytest

from conftest import ROOT
from relearn.errors import ParamsError
from relearn.repository.root import find_root


def test_root_is_found_from_any_folder_of_a_clone(root):
    for folder in (".", "src", "src/relearn/commands", "data/raw", "pretraining"):  # which has files of those names
        assert find_root(root / folder) == root


def test_params_alone_are_enough_in_the_folder_itself(workspace):
    assert find_root(workspace) == workspace
    (workspace / "deep").mkdir()
    with pytest.raises(ParamsError):
        find_root(workspace / "deep")
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    assert find_root(workspace / "deep") == workspace


def test_nearest_clone_counts(workspace):
    inner = workspace / "inner" / "deep"
    inner.mkdir(parents=True)
    for folder in (workspace, inner.parent):
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(ROOT / name, folder / name)
    assert find_root(inner) == inner.parent


def test_no_root_says_what_is_wanted(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {other: {cmd: python other.py}}")
    (tmp_path / "params.yaml").write_text("x: 1")
    expected = (
        f"{tmp_path}: wanted a folder with params.yaml and dvc.yaml of relearn, this one or one above it, got none; "
        "go to the folder of your clone"
    )
    with pytest.raises(ParamsError, match=re.escape(expected)):
        find_root(tmp_path)


def test_what_has_the_name_of_a_file_may_be_anything(workspace):
    Path("dvc.yaml").mkdir()
    assert find_root(workspace) == workspace
