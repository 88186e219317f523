import os
import re
import sys
import time

import fsspec
import pytest

from relearn.errors import SourceError, UnreachableSource
from relearn.retraining import folders
from relearn.retraining import landing as landing_module
from relearn.retraining.arrivals import Unused, Waiting
from relearn.retraining.landing import EXTRAS, Landing
from relearn.storage.files import hash_bytes
from retrainings import copy_all

FILES = {"cat/1.png": b"one", "cat/deep/2.png": b"two", "dog/1.png": b"three"}


@pytest.fixture(params=["local", "memory"])
def landing(request, tmp_path):
    """The same three files in a folder and in fsspec's own memory, which stands for any address."""
    address = str(tmp_path / "landing") if request.param == "local" else f"memory://{tmp_path.name}/landing"
    for path, content in FILES.items():
        with fsspec.open(f"{address}/{path}", "wb", auto_mkdir=True) as file:
            file.write(content)
    return Landing(address)


def list_paths(landing, settle_seconds=0):
    return [file.path for file in landing.look(settle_seconds).ready]


def test_files_are_copied_and_then_removed(landing, tmp_path):
    source = tmp_path / "source"
    arrivals = copy_all(landing, source)
    assert [arrival.waiting.path for arrival in arrivals] == list(FILES)
    assert {a.target: a.sha256 for a in arrivals} == {path: hash_bytes(content) for path, content in FILES.items()}
    found = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert found == FILES
    assert list_paths(landing) == list(FILES)
    assert landing.remove(arrivals) == []
    assert list_paths(landing) == []
    assert landing.remove(arrivals) == []


def test_a_name_that_is_taken_gets_its_hash_unless_the_bytes_are_the_same(landing, tmp_path):
    source = tmp_path / "source" / "cat"
    source.mkdir(parents=True)
    (source / "1.png").write_bytes(b"another")
    arrivals = copy_all(landing, tmp_path / "source")
    renamed = f"cat/1-{hash_bytes(b'one')[:8]}.png"
    assert [arrival.target for arrival in arrivals] == [renamed, "cat/deep/2.png", "dog/1.png"]
    assert (source / "1.png").read_bytes() == b"another"
    again = copy_all(landing, tmp_path / "source")
    assert [arrival.target for arrival in again] == [renamed, "cat/deep/2.png", "dog/1.png"]
    assert sum(path.is_file() for path in (tmp_path / "source").rglob("*")) == 4


def test_what_is_still_being_written_and_what_is_hidden_waits(landing, tmp_path):
    assert list_paths(landing, settle_seconds=60) == []
    for name in (".3.png.part", "Thumbs.db"):
        with fsspec.open(f"{landing.address}/cat/{name}", "wb", auto_mkdir=True) as file:
            file.write(b"x")
    assert list_paths(landing) == list(FILES)
    assert [entry.reason for entry in landing.look(0).left] == ["hidden"] * 2


def test_what_changed_after_it_was_copied_stays(landing, tmp_path):
    arrivals = copy_all(landing, tmp_path / "source")
    with fsspec.open(f"{landing.address}/dog/1.png", "wb") as file:
        file.write(b"three and more")
    assert landing.remove(arrivals) == [("dog/1.png", "changed after it was copied")]
    assert list_paths(landing) == ["dog/1.png"]


def test_settled_by_its_time(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    os.utime(tmp_path / "a.png", (time.time() - 100, time.time() - 100))
    landing = Landing(str(tmp_path))
    assert list_paths(landing, 60) == ["a.png"]
    assert list_paths(landing, 200) == []


def test_addresses_that_cannot_be(tmp_path):
    with pytest.raises(SourceError, match=r"retrain\.landing: nonsense://x: Protocol not known: nonsense"):
        Landing("nonsense://x")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"^retrain.landing: .*/file: cannot be listed: Not a directory$"):
        Landing(str(tmp_path / "file")).look(0)


