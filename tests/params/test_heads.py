import pytest

from conftest import read_params_error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.logistic_regression.C": []}, "train.logistic_regression.C: wanted"),
        (
            {"train.logistic_regression.C": 0},
            "train.logistic_regression.C.0: wanted greater than or equal to 0.000000001, got 0",
        ),
        (
            {"train.linear_svm.C": 1e12},
            "train.linear_svm.C.0: wanted less than or equal to 1000000000, got 1000000000000",
        ),
        ({"train.head": "svm"}, "train.head: wanted one of 'nearest_centroid', 'logistic_regression'"),
        ({"train.search": [{"head": "svm"}]}, "train.search.0: wanted"),
        (
            {"train.search": [{"head": "dense", "unit": 3}]},
            "train.search.0.dense.unit: unknown key, did you mean units?; known here are units",
        ),
        ({"train.search": [{"head": "linear_svm", "C": -1}]}, "train.search.0.linear_svm.C.0: wanted greater than"),
        ({"train.search": 3}, "train.search: wanted a valid list, got 3"),
        (
            {"train.calibration": "none", "train.head": "linear_svm"},
            "train: wanted calibration: auto, temperature, sigmoid or isotonic with linear_svm, got none",
        ),
        ({"train.class_weight": "half"}, "train.class_weight"),
    ],
)
def test_values_that_cannot_be(workspace, set_params, changes, message):
    set_params(changes)
    assert message in read_params_error()
