"""The references are scikit-learn's own calibrations."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import LinearSVC

from conftest import make_train_params
from heads.samples import answer_exported, make_clouds, make_linear
from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.calibration import Calibration, check_calibration, fit_calibration
from relearn.heads.fitted import LayeredHead
from relearn.heads.kinds import prepare_data


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibrations_are_those_of_scikit_learn(n_classes, method):
    features, labels = make_clouds(n_classes)
    estimator, head = make_linear(LinearSVC(dual=False), features, labels, False)
    held_out, held_out_labels = make_clouds(n_classes, seed=1)
    calibration = fit_calibration(method, head.compute_scores(held_out), held_out_labels)
    reference = CalibratedClassifierCV(FrozenEstimator(estimator), method=method)
    reference.fit(held_out.astype(np.float64), held_out_labels)
    others, _ = make_clouds(n_classes, seed=2)
    expected = reference.predict_proba(others.astype(np.float64))
    np.testing.assert_allclose(calibration.compute_probabilities(head.compute_scores(others)), expected, atol=1e-9)
    np.testing.assert_allclose(answer_exported(head, calibration, n_classes, others), expected, atol=1e-6)


def test_temperature_changes_no_decision():
    features, labels = make_clouds(3)
    estimator, head = make_linear(LinearSVC(dual=False), features, labels, False)
    calibration = fit_calibration("temperature", head.compute_scores(features), labels)
    assert np.array_equal(answer_exported(head, calibration, 3, features).argmax(axis=1), estimator.predict(features))


def test_row_that_no_class_wants_is_shared_by_all():
    head = LayeredHead(np.zeros(1), np.ones(1), [(np.ones((1, 3)), np.zeros(3))], has_probabilities=False)
    points = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    calibration = Calibration("isotonic", [points] * 3)
    found = answer_exported(head, calibration, 3, np.array([[-1.0], [0.5], [2.0]], np.float32))
    np.testing.assert_allclose(found, np.full((3, 3), 1 / 3), atol=1e-7)


def test_class_that_validation_lacks_cannot_be_calibrated(features):
    validation = features["validation"]
    kept = [n for n, label in enumerate(validation.labels) if label != "class 1"]
    part = SplitFeatures([validation.features[kept]], [], [validation.labels[n] for n in kept])
    params = make_train_params(calibration="sigmoid")
    data = prepare_data(features["training"], part, params)
    with pytest.raises(
        TrainingError, match=r"wanted images of every class to calibrate on .*, got none of class 1; add"
    ):
        check_calibration(data)
