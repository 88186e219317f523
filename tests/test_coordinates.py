import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from relearn import coordinates
from relearn.coordinates import Standard, Stripes, find_coordinates, plan_memory

LARGE = 10**9


@pytest.fixture(autouse=True)
def one_blas_thread():
    with threadpool_limits(1):
        yield


def make_blocks(n_rows, n_features, n_blocks=7):
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (n_rows, n_features)).astype(np.float32)
    return features, np.array_split(features, n_blocks)


def standardise(features):
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return Standard(mean, scale, scale**2), (features - mean) / scale


@pytest.mark.parametrize(("n_rows", "n_features"), [(40, 300), (300, 40), (50, 50)])
@pytest.mark.parametrize("memory_bytes", [LARGE, 400_000, 200_000, 1000])
def test_a_model_in_coordinates_is_the_same_model(n_rows, n_features, memory_bytes, monkeypatch):
    """Same margins, same norm, whatever the memory allows."""
    monkeypatch.setattr(coordinates, "STRIPE_ROWS", 16)
    features, blocks = make_blocks(n_rows, n_features)
    standard, rows = standardise(features)
    found = find_coordinates(blocks, standard, n_rows, memory_bytes)
    weights = np.random.default_rng(1).normal(size=(len(found.eigenvalues), 3))
    coefficients = found.restore(weights)
    assert coefficients.shape == (n_features, 3)
    np.testing.assert_allclose(found.load_rows() @ weights, rows @ coefficients, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=0), np.linalg.norm(coefficients, axis=0), rtol=1e-9)


@pytest.mark.parametrize(("n_rows", "n_features"), [(40, 300), (300, 40)])
def test_columns_are_uncorrelated_and_scatter_as_said(n_rows, n_features):
    features, blocks = make_blocks(n_rows, n_features)
    found = find_coordinates(blocks, standardise(features)[0], n_rows, LARGE)
    rows = found.load_rows()
    np.testing.assert_allclose(rows.T @ rows, np.diag(found.eigenvalues), atol=1e-7)
    assert rows.shape == (n_rows, min(n_rows - 1, n_features))  # centred rows sum to 0


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
    standard, _ = standardise(features)
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
    assert plan_memory(1000, 5000, 50_000_000) == (False, True, True)
    assert plan_memory(1000, 5000, 30_000_000) == (False, False, False)
