import os
import sqlite3
import time
from pathlib import Path

import pytest

from conftest import draw_image, encode_image
from relearn.dataset import inspections
from relearn.dataset.inspections import Inspection, Inspections, inspect_content
from relearn.dataset.stamps import read_stamp
from relearn.storage.files import hash_bytes

DATABASE = Path("cache/inspections.sqlite")
IMAGE = Inspection("a" * 64, 9, 3, 4, "RGB", "PNG", 1.5, "abc")


def test_content_is_inspected():
    content = encode_image(draw_image(1, (40, 30)))
    seen = inspect_content(content, hash_bytes(content))
    assert seen[:6] == (hash_bytes(content), len(content), 40, 30, "RGB", "PNG")
    assert seen.contrast > 5
    assert seen.hashes
    assert seen.refusal == ""
    assert inspect_content(b"text", "x").refusal.startswith("not an image")


def test_what_was_seen_is_remembered(workspace):
    refused = Inspection("b" * 64, 4, refusal="empty file")
    with Inspections(DATABASE) as memory:
        assert memory.find_content(IMAGE.sha256) is None
        memory.add(IMAGE)
        memory.add(refused)
    with Inspections(DATABASE) as memory:
        assert memory.find_content(IMAGE.sha256) == IMAGE
        assert memory.find_content(refused.sha256) == refused


def test_code_that_changed_remembers_nothing(workspace, monkeypatch):
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
    monkeypatch.setattr(inspections, "version", lambda name: "0")
    with Inspections(DATABASE) as memory:
        assert memory.find_content(IMAGE.sha256) is None


def test_file_is_known_until_it_changes(workspace, settled):
    path = Path("image.png")
    path.write_bytes(b"one")
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
        stamp = read_stamp(path)
        assert memory.find_file(path, stamp) is None
        memory.add_file(path, stamp, IMAGE.sha256)
        assert memory.find_file(path, read_stamp(path)) == IMAGE
        assert memory.find_file(Path("other.png"), stamp) is None
        # The same size and the old time of modification, as a careful program would leave them.
        status = path.stat()
        time.sleep(0.01)
        path.write_bytes(b"two")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert memory.find_file(path, read_stamp(path)) is None


def test_file_that_was_just_changed_may_be_changed_again(workspace):
    path = Path("image.png")
    path.write_bytes(b"one")
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
        memory.add_file(path, read_stamp(path), IMAGE.sha256)
        assert memory.find_file(path, read_stamp(path)) is None


def test_names_that_are_no_text(workspace, settled):
    path = Path(os.fsdecode(b"\xff'; DROP TABLE record.png"))
    path.write_bytes(b"x")
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
        memory.add_file(path, read_stamp(path), IMAGE.sha256)
        assert memory.find_file(path, read_stamp(path)) == IMAGE


def test_record_that_was_tampered_with_is_not_believed(workspace):
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
    with sqlite3.connect(DATABASE) as database:
        assert database.execute("UPDATE record SET record = replace(record, 'RGB', 'L')").rowcount == 1
    database.close()
    with Inspections(DATABASE) as memory:
        assert memory.find_content(IMAGE.sha256) is None


@pytest.mark.parametrize("damage", ["text", "middle", "short"])
def test_damaged_database_is_reported_and_recreated(workspace, caplog, damage):
    with Inspections(DATABASE) as memory:
        for number in range(300):
            memory.add(IMAGE._replace(sha256=f"{number:064}"))
    content = bytearray(DATABASE.read_bytes())
    if damage == "text":
        content[:] = b"no database at all" * 100
    elif damage == "middle":
        content[4096:] = b"\xff" * (len(content) - 4096)
    else:
        del content[5000:]
    DATABASE.write_bytes(content)
    with Inspections(DATABASE) as memory:
        assert memory.find_content(f"{7:064}") is None
        memory.add(IMAGE)
        assert memory.find_content(IMAGE.sha256) == IMAGE
    assert "inspections.sqlite: damaged (" in caplog.text
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
    with Inspections(DATABASE) as memory:
        assert memory.find_content(IMAGE.sha256) == IMAGE


def test_no_place_for_a_database(workspace, caplog):
    Path("cache").write_text("a file")
    with Inspections(DATABASE) as memory:
        memory.add(IMAGE)
        assert memory.find_content(IMAGE.sha256) is None
    assert "cache/inspections.sqlite: File exists; images are decoded again" in caplog.text
    assert Path("cache").read_text() == "a file"


def test_two_at_once(workspace):
    with Inspections(DATABASE) as one, Inspections(DATABASE) as other:
        for number in range(100):
            (one if number % 2 else other).add(IMAGE._replace(sha256=f"{number:064}"))
        assert all(one.find_content(f"{number:064}") for number in range(100))
        assert all(other.find_content(f"{number:064}") for number in range(100))
