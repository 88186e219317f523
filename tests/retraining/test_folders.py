import errno
import os
import socket
import time

import pytest

from relearn.retraining import folders
from relearn.retraining.arrivals import Unused
from relearn.retraining.landing import Landing
from retrainings import copy_all

LINK = "a link, which is not followed; put the file itself in its place"


def find_reasons(folder, settle_seconds=0):
    """Return what is left, by path; `good/1.png` alone is taken."""
    found = Landing(str(folder)).look(settle_seconds)
    assert [file.path for file in found.ready] == ["good/1.png"]
    assert found.waiting == []
    return dict(found.left)


def test_what_is_no_regular_file_is_left(folder, tmp_path):
    os.mkfifo(folder / "good" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "good" / "socket.png"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(b"elsewhere")
    links = {
        "file.png": "/etc/passwd",
        "endless.png": "/dev/zero",
        "nowhere.png": "/nowhere",
        "itself.png": "itself.png",
        "inside.png": "1.png",
        "folder": tmp_path / "elsewhere",
        "cached.png": tmp_path / "files" / "md5" / "ab" / ("c" * 30),
    }
    for name, target in links.items():
        (folder / "good" / name).symlink_to(target)
    assert find_reasons(folder) == {
        "good/pipe.png": "not a regular file",
        "good/socket.png": "not a regular file",
        **{f"good/{name}": LINK for name in links},
    }


def test_what_is_too_large_is_left(folder):
    with (folder / "good" / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    assert find_reasons(folder) == {
        "good/sparse.png": "too large: 1,099,511,627,776 bytes, at most 268,435,456 are read"
    }


def test_names_that_cannot_be_written_down_are_left(folder):
    (folder / "good" / "a\nb.png").write_bytes(b"x")
    (folder / "good" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    (folder / "b\x1bad").mkdir()
    (folder / "b\x1bad" / "1.png").write_bytes(b"x")
    assert find_reasons(folder) == {
        "good/a\\nb.png": "name holds a control character",
        "good/\\xff.png": "name is not UTF-8",
        "b\\x1bad/1.png": "name holds a control character",
    }


def test_folders_in_folders_without_end_are_left(folder):
    (folder / "/".join("d" * 40)).mkdir(parents=True)
    (folder / "/".join("d" * 40) / "1.png").write_bytes(b"x")
    assert find_reasons(folder) == {"/".join("d" * 33): "below 32 folders"}


def test_what_cannot_be_read_is_left(folder, monkeypatch):
    """Root may read everything, so that the refusal is made here."""
    (folder / "good" / "2.png").write_bytes(b"x")
    (folder / "closed").mkdir()
    opened = os.open

    def refuse(path, *arguments, **options):
        if path in ("2.png", "closed"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert find_reasons(folder) == {
        "good/2.png": "cannot be read: Permission denied",
        "closed": "folder cannot be listed: Permission denied",
    }


@pytest.mark.parametrize("ahead", [1e4, 1e9, 1e12])
def test_a_time_in_the_future_keeps_nobody_waiting(folder, ahead):
    (folder / "good" / "later.png").write_bytes(b"x")
    os.utime(folder / "good" / "1.png", (0, 0))
    try:
        os.utime(folder / "good" / "later.png", (time.time() + ahead, time.time() + ahead))
    except OverflowError:
        pytest.skip("a file system without such times")
    assert find_reasons(folder, settle_seconds=60)["good/later.png"].startswith(
        "its time of change lies in the future: "
    )


def test_a_clock_that_is_a_little_ahead_is_waited_for(folder):
    os.utime(folder / "good" / "1.png", (time.time() + 30, time.time() + 30))
    found = Landing(str(folder)).look(20)
    assert (found.ready, found.left) == ([], [])
    assert "s ahead of the clock; retrain.settle_seconds: 20" in found.waiting[0].reason


def exchange(path, kind, tmp_path):
    """Put something else in the place of a file, or of its folder."""
    path.unlink()
    match kind:
        case "link":
            path.symlink_to("/etc/passwd")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "other":
            path.write_bytes(b"one")
        case "larger":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "folder link":
            path.parent.rmdir()
            (tmp_path / "theirs").mkdir()
            (tmp_path / "theirs" / "1.png").write_bytes(b"one")
            path.parent.symlink_to(tmp_path / "theirs")


KINDS = ["nothing", "link", "pipe", "folder", "other", "larger", "folder link"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exchanged_after_it_was_listed_is_not_copied(folder, tmp_path, kind):
    landing = Landing(str(folder))
    ready = landing.look(0).ready
    exchange(folder / "good" / "1.png", kind, tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    arrivals, ((path, reason),) = landing.copy_in(ready, source)
    assert (arrivals, path) == ([], "good/1.png")
    assert reason.startswith(("cannot be read: ", "not a regular file", "a link, ", "changed since it was listed"))
    assert list(source.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exchanged_after_it_was_copied_is_not_removed(folder, tmp_path, kind):
    landing = Landing(str(folder))
    arrivals = copy_all(landing, tmp_path / "source")
    exchange(folder / "good" / "1.png", kind, tmp_path)
    left = landing.remove(arrivals)
    assert [entry.path for entry in left] == ([] if kind == "nothing" else ["good/1.png"])
    assert os.path.lexists(folder / "good" / "1.png") is (kind != "nothing")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nothing"])
def test_what_is_exchanged_after_it_was_copied_is_not_moved(folder, tmp_path, kind):
    landing = Landing(str(folder))
    (arrival,) = copy_all(landing, tmp_path / "source")
    exchange(folder / "good" / "1.png", kind, tmp_path)
    batch, stays = landing.reject([Unused(arrival, "why")])
    assert [entry.path for entry in stays] == ["good/1.png"]
    assert os.path.lexists(folder / "good" / "1.png")
    assert not [path for path in (folder / batch).rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_nothing_is_moved_out_of_the_landing_folder(folder, tmp_path, kind):
    """Someone put a link, or a file, where the rejected files go."""
    landing = Landing(str(folder))
    (arrival,) = copy_all(landing, tmp_path / "source")
    (tmp_path / "theirs").mkdir()
    if kind == "link":
        (folder / "rejected").symlink_to(tmp_path / "theirs")
    else:
        (folder / "rejected").write_bytes(b"x")
    _, ((path, reason),) = landing.reject([Unused(arrival, "why")])
    assert (path, reason) == ("good/1.png", "cannot be moved: Not a directory")
    assert list((tmp_path / "theirs").iterdir()) == []
    assert (folder / "good" / "1.png").read_bytes() == b"one"


def test_what_grows_while_it_is_read_is_cut_off(folder, tmp_path, monkeypatch):
    landing = Landing(str(folder))
    ready = landing.look(0).ready
    monkeypatch.setattr(os, "read", lambda _descriptor, n_bytes: b"x" * n_bytes)
    monkeypatch.setattr(folders, "MAX_BYTES", 5 << 20)
    monkeypatch.setattr(folders, "format_stamp", lambda _status: f"{time.monotonic_ns()}")
    assert landing.copy_in(ready, tmp_path / "source") == ([], [("good/1.png", "changed since it was listed")])
