import numpy as np
import pytest

from relearn.dataset.manifest import ManifestRow, sort_key
from relearn.errors import IntegrityError
from relearn.features import shards as features
from relearn.features.shards import describe_features, read_features, write_features
from relearn.storage.files import hash_bytes, hash_file

COUNTS = {"training": 5, "validation": 2, "evaluation": 3}


def make_manifest(counts=COUNTS):
    """Images whose hashes begin with other bits: 0, 8, 4, c, 2 ..."""
    rows = []
    for split, count in counts.items():
        names = sorted(f"{int(f'{number:04b}'[::-1], 2):x}".ljust(64, "0") for number in range(count))
        rows += [
            ManifestRow(f"{split}/{number}", split, f"c{number % 2}", name, 1, 1, 1, "L", "PNG")
            for number, name in enumerate(names)
        ]
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Features whose every number is the first digit of the image's hash, in shards of two rows."""
    monkeypatch.setattr(features, "SHARD_BYTES", 2 * 3 * 4)
    write_features(tmp_path, make_manifest(), lambda image: np.full(3, int(image[0], 16), np.float32), RECORD)
    return tmp_path


RECORD = {"network": "x", "n_features": 3, "feature_dtype": "float32"}


def test_each_split_is_read_in_order(folder):
    for split, digits in {"training": "0248c", "validation": "08", "evaluation": "048"}.items():
        part = read_features(folder, split)
        assert part.features.dtype == np.float32
        assert np.array_equal(part.features, np.array([int(digit, 16) for digit in digits])[:, None].repeat(3, axis=1))
        assert part.sha256 == [digit.ljust(64, "0") for digit in digits]
        assert part.labels == [f"c{n % 2}" for n in range(len(digits))]


def test_a_split_shares_no_shard(folder):
    names = sorted(path.name for path in folder.glob("*.npy"))
    assert names == [
        "evaluation-0.npy",
        "evaluation-1.npy",
        "training-00.npy",
        "training-01.npy",
        "training-1.npy",
        "validation.npy",
    ]
    for path in folder.glob("evaluation-*"):
        path.unlink()
    assert len(read_features(folder, "training").labels) == 5


def test_split_without_images(tmp_path):
    write_features(tmp_path, make_manifest({"training": 5}), lambda image: np.zeros(3, np.float32), RECORD)
    assert read_features(tmp_path, "evaluation").features.shape == (0, 0)
    assert read_features(tmp_path, "evaluation").labels == []


def test_half_as_wide_numbers_are_read_as_float32(tmp_path):
    record = RECORD | {"feature_dtype": "float16"}
    write_features(tmp_path, make_manifest(), lambda image: np.full(3, 1.5, np.float16), record)
    assert np.load(tmp_path / "training.npy").dtype == np.float16
    part = read_features(tmp_path, "training")
    assert part.features.dtype == np.float32
    assert (part.features == 1.5).all()


def test_an_image_more_changes_one_shard_or_two(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 8 * 3 * 4)
    manifest = [
        ManifestRow(str(n), "training", "a", hash_bytes(str(n).encode()), 1, 1, 1, "L", "PNG") for n in range(300)
    ]
    shards = []
    for n_images in (290, 291, 300):
        rows = sorted(manifest[:n_images], key=sort_key)
        folder = tmp_path / str(n_images)
        folder.mkdir()
        write_features(folder, rows, lambda image: np.full(3, int(image[:4], 16), np.float32), RECORD)
        assert read_features(folder, "training").sha256 == [row.sha256 for row in rows]
        shards.append({path.name: path.read_bytes() for path in folder.glob("*.npy")})
    assert len(shards[0]) > 40
    assert len(shards[1].items() - shards[0].items()) <= 2
    assert len(shards[2].items() - shards[0].items()) <= 20


def test_copies_stay_in_one_shard_however_many(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 2 * 3 * 4)
    row = ManifestRow("x", "training", "a", "5" * 64, 1, 1, 1, "L", "PNG")
    manifest = [row._replace(path=str(n)) for n in range(9)] + [row._replace(path="y", sha256="6" * 64)]
    write_features(tmp_path, manifest, lambda image: np.zeros(3, np.float32), RECORD)
    assert len(read_features(tmp_path, "training").labels) == 10
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_missing_shard(folder):
    (folder / "training-01.npy").unlink()
    with pytest.raises(IntegrityError, match=r"training-01\.npy: no such file, though shards\.csv names it"):
        read_features(folder, "training")


