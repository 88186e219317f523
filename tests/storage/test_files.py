import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from relearn.errors import IntegrityError
from relearn.storage.files import (
    hash_bytes,
    hash_file,
    read_csv,
    read_json,
    write_array,
    write_csv,
    write_file,
    write_folder,
    write_json,
)


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_bytes(b"abc") == hash_file(tmp_path / "abc") == expected


def test_file_appears_whole(tmp_path):
    with write_file(tmp_path / "new" / "a") as file:
        file.write(b"half")
        assert not (tmp_path / "new" / "a").exists()
    assert (tmp_path / "new" / "a").read_bytes() == b"half"
    assert os.listdir(tmp_path / "new") == ["a"]


def test_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"), write_file(tmp_path / "a") as file:
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_full_disk_is_reported_with_the_path(tmp_path):
    for write in (write_file, write_folder):
        with pytest.raises(OSError, match="No space left") as caught, write(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert caught.value.filename == str(tmp_path / "a")


def test_arrays_are_npy_files(tmp_path):
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    write_array(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk_has_its_cause(tmp_path):
    """/dev/full takes nothing; numpy's own save would tell of it without a cause."""
    with pytest.raises(OSError, match="No space left on device"), open("/dev/full", "wb") as full:
        full.write(np.zeros(100_000, np.float32).data)


def test_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(OSError, match="No such file"), write_folder(tmp_path / "folder") as partial:
        partial.rmdir()
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["old"]


def test_kill_while_the_old_folder_is_deleted_leaves_the_new_one(tmp_path, monkeypatch):
    """Deleting is what takes time: half an old folder must not stand under the name."""
    seen = []
    original = shutil.rmtree

    def watch(path, **options):
        seen.append(sorted(os.listdir(tmp_path / "folder")) if (tmp_path / "folder").exists() else None)
        original(path, **options)

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    monkeypatch.setattr(shutil, "rmtree", watch)
    with write_folder(tmp_path / "folder") as partial:
        (partial / "new").touch()
    assert seen == [["old"], ["new"], ["new"]]
    assert os.listdir(tmp_path) == ["folder"]


def test_failed_folder_leaves_the_old_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(ValueError, match="stop"), write_folder(tmp_path / "folder") as partial:
        (partial / "new").touch()
        raise ValueError("stop")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["old"]


def test_folder_is_replaced(tmp_path):
    for name in ("old", "new"):
        with write_folder(tmp_path / "folder") as partial:
            (partial / name).touch()
    assert os.listdir(tmp_path / "folder") == ["new"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path; from relearn.storage.files import write_file, write_folder\n"
        "with write_folder(Path(sys.argv[1]) / 'a') as folder, write_file(Path(sys.argv[1]) / 'b') as file:\n"
        "    (folder / 'x').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert len(os.listdir(tmp_path)) == 2
    with write_folder(tmp_path / "a"), write_file(tmp_path / "b"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_partial_of_a_living_process_is_left_alone(tmp_path):
    living = tmp_path / f".a.{os.getppid()}.partial"
    living.touch()
    with write_file(tmp_path / "a"):
        pass
    assert living.exists()


def test_json_keeps_order_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'
    assert read_json(tmp_path / "a.json") == {"b": 1, "a": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_json_errors_name_the_file_and_the_next_step(tmp_path):
    with pytest.raises(IntegrityError, match=r"a\.json: no such file; run `dvc repro`"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"a\.json: wanted JSON, got Expecting"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match=r"a\.json: wanted JSON, got maximum recursion depth exceeded"):
        read_json(tmp_path / "a.json")
    for constant in ("NaN", "Infinity", "-Infinity"):
        (tmp_path / "a.json").write_text(f'{{"a": [{constant}]}}')
        with pytest.raises(IntegrityError, match=rf"a\.json: wanted JSON, got {constant}, which is no JSON; run"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"a\.json: wanted a JSON object, got a list"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(IntegrityError, match=r"a\.json: wanted the key b, got a; run"):
        read_json(tmp_path / "a.json", ("a", "b"))


def test_csv_round_trip(tmp_path):
    rows = [["a,b", 'say "x"'], ["é", ""]]
    write_csv(tmp_path / "a.csv", ("x", "y"), rows)
    assert read_csv(tmp_path / "a.csv", ("x", "y")) == rows
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


def test_csv_from_a_spreadsheet_or_an_editor(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffx,y\r\n1,é\r\n\r\n\r\n", encoding="utf-8", newline="")
    assert read_csv(tmp_path / "a.csv", ("x", "y")) == [["1", "é"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; run `dvc repro`"),
        ("", "wanted the columns x,y, got "),
        ("y,x\n", "wanted the columns x,y, got y,x"),
        ("x,y\n1,2\n3\n", "row 3: wanted 2 cells, got 1"),
        ("x,y\n\n1,2\n", "row 2: wanted 2 cells, got 0"),
        ("x,y\n1,\xff\n", "wanted CSV in UTF-8, got 'utf-8' codec"),
        ("x,y\n1," + "a" * 200_000, "wanted CSV in UTF-8, got field larger than field limit"),
    ],
)
def test_csv_errors(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.csv").write_text(content, encoding="latin-1")
    with pytest.raises(IntegrityError, match=message):
        read_csv(tmp_path / "a.csv", ("x", "y"))


def test_two_processes_that_write_one_folder(tmp_path):
    program = """
import sys
from pathlib import Path
from relearn.storage.files import write_folder
for number in range(100):
    with write_folder(Path(sys.argv[1])) as folder:
        (folder / "a").write_text(sys.argv[2])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "folder")]
    children = [subprocess.Popen([*command, name]) for name in "xy"]
    assert [child.wait() for child in children] == [0, 0]
    assert os.listdir(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "a").read_text() in "xy"
