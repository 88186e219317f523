import numpy as np
import pytest

from relearn import features
from relearn.errors import IntegrityError
from relearn.features import describe_features, read_features, write_features
from relearn.files import hash_file
from relearn.manifest import ManifestRow

COUNTS = {"training": 5, "validation": 2, "evaluation": 3}


def make_manifest():
    rows = []
    for split, count in COUNTS.items():
        for number in range(count):
            rows.append(
                ManifestRow(f"{split}/{number}", split, f"c{number % 2}", f"{len(rows):064x}", 1, 1, 1, "L", "PNG")
            )
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Features whose every number is the image's place in the manifest, in shards of two rows."""
    monkeypatch.setattr(features, "ROWS_PER_SHARD", 2)
    manifest = make_manifest()
    write_features(tmp_path, manifest, (np.full(3, n, np.float32) for n in range(len(manifest))), {"network": "x"})
    return tmp_path


def test_each_split_is_read_in_order(folder):
    for split, expected in {"training": range(5), "validation": (5, 6), "evaluation": (7, 8, 9)}.items():
        part = read_features(folder, split)
        assert part.features.dtype == np.float32
        assert np.array_equal(part.features, np.array(expected)[:, None].repeat(3, axis=1))
        assert part.sha256 == [f"{n:064x}" for n in expected]
        assert part.labels == [f"c{n % 2}" for n in range(len(expected))]


def test_a_split_shares_no_shard(folder):
    names = sorted(path.name for path in folder.glob("*.npy"))
    assert names == [
        "evaluation-0000.npy",
        "evaluation-0001.npy",
        "training-0000.npy",
        "training-0001.npy",
        "training-0002.npy",
        "validation-0000.npy",
    ]
    for path in folder.glob("evaluation-*"):
        path.unlink()
    assert len(read_features(folder, "training").labels) == 5


def test_split_without_images(tmp_path):
    write_features(tmp_path, make_manifest()[:5], np.zeros((5, 3), np.float32), {})
    assert read_features(tmp_path, "evaluation").features.shape == (0, 0)
    assert read_features(tmp_path, "evaluation").labels == []


@pytest.mark.parametrize(("n_rows", "message"), [(9, "wanted 10 rows of features, got 9"), (11, "got more")])
def test_rows_must_match_the_manifest(tmp_path, n_rows, message):
    with pytest.raises(IntegrityError, match=message):
        write_features(tmp_path, make_manifest(), np.zeros((n_rows, 3), np.float32), {})


def test_missing_shard(folder):
    (folder / "training-0001.npy").unlink()
    with pytest.raises(IntegrityError, match=r"training-0001\.npy: no such file, though shards\.csv names it"):
        read_features(folder, "training")


def test_damaged_shard_is_not_parsed(folder):
    path = folder / "training-0001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"training-0001\.npy: not the bytes that shards\.csv names"):
        read_features(folder, "training")


def test_shard_missing_in_the_index(folder):
    index = (folder / "shards.csv").read_text().splitlines(keepends=True)
    (folder / "shards.csv").write_text("".join(line for line in index if "training-0002" not in line))
    with pytest.raises(IntegrityError, match=r"5 images in index\.csv, 4 in the shards"):
        read_features(folder, "training")


def test_rows_out_of_order(folder):
    text = (folder / "index.csv").read_text()
    (folder / "index.csv").write_text(text.replace("training-0000.npy,0,", "training-0000.npy,1,"))
    with pytest.raises(IntegrityError, match=r"the rows of training-0000\.npy are not in order"):
        read_features(folder, "training")


def test_description_names_the_bytes(folder):
    hashes = {f"{name}_sha256": hash_file(folder / f"{name}.csv") for name in ("index", "shards")}
    assert describe_features(folder) == {"features": hashes, "extractor": {"network": "x"}}


@pytest.mark.parametrize(("column", "value"), [(2, "x"), (2, "3"), (3, "4")])
def test_shape_that_is_not_the_recorded_one(folder, column, value):
    lines = (folder / "shards.csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[column] = value
    (folder / "shards.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    with pytest.raises(IntegrityError, match=r"training-0000\.npy: wanted .* rows of .*, got \(2, 3\)"):
        read_features(folder, "training")
