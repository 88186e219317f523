import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from relearn.heads import coordinates
from relearn.heads.coordinates import Standard, Stripes, find_coordinates, pays_to_rotate, plan_memory

LARGE = 10**9


@pytest.fixture(autouse=True)
def one_blas_thread():
    with threadpool_limits(1):
        yield


def make_blocks(n_rows, n_features, n_blocks=7):
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (n_rows, n_features)).astype(np.float32)
    return features, np.array_split(features, n_blocks)


def standardize(features):
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return Standard(mean, scale, scale**2), (features - mean) / scale


@pytest.mark.parametrize(("n_rows", "n_features"), [(40, 300), (300, 40), (50, 50)])
@pytest.mark.parametrize("memory_bytes", [LARGE, 400_000, 200_000, 1000])
def test_a_model_in_coordinates_is_the_same_model(n_rows, n_features, memory_bytes, monkeypatch):
    """Same margins, same norm, whatever the memory allows."""
    monkeypatch.setattr(coordinates, "STRIPE_ROWS", 16)
    features, blocks = make_blocks(n_rows, n_features)
    standard, rows = standardize(features)
    found = find_coordinates(blocks, standard, n_rows, memory_bytes)
    weights = np.random.default_rng(1).normal(size=(len(found.eigenvalues), 3))
    coefficients = found.restore(weights)
    assert coefficients.shape == (n_features, 3)
    np.testing.assert_allclose(found.load_rows() @ weights, rows @ coefficients, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=0), np.linalg.norm(coefficients, axis=0), rtol=1e-9)


@pytest.mark.parametrize(("n_rows", "n_features"), [(40, 300), (300, 40)])
def test_columns_are_uncorrelated_and_scatter_as_said(n_rows, n_features):
    features, blocks = make_blocks(n_rows, n_features)
    found = find_coordinates(blocks, standardize(features)[0], n_rows, LARGE)
    rows = found.load_rows()
    np.testing.assert_allclose(rows.T @ rows, np.diag(found.eigenvalues), atol=1e-7)
    assert rows.shape == (n_rows, min(n_rows - 1, n_features))  # centered rows sum to 0


def test_constant_and_equal_features_are_no_column():
    features, _ = make_blocks(60, 5)
    features = np.hstack([features, features, np.ones((60, 3), np.float32)])
    mean = features.mean(axis=0, dtype=np.float64)
    found = find_coordinates([features], Standard(mean, np.ones(13), features.var(axis=0)), 60, LARGE)
    assert len(found.eigenvalues) == 5


@pytest.mark.parametrize(("n_rows", "n_features"), [(200, 900), (900, 200)])
def test_number_of_threads_changes_no_bit(n_rows, n_features, monkeypatch):
    monkeypatch.setattr(coordinates, "STRIPE_ROWS", 32)
    features, blocks = make_blocks(n_rows, n_features)
    standard, _ = standardize(features)
    found = set()
    for n_threads in ("1", "2", "4"):
        monkeypatch.setenv("RELEARN_THREADS", n_threads)
        here = find_coordinates(blocks, standard, n_rows, LARGE)
        assert here.held
        found.add((here.load_rows().tobytes(), here.eigenvalues.tobytes()))
    assert len(found) == 1


def test_blocks_are_cut_and_joined():
    features, blocks = make_blocks(20, 3, n_blocks=3)  # 7, 7 and 6 rows
    for most_rows in (1, 3, 7, 8, 13, 100):
        stripes = Stripes(blocks, np.zeros(3), np.ones(3), most_rows)
        assert np.array_equal(np.concatenate([rows for _, rows in stripes]), features)
        assert all(len(rows) == place.stop - place.start <= most_rows for place, rows in stripes)
        assert len(stripes) == -(-20 // most_rows)


def test_what_the_memory_allows():
    assert plan_memory(1000, 5000, 200_000_000) == (True, True, True)
    assert plan_memory(1000, 5000, 70_000_000) == (True, True, False)
    assert plan_memory(1000, 5000, 62_000_000) == (False, True, True)
    assert plan_memory(1000, 5000, 39_000_000) == (False, False, False)
    assert plan_memory(1000, 5000, 30_000_000) == (False, False, False)


@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_classes", "n_fits", "pays"),
    [
        (1050, 6144, 10, 6, True),  # the sample
        (875, 1280, 2, 5, False),
        (2000, 1280, 2, 5, False),
        (4000, 1280, 2, 1, False),
        (4000, 1280, 2, 5, False),
        (12000, 1280, 2, 3, True),
        (1500, 4000, 2, 1, False),
        (875, 25088, 2, 5, True),
        (875, 1280, 5, 5, True),
        (800, 1280, 10, 5, True),
        (2000, 1280, 10, 3, True),
        (4000, 1280, 10, 1, True),
        (1000, 1280, 102, 1, True),
    ],
)
def test_columns_are_uncorrelated_where_that_was_quicker(n_rows, n_features, n_classes, n_fits, pays):
    """Each was measured in both ways; see benchmarks/README.md."""
    assert pays_to_rotate(n_rows, n_features, n_classes, n_fits) is pays
    assert plan_memory(n_rows, n_features, LARGE * 10, n_classes, n_fits).rotate is pays


def test_columns_are_uncorrelated_where_only_those_can_be_held():
    assert plan_memory(500, 12000, 80_000_000, 2, n_fits=0) == (False, True, True)
    assert plan_memory(500, 12000, 40_000_000, 2, n_fits=0) == (True, True, False)


def test_rows_that_are_not_rotated_are_the_standardized_ones():
    features, blocks = make_blocks(300, 40)
    standard, rows = standardize(features)
    found = find_coordinates(blocks, standard, 300, LARGE, n_fits=0)
    assert found.held
    np.testing.assert_allclose(found.load_rows(), rows, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.eigenvalues, (rows**2).sum(axis=0), rtol=1e-6)
