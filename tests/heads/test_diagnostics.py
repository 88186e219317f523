import numpy as np
import pytest

from conftest import make_train_params
from heads.samples import make_right, make_trial
from relearn.errors import TrainingError
from relearn.heads.diagnostics import check_converged, warn_of_grid_ends
from relearn.heads.fitted import LayeredHead


@pytest.mark.parametrize(
    ("head", "name", "values", "best", "message"),
    [
        (
            "logistic_regression",
            "C",
            [0.01, 0.1, 1.0],
            1.0,
            "C, 1.0, is the largest value tried; a larger one may be better: try 10.0 too",
        ),
        (
            "logistic_regression",
            "C",
            [0.01, 0.1, 1.0],
            0.01,
            "C, 0.01, is the smallest value tried; a smaller one may be better: try 0.001 too",
        ),
        ("logistic_regression", "C", [0.01, 0.1, 1.0], 0.1, None),
        ("logistic_regression", "C", [1.0], 1.0, None),
        ("logistic_regression", "C", [1.0, 1e9], 1e9, None),
        ("linear_svm", "C", [1e-6, 1e-4], 1e-6, "smaller one may be better: try 1e-08 too"),
        (
            "decision_tree",
            "max_depth",
            [2, 4, 8],
            8,
            "max_depth, 8, is the largest value tried; a larger one may be better: try 16 too",
        ),
        ("decision_tree", "max_depth", [2, 4, 8, None], 8, None),
        ("decision_tree", "max_depth", [2, 4, 8, None], None, None),
        ("decision_tree", "min_samples_leaf", [1, 5], 1, None),
        ("decision_tree", "ccp_alpha", [0.0, 0.1], 0.0, None),
        ("decision_tree", "criterion", ["gini", "entropy"], "gini", None),
        ("nearest_centroid", "shrink_threshold", [None, 0.1, 0.2], 0.1, None),
        ("nearest_centroid", "shrink_threshold", [None, 0.1, 0.2], 0.2, "try 0.4 too"),
        ("dense", "dropout", [0.3, 0.6], 0.6, None),
        ("dense", "units", [64, 256], 256, "try 1024 too"),
    ],
)
def test_best_value_at_an_end_is_a_warning(head, name, values, best, message, caplog):
    trials = [make_trial(head, make_right(90 if value == best else 80), **{name: value}) for value in values]
    warn_of_grid_ends(trials[0], trials, make_train_params(head))
    if message is None:
        assert caplog.text == ""
    else:
        assert f"{head}: the best {name}, {best}, is the " in caplog.text
        assert message in caplog.text


def test_must_converge_names_the_option_to_raise():
    trial = make_trial("dense", [True])._replace(converged=False)
    head = LayeredHead(np.zeros(1), np.ones(1), [], has_probabilities=True, n_iter=20, converged=False)
    message = r"dense: wanted a solver that converges \(.*\), got 20 iterations without; raise epochs of dense"
    with pytest.raises(TrainingError, match=message):
        check_converged(trial, head, [trial], make_train_params("dense", must_converge=True))


def test_refit_that_does_not_converge_is_logged(caplog):
    trial = make_trial("linear_svm", [True])
    head = LayeredHead(np.zeros(1), np.ones(1), [], has_probabilities=False, n_iter=9, converged=False)
    check_converged(trial, head, [trial], make_train_params("linear_svm"))
    assert caplog.messages == ["linear_svm, fitted on all of training, did not converge in 9 iterations"]