def test_a_folder_that_is_missing_is_empty(tmp_path):
    assert Landing(str(tmp_path / "nowhere")).look(0) == ([], [], [], None, True)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("address", "advice"),
    [(f"{scheme}://x/y", f"; run `make setup EXTRAS={extra}`") for extra in EXTRAS for scheme in EXTRAS[extra]]
    + [("hdfs://x/y", "")],
)
def test_an_address_whose_packages_are_not_installed_names_the_extra(monkeypatch, address, advice):
    for module in ("s3fs", "gcsfs", "adlfs", "sshfs", "paramiko", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError) as raised:
        Landing(address)
    scheme = address.partition(":")[0]
    pattern = rf"retrain\.landing: {address}: wanted the packages for {scheme}://, got .*"
    assert re.fullmatch(pattern + re.escape(advice), str(raised.value))
    assert ("EXTRAS" in str(raised.value)) is bool(advice)


def test_an_address_that_cannot_be_connected_to(monkeypatch):
    def refuse(*_arguments, **_options):
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_get_kwargs_from_urls", refuse)
    with pytest.raises(SourceError, match=r"^retrain\.landing: memory://x: refused$"):
        Landing("memory://x")


def test_nothing_is_taken_while_something_still_arrives(tmp_path):
    for name, age in (("old.png", 1000), ("new.png", 10)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    found = Landing(str(tmp_path)).look(100)
    assert (found.ready, found.left) == ([], [])
    assert found.waiting == [
        ("new.png", "written to 10 s ago; retrain.settle_seconds: 100"),
        ("old.png", "waits until the others have arrived"),
    ]
    assert found.settled_at == pytest.approx(time.time() + 90, abs=5)
    assert list_paths(Landing(str(tmp_path)), 5) == ["new.png", "old.png"]
    assert list_paths(Landing(str(tmp_path)), landing_module.NOW) == ["new.png", "old.png"]


def test_now_takes_also_what_the_clock_of_another_machine_wrote(folder):
    os.utime(folder / "good" / "1.png", (time.time() + 30, time.time() + 30))
    assert list_paths(Landing(str(folder))) == []
    assert list_paths(Landing(str(folder)), landing_module.NOW) == ["good/1.png"]


@pytest.mark.parametrize(("address", "is_remote"), [("folder", False), ("file:///folder", False), ("memory://x", True)])
def test_what_is_reached_by_a_network(address, is_remote):
    assert Landing(address).is_remote is is_remote


def test_a_place_that_is_taken_by_another_kind(folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "good").write_bytes(b"a file")
    landing = Landing(str(folder))
    assert landing.copy_in(landing.look(0).ready, source) == (
        [],
        [("good/1.png", "the source has a file where this needs a folder: good")],
    )
    (source / "good").unlink()
    (source / "good" / "1.png").mkdir(parents=True)
    (arrival,) = copy_all(landing, source)
    assert arrival.target == f"good/1-{hash_bytes(b'one')[:8]}.png"


def test_a_name_that_imitates_one_by_hash_is_not_overwritten(folder, tmp_path):
    source = tmp_path / "source" / "good"
    source.mkdir(parents=True)
    short, long = (f"1-{hash_bytes(b'one')[:n_digits]}.png" for n_digits in (8, 64))
    for name in ("1.png", short):
        (source / name).write_bytes(b"another")
    (arrival,) = copy_all(Landing(str(folder)), source.parent)
    assert arrival.target == f"good/{long}"
    (source / long).write_bytes(b"a third")
    _, left = Landing(str(folder)).copy_in(Landing(str(folder)).look(0).ready, source.parent)
    assert [entry.path for entry in left] == ["good/1.png"]
    assert [(source / name).read_bytes() for name in ("1.png", short, long)] == [b"another", b"another", b"a third"]


def test_a_long_name_keeps_its_ending(tmp_path):
    name = "ä" * 125 + ".png"
    for root, content in (("landing", b"one"), ("source", b"another")):
        (tmp_path / root / "a").mkdir(parents=True)
        (tmp_path / root / "a" / name).write_bytes(content)
    (arrival,) = copy_all(Landing(str(tmp_path / "landing")), tmp_path / "source")
    assert arrival.target.endswith(f"ä-{hash_bytes(b'one')[:8]}.png")
    assert (tmp_path / "source" / arrival.target).read_bytes() == b"one"


def test_one_retraining_takes_so_many(landing, monkeypatch):
    monkeypatch.setattr(landing_module, "MAX_FILES", 2)
    assert list_paths(landing) == list(FILES)[:2]
    assert [entry.path for entry in landing.look(0).waiting] == list(FILES)[2:]
    monkeypatch.setattr(landing_module, "MAX_FILES", 3)
    monkeypatch.setattr(landing_module, "MAX_TOTAL_BYTES", 5)
    assert list_paths(landing) == list(FILES)[:1]
    monkeypatch.setattr(landing_module, "MAX_LISTED", 2)
    with pytest.raises(SourceError, match=r"^retrain.landing: .*: wanted at most 2 files, got more; take some out$"):
        landing.look(0)


@pytest.mark.parametrize("landing", ["memory"], indirect=True)
def test_sizes_and_names_at_an_address(landing, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MAX_BYTES", 4)
    monkeypatch.setattr("relearn.dataset.source_files.MAX_BYTES", 4)
    root = landing.address.removeprefix("memory:/")
    for path in ("a/../../up.png", "a//double.png", "tab\t.png"):
        fsspec.filesystem("memory").store[f"{root}/{path}"] = fsspec.filesystem("memory").store[f"{root}/dog/1.png"]
    found = landing.look(0)
    assert [file.path for file in found.ready] == ["cat/1.png", "cat/deep/2.png"]
    assert sorted(reason.split(":")[0] for _, reason in found.left) == [
        "name holds a control character",
        "name points outside the archive",
        "not a regular file",
        "too large",
    ]
    grown = [Waiting("dog/1.png", "x", 1), Waiting("gone.png", "x", 1)]
    arrivals, left = landing.copy_in(grown, tmp_path / "source")
    assert arrivals == []
    assert [entry.reason.split(":")[0] for entry in left] == ["too large", "cannot be read"]


class Foreign(Exception):
    """As the clients of object stores have them, which are no OSError."""


@pytest.mark.parametrize("landing", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("error", "is_network"),
    [(PermissionError("x"), False), (TimeoutError("x"), True), (Foreign("x"), True)],
)
def test_what_the_network_may_have_failed_is_told_apart(landing, monkeypatch, error, is_network):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", fail)
    with pytest.raises(SourceError, match=r"^retrain.landing: memory://.*: cannot be listed: x$") as raised:
        landing.look(0)
    assert isinstance(raised.value, UnreachableSource) is is_network


def read_rejected(landing):
    """Return the content of each file below the folder of what was rejected."""
    files, root = fsspec.core.url_to_fs(landing.address)
    return {path.removeprefix(f"{root}/rejected/"): files.cat_file(path) for path in files.find(f"{root}/rejected")}


def test_what_cannot_be_used_is_moved_with_the_reason_and_not_looked_at_again(landing, tmp_path):
    with fsspec.open(f"{landing.address}/cat/*.png", "wb") as file:  # which fsspec would take for a pattern
        file.write(b"star")
    arrivals = copy_all(landing, tmp_path / "source")
    batches = []
    for number in (0, 2):
        arrival = next(arrival for arrival in arrivals if arrival.target == ["cat/*.png", "", "dog/1.png"][number])
        batch, stays = landing.reject([Unused(arrival, "no, image\x1b")])
        assert stays == []
        batches.append(batch.removeprefix("rejected/"))
    assert read_rejected(landing) == {
        f"{batches[0]}.csv": b'path,reason\ncat/*.png,"no, image\\u001b"\n',
        f"{batches[0]}/cat/*.png": b"star",
        f"{batches[1]}.csv": b'path,reason\ndog/1.png,"no, image\\u001b"\n',
        f"{batches[1]}/dog/1.png": b"three",
    }
    found = landing.look(0)
    assert [file.path for file in found.ready] == ["cat/1.png", "cat/deep/2.png"]
    assert found.left == found.waiting == []


def test_what_changed_or_is_gone_is_not_rejected(landing, tmp_path):
    arrivals = copy_all(landing, tmp_path / "source")
    with fsspec.open(f"{landing.address}/dog/1.png", "wb") as file:
        file.write(b"three and more")
    landing.remove(arrivals[:1])
    batch, stays = landing.reject([Unused(arrival, "why") for arrival in arrivals])
    assert stays == [("dog/1.png", "changed after it was copied")]
    assert list_paths(landing) == ["dog/1.png"]
    name = batch.removeprefix("rejected/")
    assert read_rejected(landing).keys() == {f"{name}.csv", f"{name}/cat/deep/2.png"}


def test_a_class_may_be_called_rejected(landing):
    with fsspec.open(f"{landing.address}/rejected/1.png", "wb", auto_mkdir=True) as file:
        file.write(b"of a class")
    assert "rejected/1.png" in list_paths(landing)


@pytest.mark.parametrize("landing", ["memory"], indirect=True)
@pytest.mark.parametrize("error", [TimeoutError("x"), Foreign("x")])
def test_a_network_that_fails_in_the_middle(landing, tmp_path, monkeypatch, error):
    def fail(*_arguments, **_options):
        raise error

    arrivals = copy_all(landing, tmp_path / "source")
    for method, what, act in (
        ("rm_file", "removed", lambda: landing.remove(arrivals)),
        ("rm_file", "moved", lambda: landing.reject([Unused(arrivals[0], "why")])),
        ("_open", "written", lambda: landing.reject([Unused(arrivals[0], "why")])),
        ("_open", "read", lambda: landing.copy_in([arrivals[0].waiting], tmp_path / "again")),
    ):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), method, fail)
        with pytest.raises(UnreachableSource, match=rf"^retrain.landing: memory://.*: cannot be {what}: x$"):
            act()
    assert not list((tmp_path / "again").rglob("*.png"))


