import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, commit, git, read_yaml
from relearn.errors import IntegrityError, ParamsError, RelearnError
from relearn.repository.dvc_files import (
    copy_dvc_settings,
    hash_sources,
    list_imports,
    list_outputs,
    list_stage_outputs,
    list_stages,
    list_uncached,
    read_dvc_settings,
)
from relearn.repository.git import find_commit

MALFORMED = [
    ("", r"file.dvc: wanted a file of DVC, got nothing; commit a whole file"),
    ("[1]", r"file.dvc: wanted a file of DVC, got \[1\]; commit a whole file"),
    ("outs: [", r"file.dvc: wanted YAML, got: "),
    ("\udcff: 1", r"file.dvc: wanted YAML, got: "),
    ("a: " + "[" * 900, r"file.dvc: line 1: wanted at most 20 levels"),
    ("a: &a [*a]", r"file.dvc: line 1: wanted at most 20 levels"),
    ("meta: !!python/object/apply:os.system [true]", r"file.dvc: line 1: wanted .*, got !!python/object/apply:os.sys"),
    ("meta: 2026-13-45", r"file.dvc: wanted YAML, got: month must be in 1..12"),
    ("meta: 2026-01-01T00:00:00+99:00", r"file.dvc: wanted YAML, got: offset must be "),
    ("outs: [{md5: abc}]", r"file.dvc: outs.0.path: wanted a value, got none; commit a whole file"),
    ("outs: [3]", r"file.dvc: outs.0: wanted a block, got 3; commit a whole file"),
    ("outs: file", r"file.dvc: outs: wanted a valid list, got 'file'; commit a whole file"),
    ("outs: [{path: x, files: [{md5: abc}]}]", r"file.dvc: outs.0.files.0.relpath: wanted a value, got none"),
    ("{outs: [], wdir: [1]}", r"file.dvc: wdir: wanted a valid string, got \[1\]; commit a whole file"),
    (None, r"file.dvc: no such file in .*; `git checkout HEAD file.dvc` restores it"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_a_malformed_file_of_dvc_is_an_error_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "file.dvc").write_text(content, errors="surrogateescape")
    with pytest.raises(RelearnError, match=f"^{message}") as caught:
        list_outputs(tmp_path, ["file.dvc"])
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_malformed_dvc_lock_is_an_error_in_one_line(tmp_path):
    for content, message in [
        ("stages: [1]", "stages: wanted a valid dictionary"),
        ("stages: {a: 1}", "stages.a: wanted"),
    ]:
        (tmp_path / "dvc.lock").write_text(content)
        with pytest.raises(IntegrityError, match=f"^dvc.lock: {message}"):
            list_stage_outputs(tmp_path, "a")


def test_what_dvc_reads_is_read(tmp_path):
    """In `meta` a user may keep what YAML has a type for; and a hash may look like a number."""
    meta = "meta: {added: 2026-01-01, at: 2026-01-01T10:00:00Z, of: null, share: 0.5, tags: !!set {a, b}, 1: 2}"
    (tmp_path / "file.dvc").write_text(
        f"outs: [{{path: x, md5: {'1' * 32}}}, {{path: y, md5: '{'2' * 32}'}}]\nwdir:\n{meta}\ndesc: x\n"
    )
    assert [output.md5 for output in list_outputs(tmp_path, ["file.dvc"])] == ["1" * 32, "2" * 32]
    (tmp_path / "file.dvc").write_text("outs:\n")
    assert list_outputs(tmp_path, ["file.dvc"]) == []


@pytest.fixture
def root(tmp_path):
    """A repository of git with one `.dvc` file."""
    root = tmp_path / "Übung"
    (root / "data" / "raw").mkdir(parents=True)
    git(root, "init", "--quiet")
    (root / "data" / "raw" / "photos.dvc").write_text("outs: [{md5: '1', path: photos}]\n")
    commit(root)
    return root


def test_stages_come_in_the_order_of_the_pipeline():
    assert list_stages(ROOT) == list(read_yaml(ROOT / "dvc.yaml")["stages"])


def test_line_endings_of_a_checkout_do_not_change_the_hash_of_the_sources(root):
    before = hash_sources(root, "HEAD")
    path = root / "data" / "raw" / "photos.dvc"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert hash_sources(root) == before
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    assert hash_sources(root) != before


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


def test_imports_are_those_of_this_repository(root):
    (root / "data" / "raw" / "there.dvc").write_text("deps: [{path: a}]\nouts: [{path: there}]")
    (root / "sub" / ".dvc").mkdir(parents=True)
    (root / "sub" / ".dvc" / "config").write_text("")
    (root / "sub" / "theirs.dvc").write_text("deps: [{path: a}]\nouts: [{path: theirs}]")
    commit(root)
    assert list_imports(root, "HEAD") == ["data/raw/there.dvc"]


def test_outputs_that_git_has_and_not_dvc_are_listed(root):
    (root / "dvc.yaml").write_text(
        "stages:\n  a: {cmd: x, outs: [b, {c: {cache: false}}, {d: {push: false}}], metrics: null}\n"
        "  g: {foreach: [1], do: {cmd: x, plots: [{h: {cache: false}}]}}\n"
    )
    commit(root)
    assert list_uncached(root, "HEAD") == ["c", "h"]


def configure(root, *arguments):
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


@pytest.mark.slow
def test_settings_of_dvc_mean_the_same_in_a_worktree(root, monkeypatch):
    """A relative path in a file of settings is relative to that file."""
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(root / "global"))
    configure(root, "init", "--quiet")
    assert read_dvc_settings(root) == (root / ".dvc" / "cache", False)
    configure(root, "remote", "add", "--default", "near", "../store")
    configure(root, "remote", "add", "far", "s3://bucket/x")
    (root / "global").mkdir()
    (root / "global" / "config").write_text("['remote \"mine\"']\n    url = /a\tb/\u202e=c\n")
    configure(root, "remote", "modify", "--local", "far", "secret_access_key", "a, #b=c")
    configure(root, "config", "--local", "cache.type", "copy")
    commit(root)
    worktree = root / "deep" / "in" / "worktree"
    git(root, "worktree", "add", "--quiet", "--detach", str(worktree))
    assert copy_dvc_settings(root, worktree) == (root / ".dvc" / "cache", True)
    assert read_dvc_settings(worktree) == (root / ".dvc" / "cache", True)
    from dvc.config import Config

    here, there = (Config(str(folder / ".dvc")) for folder in (root, worktree))
    for key in ("core", "remote"):
        assert {**there[key]} == {**here[key]}
    assert there["cache"]["type"] == here["cache"]["type"]
    assert Path(there["remote"]["near"]["url"]) == root.parent / "store"


@pytest.mark.slow
def test_a_damaged_configuration_of_dvc_is_an_error_in_one_line(root):
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core\n")
    with pytest.raises(ParamsError, match=r"configuration of DVC: wanted what `dvc config` writes, got ") as caught:
        read_dvc_settings(root)
    assert "\n" not in str(caught.value)
