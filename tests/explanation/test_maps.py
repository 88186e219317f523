import numpy as np
import pytest

from relearn.explanation.coefficients import Coefficients
from relearn.explanation.maps import map_evidence

POOL = {
    "avg": lambda maps: maps.mean(axis=(0, 1)),
    "max": lambda maps: maps.max(axis=(0, 1)),
    "flatten": lambda maps: maps.reshape(-1),
}


@pytest.mark.parametrize("pooling", POOL)
def test_a_map_sums_to_the_score(pooling):
    rng = np.random.default_rng(0)
    feature_map = rng.normal(size=(4, 3, 5)).astype(np.float32)
    features = POOL[pooling](feature_map.astype(np.float64))
    mean, weights = rng.normal(size=(2, len(features)))
    grid = map_evidence(pooling, feature_map, Coefficients(mean, weights, 0.0))
    assert grid.shape == (4, 3)
    np.testing.assert_allclose(grid.sum(), (features - mean) @ weights, rtol=1e-10)


@pytest.mark.parametrize("pooling", POOL)
def test_evidence_is_where_the_feature_is(pooling):
    feature_map = np.zeros((4, 3, 2), np.float32)
    feature_map[1, 2, 0] = 6
    n_features = len(POOL[pooling](feature_map))
    weights = np.tile([1.0, 7.0], n_features // 2)
    grid = map_evidence(pooling, feature_map, Coefficients(np.zeros(n_features), weights, 0.0))
    wanted = np.zeros((4, 3))
    wanted[1, 2] = 0.5 if pooling == "avg" else 6  # a twelfth of 6
    np.testing.assert_allclose(grid, wanted)


def test_flatten_has_weights_of_its_own_at_each_position():
    feature_map = np.ones((2, 2, 1), np.float32)
    grid = map_evidence("flatten", feature_map, Coefficients(np.zeros(4), np.array([1.0, 2.0, 3.0, 4.0]), 0.0))
    assert grid.tolist() == [[1, 2], [3, 4]]


def test_an_average_image_has_no_evidence():
    feature_map = np.full((2, 2, 3), 5, np.float32)
    grid = map_evidence("avg", feature_map, Coefficients(np.full(3, 5.0), np.arange(3.0), 1.0))
    assert not grid.any()


def test_a_tie_of_max_counts_at_the_first_position():
    grid = map_evidence("max", np.ones((2, 2, 1), np.float32), Coefficients(np.zeros(1), np.ones(1), 0.0))
    assert grid.tolist() == [[1, 0], [0, 0]]