@pytest.mark.parametrize("landing", ["memory"], indirect=True)
def test_what_somebody_else_removes_at_an_address_is_gone(landing, tmp_path, monkeypatch):
    def fail(*_arguments, **_options):
        raise FileNotFoundError("x")

    arrivals = copy_all(landing, tmp_path / "source")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm_file", fail)
    assert landing.remove(arrivals) == []


def test_a_disk_without_room_is_an_error_before_anything_is_copied(tmp_path):
    with pytest.raises(SourceError, match=r"^retrain.landing: wanted [\d,]+\.\d GB free on the disk of .*, got "):
        landing_module.check_room([Waiting("a", "", 1 << 60)], tmp_path)
    landing_module.check_room([Waiting("a", "", 1)], tmp_path)


@pytest.mark.parametrize(
    "name", ["", "data/raw/photos", "data/raw/photos/new", "data", "data/dataset", ".git", "release/x"]
)
def test_a_landing_folder_apart_from_what_is_the_repositorys_own(tmp_path, name):
    with pytest.raises(SourceError, match=r"^retrain.landing: .*: wanted a folder apart from .*; name another one$"):
        Landing(str(tmp_path / name)).check_is_apart(tmp_path, landing_module.Path("data/raw/photos"))
    for other in ("data/landing", "data/raw/photos-new", "../landing"):
        Landing(str(tmp_path / other)).check_is_apart(tmp_path, landing_module.Path("data/raw/photos"))
