import shutil

import pytest

from conftest import commit, execute, git
from relearn.errors import RepositoryError
from relearn.repository import status
from relearn.repository.status import list_changed_data, list_changes

PIPELINE = """
stages:
  extract:
    cmd: cp data/photos/1 features
    deps: [data/photos, src/code]
    params: [extract.network]
    outs: [features]
  train:
    cmd: cp features head
    deps: [features]
    outs: [head]
"""


@pytest.mark.slow
def test_what_differs_from_the_last_results_is_named(tmp_path):
    with pytest.raises(RepositoryError, match=r"^dvc status: you are not inside of a DVC repository"):
        list_changes(tmp_path)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "params.yaml": "extract: {network: a}\n",
        "data/photos/1": "photo",
        "src/code": "code",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    for command in (["init", "--quiet"], ["add", "--quiet", "data/photos"], ["repro", "--quiet"]):
        assert execute(tmp_path, "dvc", *command).returncode == 0
    commit(tmp_path)
    assert list_changes(tmp_path) == list_changed_data(tmp_path) == []
    (tmp_path / "src" / "code").write_text("new code")
    (tmp_path / "params.yaml").write_text("extract: {network: b}\n")
    (tmp_path / "data" / "photos" / "2").write_text("photo")
    assert sorted(list_changes(tmp_path)) == ["data/photos", "extract.network"]
    assert list_changed_data(tmp_path) == ["data/photos"]
    shutil.rmtree(tmp_path / "data" / "photos")
    (tmp_path / "head").unlink()
    assert list_changes(tmp_path) == ["extract.network"]
    assert list_changed_data(tmp_path) == []


def test_entries_of_all_kinds_are_read(monkeypatch):
    entries = {
        "a": [
            "always changed",
            {"changed deps": {"params.yaml": {"a": "modified", "a.b": "new", "c": "deleted"}, "x": "deleted"}},
        ],
        "x.dvc": [{"changed outs": {"x": "modified"}}, {"changed deps": {"src/relearn": "modified"}}],
    }
    monkeypatch.setattr(status, "_read_status", lambda _: entries)
    assert list_changes("") == ["a.b", "c", "x"]
