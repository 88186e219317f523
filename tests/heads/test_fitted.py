"""The references are scikit-learn's own estimators."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from heads.samples import answer_exported, make_clouds, make_linear
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.fitted import LayeredHead, TreeHead


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_logistic_regression(n_classes):
    features, labels = make_clouds(n_classes)
    estimator, head = make_linear(LogisticRegression(), features, labels, True)
    np.testing.assert_allclose(
        answer_exported(head, UNCALIBRATED, n_classes, features), estimator.predict_proba(features), atol=1e-6
    )


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("kind", ["tree", "forest"])
def test_trees(n_classes, kind):
    features, labels = make_clouds(n_classes)
    estimator = DecisionTreeClassifier(random_state=0) if kind == "tree" else RandomForestClassifier(7, random_state=0)
    estimator.fit(features, labels)
    others, _ = make_clouds(n_classes, seed=1)
    np.testing.assert_allclose(
        answer_exported(TreeHead(estimator), UNCALIBRATED, n_classes, others),
        estimator.predict_proba(others),
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_trees_round_nothing_away(n_classes):
    """Seen with 700 trees and more: each adds its share of 1 in float32."""
    features, labels = make_clouds(n_classes, n_images=120)
    estimator = RandomForestClassifier(1500, max_depth=3, random_state=0).fit(features, labels)
    np.testing.assert_allclose(
        answer_exported(TreeHead(estimator), UNCALIBRATED, n_classes, features),
        estimator.predict_proba(features),
        atol=1e-5,
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_layers_with_relu_between(n_classes):
    rng = np.random.default_rng(0)
    features, _ = make_clouds(n_classes)
    n_outputs = 1 if n_classes == 2 else n_classes
    first, second = (
        (rng.normal(size=(12, 5)), rng.normal(size=5)),
        (rng.normal(size=(5, n_outputs)), np.zeros(n_outputs)),
    )
    head = LayeredHead(np.full(12, 5.0), np.full(12, 2.0), [first, second], has_probabilities=True)
    scores = np.maximum((features.astype(np.float64) - 5.0) / 2.0 @ first[0] + first[1], 0) @ second[0]
    np.testing.assert_allclose(head.compute_scores(features), scores, atol=1e-12)
    answer_exported(head, UNCALIBRATED, n_classes, features)
