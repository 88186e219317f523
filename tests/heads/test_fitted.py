"""The references are scikit-learn's own estimators and calibrations."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from relearn.errors import TrainingError
from relearn.heads import fitted as heads
from relearn.heads.fitted import Calibration, LayeredHead, TreeHead, calibrate, export_head
from relearn.inference.classifier import open_head

NONE = Calibration("none", [])


def make_data(n_classes, seed=0, n_images=400, n_features=12):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n_images) % n_classes)
    centres = np.random.default_rng(99).normal(0, 1, (n_classes, n_features))
    return (centres[truth] + rng.normal(5, 1.5, (n_images, n_features))).astype(np.float32), truth


def make_linear(estimator, features, truth, has_probabilities):
    pipeline = make_pipeline(StandardScaler(), estimator).fit(features.astype(np.float64), truth)
    scaler, linear = pipeline[0], pipeline[1]
    return pipeline, LayeredHead(
        scaler.mean_, scaler.scale_, [(linear.coef_.T, linear.intercept_)], has_probabilities=has_probabilities
    )


def run(head, calibration, n_classes, features):
    names = [f"class {number}" for number in range(n_classes)]
    session = open_head(export_head(head, calibration, names, [features]), features.shape[1], names)
    label, probabilities = session.run(["label", "probabilities"], {"features": features})
    assert probabilities.dtype == np.float32
    assert list(label) == [names[column] for column in probabilities.argmax(axis=1)]
    return probabilities


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_logistic_regression(n_classes):
    features, truth = make_data(n_classes)
    estimator, head = make_linear(LogisticRegression(), features, truth, True)
    np.testing.assert_allclose(run(head, NONE, n_classes, features), estimator.predict_proba(features), atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("kind", ["tree", "forest"])
def test_trees(n_classes, kind):
    features, truth = make_data(n_classes)
    estimator = DecisionTreeClassifier(random_state=0) if kind == "tree" else RandomForestClassifier(7, random_state=0)
    estimator.fit(features, truth)
    others, _ = make_data(n_classes, seed=1)
    np.testing.assert_allclose(
        run(TreeHead(estimator), NONE, n_classes, others), estimator.predict_proba(others), atol=1e-6
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_trees_round_nothing_away(n_classes):
    """Seen with 700 trees and more: each adds its share of 1 in float32."""
    features, truth = make_data(n_classes, n_images=120)
    estimator = RandomForestClassifier(1500, max_depth=3, random_state=0).fit(features, truth)
    np.testing.assert_allclose(
        run(TreeHead(estimator), NONE, n_classes, features), estimator.predict_proba(features), atol=1e-5
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_layers_with_relu_between(n_classes):
    rng = np.random.default_rng(0)
    features, _ = make_data(n_classes)
    n_outputs = 1 if n_classes == 2 else n_classes
    first, second = (
        (rng.normal(size=(12, 5)), rng.normal(size=5)),
        (rng.normal(size=(5, n_outputs)), np.zeros(n_outputs)),
    )
    head = LayeredHead(np.full(12, 5.0), np.full(12, 2.0), [first, second], has_probabilities=True)
    scores = np.maximum((features.astype(np.float64) - 5.0) / 2.0 @ first[0] + first[1], 0) @ second[0]
    np.testing.assert_allclose(head.compute_scores(features), scores, atol=1e-12)
    run(head, NONE, n_classes, features)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibrations_are_those_of_scikit_learn(n_classes, method):
    features, truth = make_data(n_classes)
    estimator, head = make_linear(LinearSVC(dual=False), features, truth, False)
    held_out, its_truth = make_data(n_classes, seed=1)
    calibration = calibrate(method, head.compute_scores(held_out), its_truth)
    reference = CalibratedClassifierCV(FrozenEstimator(estimator), method=method)
    reference.fit(held_out.astype(np.float64), its_truth)
    others, _ = make_data(n_classes, seed=2)
    expected = reference.predict_proba(others.astype(np.float64))
    np.testing.assert_allclose(calibration.compute_probabilities(head.compute_scores(others)), expected, atol=1e-9)
    np.testing.assert_allclose(run(head, calibration, n_classes, others), expected, atol=1e-6)


def test_temperature_changes_no_decision():
    features, truth = make_data(3)
    estimator, head = make_linear(LinearSVC(dual=False), features, truth, False)
    calibration = calibrate("temperature", head.compute_scores(features), truth)
    assert np.array_equal(run(head, calibration, 3, features).argmax(axis=1), estimator.predict(features))


def test_row_that_no_class_wants_is_shared_by_all():
    head = LayeredHead(np.zeros(1), np.ones(1), [(np.ones((1, 3)), np.zeros(3))], has_probabilities=False)
    points = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    calibration = Calibration("isotonic", [points] * 3)
    found = run(head, calibration, 3, np.array([[-1.0], [0.5], [2.0]], np.float32))
    np.testing.assert_allclose(found, np.full((3, 3), 1 / 3), atol=1e-7)


def test_same_head_is_the_same_bytes():
    features, truth = make_data(3)
    forest = RandomForestClassifier(3, random_state=0).fit(features, truth)
    _, linear = make_linear(LogisticRegression(), features, truth, True)
    for head in (linear, TreeHead(forest)):
        assert len({export_head(head, NONE, ["a", "b", "c"], [features]) for _ in range(3)}) == 1


def test_head_that_differs_is_an_error(monkeypatch):
    features, truth = make_data(3)
    _, head = make_linear(LogisticRegression(), features, truth, True)
    monkeypatch.setattr(heads, "HEAD_TOLERANCE", 0.0)
    with pytest.raises(TrainingError, match=r"head\.onnx: wanted the probabilities of the fitted model, got some that"):
        export_head(head, NONE, ["a", "b", "c"], [features])


def test_large_features_lose_nothing():
    """In float32 the head of such features would be off by more than the tolerance."""
    features, truth = make_data(3)
    features += np.float32(1e4)
    estimator, head = make_linear(LogisticRegression(), features, truth, True)
    expected = estimator.predict_proba(features.astype(np.float64))
    np.testing.assert_allclose(run(head, NONE, 3, features), expected, atol=1e-6)
