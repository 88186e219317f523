import numpy as np
import pytest

from conftest import write_rows
from relearn.dataset.manifest import ManifestRow
from relearn.errors import IntegrityError
from relearn.features import shards
from relearn.features.neighbors import find_neighbors
from relearn.features.shards import read_image_features, write_features

N_FEATURES = 48


def make_manifest(n_images):
    """Half of the images are in the training split."""
    splits = ["training" if number < n_images // 2 else "evaluation" for number in range(n_images)]
    return [
        ManifestRow(f"{split}/a/{number}.png", split, "a", f"{number * 16**60:064x}", 1, 1, 1, "L", "PNG")
        for number, split in enumerate(splits)
    ]


def make_rows(n_images, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(n_images, N_FEATURES)).astype(dtype)


def compare_all(queries, rows):
    """The definition, in one product."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    lengths = np.linalg.norm(queries, axis=1)[:, np.newaxis] * np.linalg.norm(rows, axis=1)
    return queries @ rows.T / lengths


def find(folder, manifest, queries, k, **options):
    """Return the numbers of the neighbors in the manifest, and the similarities."""
    numbers = {row.path: number for number, row in enumerate(manifest)}
    found = find_neighbors(folder, manifest, queries, k, **options)
    return [[numbers[n.image.path] for n in row] for row in found], [[n.similarity for n in row] for row in found]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_neighbors_are_the_most_similar_of_all(tmp_path, dtype):
    manifest, rows = make_manifest(200), make_rows(200, dtype)
    write_rows(tmp_path, manifest, rows)
    queries = make_rows(230)[200:]
    places, similarities = find(tmp_path, manifest, queries, 7)
    wanted = compare_all(queries, rows)
    assert places == np.argsort(-wanted, axis=1, kind="stable")[:, :7].tolist()
    np.testing.assert_allclose(similarities, -np.sort(-wanted, axis=1)[:, :7], rtol=1e-12)


def test_bits_do_not_depend_on_the_shards(tmp_path, monkeypatch):
    manifest, rows = make_manifest(150), make_rows(150)
    rows[::3] = rows[0]  # many ties
    queries = np.vstack([rows[:5], make_rows(160)[150:]])
    found = []
    for n_images in (1, 7, 32, 1000):
        monkeypatch.setattr(shards, "SHARD_IMAGES", n_images)
        write_rows(tmp_path / str(n_images), manifest, rows)
        found.append(find(tmp_path / str(n_images), manifest, queries, 60))
    assert len({len(list((tmp_path / str(n)).glob("*.npy"))) for n in (1, 7, 32, 1000)}) == 4
    assert all(one == found[0] for one in found)
    assert found[0][0][0][:50] == list(range(0, 150, 3))  # ties in the order of the manifest
    assert len(set(found[0][1][0][:50])) == 1


def test_many_queries_use_little_memory_at_once(tmp_path, monkeypatch):
    manifest, rows = make_manifest(60), make_rows(60)
    write_rows(tmp_path, manifest, rows)
    wanted = find(tmp_path, manifest, rows, 3)
    monkeypatch.setattr("relearn.features.neighbors.MAX_NUMBERS", 5 * N_FEATURES)
    assert find(tmp_path, manifest, rows, 3) == wanted


def test_only_the_split_is_searched_and_an_image_is_not_its_own_neighbor(tmp_path):
    manifest, rows = make_manifest(40), make_rows(40)
    write_rows(tmp_path, manifest, rows)
    hashes = [row.sha256 for row in manifest]
    assert [row[0] for row in find(tmp_path, manifest, rows, 1)[0]] == list(range(40))
    places, _ = find(tmp_path, manifest, rows, 1, left_out=hashes)
    similar = compare_all(rows, rows)
    np.fill_diagonal(similar, -2)
    assert [row[0] for row in places] == similar.argmax(axis=1).tolist()
    places, _ = find(tmp_path, manifest, rows, 2, split="evaluation", left_out=[None] * 40)
    assert {number for row in places for number in row} <= set(range(20, 40))


def test_there_may_be_fewer_than_asked_for(tmp_path):
    manifest, rows = make_manifest(4), make_rows(4)
    write_rows(tmp_path, manifest, rows)
    places, _ = find(tmp_path, manifest, rows[:1], 9, left_out=[manifest[0].sha256])
    assert sorted(places[0]) == [1, 2, 3]
    assert find(tmp_path, manifest, rows[:1], 9, split="validation") == ([[]], [[]])
    assert find(tmp_path, manifest, rows[:0], 9) == ([], [])


def test_zeros_are_similar_to_nothing(tmp_path):
    manifest, rows = make_manifest(4), make_rows(4)
    rows[1] = 0
    write_rows(tmp_path, manifest, rows)
    assert find(tmp_path, manifest, np.zeros((1, N_FEATURES)), 2) == ([[0, 1]], [[0.0, 0.0]])


def test_views_are_no_neighbors(tmp_path):
    manifest = [row._replace(split="training") for row in make_manifest(6)]
    rows = {f"{row.sha256}{view}": value for row, pair in zip(manifest, make_rows(12).reshape(6, 2, -1), strict=True)
            for view, value in zip("ab", pair, strict=True)}  # fmt: skip
    record = {"network": "x", "n_features": N_FEATURES, "feature_dtype": "float32"}
    write_features(tmp_path, manifest, rows.__getitem__, record, lambda image: [f"{image.sha256}{v}" for v in "ab"])
    (places,), _ = find(tmp_path, manifest, rows[f"{manifest[3].sha256}b"][np.newaxis], 6)
    assert sorted(places) == list(range(6))
    own = np.array([rows[f"{row.sha256}a"] for row in manifest])
    assert places == np.argsort(-compare_all(rows[f"{manifest[3].sha256}b"][np.newaxis], own)[0]).tolist()
    assert np.array_equal(read_image_features(tmp_path, manifest[3].sha256), rows[f"{manifest[3].sha256}a"])


def test_features_of_other_images_are_an_error(tmp_path):
    manifest, rows = make_manifest(4), make_rows(4)
    write_rows(tmp_path, manifest, rows)
    with pytest.raises(IntegrityError, match="wanted the images of the manifest, got others"):
        find_neighbors(tmp_path, manifest[1:], rows[:1], 1)
    with pytest.raises(IntegrityError, match=f"wanted features of image {'f' * 64}, got none"):
        read_image_features(tmp_path, "f" * 64)
    assert np.array_equal(read_image_features(tmp_path, manifest[3].sha256), rows[3])
