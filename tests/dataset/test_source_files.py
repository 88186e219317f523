import os

import pytest

from relearn.dataset import source_files
from relearn.dataset.source_files import explain_hidden, open_source_file
from relearn.dataset.sources import iterate_source


def read_all(source):
    """Return the bytes, or the reason for a refusal, of each path."""
    return {file.path: file.refusal or file.read() for file in iterate_source(source)}


def test_named_file_may_be_any_link(tmp_path):
    (tmp_path / "elsewhere.png").write_bytes(b"image")
    (tmp_path / "named.png").symlink_to(tmp_path / "elsewhere.png")
    file = open_source_file(tmp_path / "named.png", "named.png")
    assert file.refusal is None
    assert file.read() == b"image"


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert read_all(tmp_path) == {"pipe.png": "not a regular file"}


def test_reading_is_bounded_where_the_size_grew(tmp_path, monkeypatch):
    monkeypatch.setattr(source_files, "MAX_BYTES", 10)
    (tmp_path / "x.png").write_bytes(b"x")
    (file,) = iterate_source(tmp_path)
    (tmp_path / "x.png").write_bytes(b"x" * 100)
    assert file.read() == b"x" * 11


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("cat/1.png", None),
        ("../cat/1.png", None),
        ("cat/.1.png", "hidden file"),
        (".x/@eaDir/1.png", "hidden file"),
        ("__macosx/._1.png", "system file: __macosx"),
        ("cat/$RECYCLE.BIN/1.png", "system file: $RECYCLE.BIN"),
        ("cat/System Volume Information", "system file: System Volume Information"),
        ("cat/lost+found/1.png", "system file: lost+found"),
        ("cat/THUMBS.DB", "system file: THUMBS.DB"),
        ("recycled/1.png", None),
    ],
)
def test_files_of_systems_are_hidden(path, reason):
    assert explain_hidden(path) == reason


def test_names_that_cannot_be_written_down(tmp_path):
    (tmp_path / "new\nline.png").touch()
    with open(os.fsencode(tmp_path) + b"/\xff.png", "w"):
        pass
    assert read_all(tmp_path) == {
        "new\\nline.png": "name holds a control character",
        "\\xff.png": "name is not UTF-8",
    }
