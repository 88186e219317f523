from pathlib import Path

import pytest

from relearn.dataset.assignments import Assignment, hash_group, read_assignments, read_groups, write_assignments
from relearn.errors import IntegrityError

A, B, C = ("a" * 16, "b" * 16, "c" * 16)


def test_what_is_written_is_read_in_order(tmp_path):
    path = tmp_path / "data" / "splits.csv"
    rows = [Assignment(B, "training", C), Assignment(A, "evaluation", "")]
    write_assignments(path, {row.sha256: row for row in rows})
    assert path.read_text() == f"sha256,split,group\n{A},evaluation,\n{B},training,{C}\n"
    assert list(read_assignments(path).values()) == rows[::-1]
    images = [A + "0" * 48, B + "1" * 48, C + "2" * 48]
    assert read_groups(path, images) == [images[0], C, images[2]]
    assert read_groups(path, images[::2]) is None
    with pytest.raises(IntegrityError, match=r"none.csv: no such file; run `dvc repro restructure`"):
        read_groups(tmp_path / "none.csv", images)
    assert read_assignments(tmp_path / "none.csv") == {}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            ["x,training,"],
            "row 2: wanted 16 hexadecimal digits, one of training, validation, evaluation, and 16 digits ",
        ),
        ([f"{A},test,"], f"row 2: wanted .*, got '{A},test,'"),
        ([f"{A},training,Jane Doe"], f"row 2: wanted .*, got '{A},training,Jane Doe'"),
        ([f"{A},training"], "row 2: wanted 3 cells, got 2"),
        ([f"{A},training,", f"{A},training,", f"{A},evaluation,"], f"row 4: .*, got {A} in training and in evaluation"),
        ([f"{A},training,", "=======", f"{A},evaluation,"], "row 3: wanted 3 cells, got 1"),
        ([f"{A}\0,training,"], "row 2: wanted 16 hexadecimal digits"),
    ],
)
def test_damaged_file_is_one_clear_error(tmp_path, rows, problem):
    path = tmp_path / "splits.csv"
    path.write_text("\n".join(["sha256,split,group", *rows]))
    with pytest.raises(IntegrityError, match=problem) as caught:
        read_assignments(path)
    assert str(caught.value).endswith("restores it; without the file all images are cut again")


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"\xff\xfe", b"sha256,split,group\n\xff,training,\n"])
def test_foreign_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "splits.csv"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"splits\.csv: wanted .* restores it"):
        read_assignments(path)


def test_group_of_any_name_has_16_digits():
    assert hash_group("") == ""
    assert len(hash_group("x" * 1_000_000)) == len(hash_group("J\u00fcrgen \udcff, \n")) == 16


def test_folder_in_place_of_the_file(tmp_path):
    Path(tmp_path / "splits.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        read_assignments(tmp_path / "splits.csv")
