import pytest

from relearn.dataset.manifest import ManifestRow, read_manifest, write_manifest
from relearn.errors import IntegrityError


def row(path, split="training", sha256="a" * 64):
    return ManifestRow(path, split, "cat", sha256, 1, 2, 3, "RGB", "PNG")


def test_order_is_split_then_hash_then_path(tmp_path):
    rows = [
        row("training/cat/2", sha256="b" * 64),
        row("training/cat/1", sha256="b" * 64),
        row("evaluation/cat/0", "evaluation", "0" * 64),
        row("validation/cat/0", "validation", "0" * 64),
        row("training/cat/3", sha256="a" * 64),
    ]
    for given in (rows, rows[::-1]):
        write_manifest(tmp_path / "manifest.csv", given)
        assert [row.path for row in read_manifest(tmp_path / "manifest.csv")] == [
            "training/cat/3",
            "training/cat/1",
            "training/cat/2",
            "validation/cat/0",
            "evaluation/cat/0",
        ]


def test_round_trip(tmp_path):
    rows = [row('training/a "b", c/é.png')]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path / "manifest.csv") == rows


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (",training,", ",test,", "row 2: wanted a split of training, validation, evaluation, got 'test'"),
        (",1,2,3,", ",1,two,3,", "row 2: wanted whole numbers, got .*'two'"),
    ],
)
def test_what_is_no_manifest(tmp_path, before, after, message):
    path = tmp_path / "manifest.csv"
    write_manifest(path, [row("training/cat/1")])
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(IntegrityError, match=message):
        read_manifest(path)
