import hashlib
import json
import re

import pytest

from conftest import ROOT
from relearn.errors import RepositoryError
from relearn.repository.tracked import find_object
from relearn.retraining.arrivals import Arrival, Waiting
from relearn.retraining.growth import check_source, drop_ignored, find_growing_source
from relearn.storage.files import hash_bytes

SOURCE = "data/raw/photos"


@pytest.fixture
def worktree(tmp_path):
    """A worktree whose source is a folder that DVC tracks."""
    set_restructure(tmp_path, f"source: {SOURCE}")
    (tmp_path / SOURCE).mkdir(parents=True)
    (tmp_path / f"{SOURCE}.dvc").write_text("outs: [{md5: '1', path: photos}]")
    return tmp_path


def set_restructure(folder, line):
    key = line.split(":")[0]
    text = (folder if (folder / "params.yaml").exists() else ROOT) / "params.yaml"
    content, n_changed = re.subn(rf"(?m)^  {key}: .*", f"  {line}", text.read_text(), count=1)
    assert n_changed == 1
    (folder / "params.yaml").write_text(content)


def test_a_tracked_folder_is_a_source_that_grows(worktree):
    check_source(worktree, "main")
    assert find_growing_source(worktree, "main").as_posix() == SOURCE


def test_a_source_that_nothing_tracks(worktree):
    (worktree / SOURCE).rmdir()
    message = (
        r"^restructure.source: data/raw/photos: wanted what git or DVC tracks, got neither; `dvc add data/raw/photos`, "
        r"and commit data/raw/photos.dvc to main$"
    )
    with pytest.raises(RepositoryError, match=message):
        check_source(worktree, "main")


def test_a_source_with_a_table_does_not_grow(worktree):
    set_restructure(worktree, "layout: csv")
    set_restructure(worktree, "labels_csv: labels.csv")
    with pytest.raises(RepositoryError, match=r"^restructure.layout: wanted a layout without a table, .*, got csv$"):
        find_growing_source(worktree, "main")


def test_a_file_does_not_grow(worktree):
    (worktree / SOURCE).rmdir()
    (worktree / SOURCE).write_text("an archive")
    with pytest.raises(RepositoryError, match="wanted a folder tracked by DVC, which grows by what lands, got some"):
        find_growing_source(worktree, "main")


def test_an_import_does_not_grow(worktree):
    (worktree / f"{SOURCE}.dvc").write_text("deps: [{path: /origin}]\nouts: [{md5: '1', path: photos}]")
    with pytest.raises(
        RepositoryError, match=r"photos.dvc: wanted a folder that `dvc add` tracks, got an import, whose"
    ):
        find_growing_source(worktree, "main")


def test_arrivals_that_dvc_ignores_are_removed(worktree):
    names = ["cat/1.png", "cat/1.skip.png"]
    arrivals = [Arrival(Waiting(name, "x"), name, hash_bytes(name.encode())) for name in names]
    (worktree / SOURCE / "cat").mkdir()
    for name in names:
        (worktree / SOURCE / name).write_text(name)
    content = json.dumps([{"md5": "0", "relpath": names[0]}]).encode()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
    place = find_object(worktree / "cache", md5)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    (worktree / f"{SOURCE}.dvc").write_text(f"outs: [{{md5: {md5}, hash: md5, path: photos}}]")
    kept, ignored = drop_ignored(worktree, find_growing_source(worktree, "main"), arrivals, worktree / "cache")
    assert (kept, ignored) == (arrivals[:1], arrivals[1:])
    assert [path.name for path in (worktree / SOURCE / "cat").iterdir()] == ["1.png"]