def test_damaged_shard_is_not_parsed(folder):
    path = folder / "training-01.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"training-01\.npy: wanted sha256 \w+ \(shards\.csv\), got other bytes"):
        read_features(folder, "training")


def test_shard_missing_in_the_index(folder):
    index = (folder / "shards.csv").read_text().splitlines(keepends=True)
    (folder / "shards.csv").write_text("".join(line for line in index if "training-1.npy" not in line))
    with pytest.raises(IntegrityError, match=r"wanted 5 rows in the shards \(index\.csv\), got 3"):
        read_features(folder, "training")


def test_rows_out_of_order(folder):
    text = (folder / "index.csv").read_text()
    (folder / "index.csv").write_text(text.replace("training-00.npy,0,", "training-00.npy,1,"))
    with pytest.raises(IntegrityError, match=r"the rows of training-00\.npy are not in order"):
        read_features(folder, "training")


def test_description_names_the_bytes(folder):
    hashes = {f"{name}_sha256": hash_file(folder / f"{name}.csv") for name in ("index", "shards")}
    features, extractor = describe_features(folder)
    assert (features.model_dump(), extractor) == (hashes, RECORD)


@pytest.mark.parametrize(("column", "value"), [(2, "x"), (2, "3"), (3, "4")])
def test_shape_that_is_not_the_recorded_one(folder, column, value):
    lines = (folder / "shards.csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[column] = value
    (folder / "shards.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    with pytest.raises(IntegrityError, match=r"training-00\.npy: wanted .* rows of .*, got \(2, 3\)"):
        read_features(folder, "training")


def list_keys(image):
    """Two views of each training image."""
    return [image.sha256 + view for view in ("", "01", "02")] if image.split == "training" else [image.sha256]


def read_key(key):
    return np.full(3, int(key[0], 16) + int(key[64:] or "0", 16) / 10, np.float32)


@pytest.fixture
def with_views(folder, tmp_path):
    (tmp_path / "views").mkdir()
    write_features(tmp_path / "views", make_manifest(), read_key, RECORD, list_keys)
    return tmp_path / "views"


def test_views_follow_their_image(with_views):
    training = read_features(with_views, "training")
    assert training.n_views == 2
    images = [row.sha256 for row in sorted(make_manifest({"training": 5}), key=sort_key)]
    assert training.sha256 == [image for image in images for _ in range(3)]
    wanted = [int(image[0], 16) + view / 10 for image in images for view in range(3)]
    assert np.array_equal(training.features[:, 0], np.array(wanted, np.float32))
    for split in ("validation", "evaluation"):
        found = read_features(with_views, split)
        assert (found.n_views, len(found.labels)) == (0, COUNTS[split])
    index = (with_views / "index.csv").read_text().splitlines()
    assert index[0] == "shard,row,sha256,split,label,view"
    assert {line.rsplit(",", 1)[1] for line in index[1:] if ",training," in line} == {"0", "1", "2"}
    assert {line.rsplit(",", 1)[1] for line in index[1:] if ",training," not in line} == {"0"}


def test_without_views_no_file_speaks_of_them(folder, with_views):
    assert (folder / "index.csv").read_text().startswith("shard,row,sha256,split,label\n")
    for split in ("validation", "evaluation"):
        for path in folder.glob(f"{split}*.npy"):
            assert path.read_bytes() == (with_views / path.name).read_bytes()


@pytest.mark.parametrize(
    ("old", "new"), [(",c0,1", ",c0,2"), (",c0,2", ",c0,1"), (",c1,0", ",c1,1"), (",c0,1", ",c0,x")]
)
def test_views_that_do_not_belong_there_are_reported(with_views, old, new):
    text = (with_views / "index.csv").read_text()
    assert old in text
    (with_views / "index.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(IntegrityError, match=r"index\.csv: .*, row \d: not a view that belongs there; run `dvc repro"):
        read_features(with_views, "training")


def test_no_other_split_has_views(folder, tmp_path):
    (tmp_path / "wrong").mkdir()
    write_features(tmp_path / "wrong", make_manifest(), read_key, RECORD, lambda image: [image.sha256, image.sha256])
    with pytest.raises(IntegrityError, match=r"evaluation.*: not a view that belongs there"):
        read_features(tmp_path / "wrong", "evaluation")
