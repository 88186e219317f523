import os
import time

import fsspec
import pytest

from relearn.errors import SourceError
from relearn.files import hash_bytes
from relearn.landing import Landing

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
    return [file.path for file in landing.list_waiting(settle_seconds)]


def test_files_are_copied_and_then_removed(landing, tmp_path):
    source = tmp_path / "source"
    waiting = landing.list_waiting(0)
    assert [file.path for file in waiting] == list(FILES)
    arrivals = landing.copy_in(waiting, source)
    assert {a.target: a.sha256 for a in arrivals} == {path: hash_bytes(content) for path, content in FILES.items()}
    found = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert found == FILES
    assert list_paths(landing) == list(FILES)
    assert landing.remove(arrivals) == 0
    assert list_paths(landing) == []
    assert landing.remove(arrivals) == 0


def test_a_name_that_is_taken_gets_its_hash_unless_the_bytes_are_the_same(landing, tmp_path):
    source = tmp_path / "source" / "cat"
    source.mkdir(parents=True)
    (source / "1.png").write_bytes(b"another")
    arrivals = landing.copy_in(landing.list_waiting(0), tmp_path / "source")
    renamed = f"cat/1-{hash_bytes(b'one')[:8]}.png"
    assert [arrival.target for arrival in arrivals] == [renamed, "cat/deep/2.png", "dog/1.png"]
    assert (source / "1.png").read_bytes() == b"another"
    again = landing.copy_in(landing.list_waiting(0), tmp_path / "source")
    assert [arrival.target for arrival in again] == [renamed, "cat/deep/2.png", "dog/1.png"]
    assert sum(path.is_file() for path in (tmp_path / "source").rglob("*")) == 4


def test_what_is_still_being_written_and_what_is_hidden_waits(landing, tmp_path):
    assert list_paths(landing, settle_seconds=60) == []
    with fsspec.open(f"{landing.address}/cat/.3.png.part", "wb", auto_mkdir=True) as file:
        file.write(b"x")
    assert list_paths(landing) == list(FILES)


def test_what_changed_after_it_was_copied_stays(landing, tmp_path):
    arrivals = landing.copy_in(landing.list_waiting(0), tmp_path / "source")
    with fsspec.open(f"{landing.address}/dog/1.png", "wb") as file:
        file.write(b"three and more")
    assert landing.remove(arrivals) == 1
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
    with pytest.raises(
        SourceError, match=r"^retrain.landing: .*/nowhere: no such folder; make it, or mend the address$"
    ):
        Landing(str(tmp_path / "nowhere")).list_waiting(0)


def test_nothing_is_taken_while_something_still_arrives(tmp_path):
    for name, age in (("old.png", 1000), ("new.png", 10)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    assert list_paths(Landing(str(tmp_path)), 100) == []
    assert list_paths(Landing(str(tmp_path)), 5) == ["new.png", "old.png"]


@pytest.mark.parametrize(("address", "is_remote"), [("folder", False), ("file:///folder", False), ("memory://x", True)])
def test_what_is_reached_by_a_network(address, is_remote):
    assert Landing(address).is_remote is is_remote
