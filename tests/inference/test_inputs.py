import errno
import os
from pathlib import Path

import pytest

from relearn.errors import ImageError
from relearn.inference.inputs import find_files, read_content


def list_files(name):
    return [file.path for file in find_files(name)]


def test_arguments_stand_for_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "deep/er/c.png", "deep/.hidden.png", ".git/d.png", "[x].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert list_files("a.png") == ["a.png"]
    assert list_files(".") == ["./[x].png", "./a.png", "./b.png", "./deep/er/c.png"]
    assert list_files("?.png") == ["a.png", "b.png"]
    assert list_files("**/*.png") == ["[x].png", "a.png", "b.png", "deep/er/c.png"]
    assert list_files("[x].png") == ["[x].png"]
    assert list_files("z*.png") == []


def test_folders_that_cannot_be_listed_are_reported(tmp_path, monkeypatch):
    """Below a folder, the folder itself, and where glob would pass over them."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/closed/b.png", "photos/open/c.png", "photos/lost+found/d.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    scandir = os.scandir

    def scan(path="."):
        if str(path).rstrip("/").endswith(("closed", "lost+found")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    reason = "folder cannot be listed: Permission denied"
    refused = {"photos/closed": reason}
    for name in ("photos", "photos/**/*.png", "photos/*/*.png", "**/*.png"):
        files = find_files(name)
        assert {file.path: file.refusal for file in files if file.refusal} == refused, name
        assert "photos/open/c.png" in [file.path for file in files]
    assert [(file.path, file.refusal) for file in find_files("photos/closed")] == [("photos/closed", reason)]
    assert [file.refusal for file in find_files("photos/*.png")] == [None]


def test_what_systems_leave_is_not_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/@eaDir/a.png/THUMB.jpg", "photos/Thumbs.db"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert list_files("photos") == ["photos/a.png"]


def test_what_cannot_be_read_says_why(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    reasons = {}
    for file in find_files(str(tmp_path)):
        with pytest.raises(ImageError) as caught:
            read_content(file)
        reasons[os.path.basename(file.path)] = str(caught.value)
    assert reasons == {
        "pipe": "not a regular file",
        "broken": "cannot be read: No such file or directory",
        "link": "link to a folder, not followed",
    }
