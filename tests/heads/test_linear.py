import numpy as np
import pytest

from conftest import make_split, make_train_params
from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.kinds import prepare_data
from relearn.heads.linear import LinearSVMOptions, choose_rounding_step, fit_linear_svm
from relearn.heads.search import try_head


def test_svm_that_is_not_scikit_learns_is_reported(monkeypatch):
    data = prepare_data(make_split(1), make_split(2), make_train_params("linear_svm"))
    coordinates = data.coordinates
    data.coordinates = coordinates._replace(restore=lambda weights: coordinates.restore(weights) / 2)
    with pytest.raises(TrainingError, match="linear_svm: wanted the scores of scikit-learn's estimator, got some that"):
        fit_linear_svm(LinearSVMOptions(C=1.0, tol=1e-4, max_iter=1000), data, np.ones(60))


@pytest.mark.parametrize("scale", [True, False])
def test_coefficients_are_rounded_by_less_than_a_probability_shows(scale, monkeypatch):
    training = make_split(1, n_features=50)
    params = make_train_params(scale=scale)

    def fit():
        data = prepare_data(training, make_split(2, n_features=50), params)
        return [trial.fitted for trial in try_head(*params.grids[0], data)], choose_rounding_step(data)

    rounded, step = fit()
    monkeypatch.setattr("relearn.heads.linear.ROUNDING", 1e-14)
    exact, _ = fit()
    for one, other in zip(rounded, exact, strict=True):
        for values in one.layers[0]:
            assert np.array_equal(values / step, np.round(values / step))
        moved = one.compute_scores(training.features) - other.compute_scores(training.features)
        assert 1e-9 < np.sqrt((moved**2).mean()) < 6e-8


def test_two_images_are_enough():
    training = make_split(1)
    two = SplitFeatures([training.features[:2]], training.sha256[:2], training.labels[:2])
    validation = SplitFeatures(
        [make_split(2, n_classes=2).features], make_split(2).sha256, make_split(2, n_classes=2).labels
    )
    params = make_train_params()
    trials = try_head(*params.grids[0], prepare_data(two, validation, params))
    assert all(trial.converged for trial in trials)
