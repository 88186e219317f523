"""`dvc.lock` against the parameters and the data that are there."""

import pytest

from conftest import ROOT, change_params
from relearn.commands.place import warn_of_changes
from relearn.repository.inputs import describe_changed_inputs, list_changed_inputs

LOCK = """
stages:
  restructure:
    cmd: x
    deps:
    - {path: data/photos, md5: abc.dir}
    - {path: data/corrections.csv, md5: d41d8cd98f00b204e9800998ecf8427e}
    - {path: src/relearn/paths.py, md5: other}
    params:
      params.yaml:
        restructure: {source: data/photos, fractions: {validation: 0.2}}
    outs:
    - {path: data/manifest.csv, md5: m}
  extract:
    cmd: x
    deps:
    - {path: data/manifest.csv, md5: m}
    params:
      params.yaml: {extract.network: mini_vgg}
"""
PARAMS = """
restructure: {source: data/photos, fractions: {validation: 0.2}}
extract: {network: mini_vgg, more: 1}
"""


@pytest.fixture
def repository(tmp_path):
    files = {"dvc.lock": LOCK, "params.yaml": PARAMS, "data/corrections.csv": "", "data/manifest.csv": "another"}
    files |= {"data/photos.dvc": "outs: [{path: photos, md5: abc.dir, hash: md5}]", "src/relearn/paths.py": "code"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_changed_is_named(repository, monkeypatch, caplog):
    assert list_changed_inputs(repository) == []
    assert describe_changed_inputs(repository) == ""
    changes = {"restructure.fractions": {"validation": 0.3}, "extract.network": "vgg16", "extract.more": 2}
    change_params(changes, repository / "params.yaml")
    assert list_changed_inputs(repository) == ["restructure.fractions.validation", "extract.network"]
    (repository / "data/corrections.csv").write_text("row")
    (repository / "data/photos.dvc").write_text("outs: [{path: photos, md5: abd.dir, hash: md5}]")
    monkeypatch.chdir(repository)
    warn_of_changes()
    assert caplog.messages == [
        "warning: the results were made before these changed: restructure.fractions.validation, extract.network, "
        "data/photos, data/corrections.csv; `make repro` updates them"
    ]
    assert describe_changed_inputs(repository, 1).endswith(
        "restructure.fractions.validation and 3 more; `make repro` updates them"
    )


def test_what_cannot_be_read_is_the_error_of_others(repository):
    for name in ("dvc.lock", "params.yaml"):
        content = (repository / name).read_bytes()
        (repository / name).write_text("[")
        assert describe_changed_inputs(repository) == ""
        (repository / name).unlink()
        assert describe_changed_inputs(repository) == ""
        (repository / name).write_bytes(content)


def test_the_committed_results_are_those_of_the_committed_inputs():
    assert list_changed_inputs(ROOT) == []
