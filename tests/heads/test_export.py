import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from heads.samples import answer_exported, make_clouds, make_linear
from relearn.errors import TrainingError
from relearn.heads import export
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.export import export_head
from relearn.heads.fitted import TreeHead


def test_same_head_is_the_same_bytes():
    features, labels = make_clouds(3)
    forest = RandomForestClassifier(3, random_state=0).fit(features, labels)
    _, linear = make_linear(LogisticRegression(), features, labels, True)
    for head in (linear, TreeHead(forest)):
        assert len({export_head(head, UNCALIBRATED, ["a", "b", "c"], [features]) for _ in range(3)}) == 1


def test_head_that_differs_is_an_error(monkeypatch):
    features, labels = make_clouds(3)
    _, head = make_linear(LogisticRegression(), features, labels, True)
    monkeypatch.setattr(export, "HEAD_TOLERANCE", 0.0)
    with pytest.raises(TrainingError, match=r"head\.onnx: wanted the probabilities of the fitted head within 0, got"):
        export_head(head, UNCALIBRATED, ["a", "b", "c"], [features])


def test_large_features_lose_nothing():
    """In float32 the head of such features would be off by more than the tolerance."""
    features, labels = make_clouds(3)
    features += np.float32(1e4)
    estimator, head = make_linear(LogisticRegression(), features, labels, True)
    expected = estimator.predict_proba(features.astype(np.float64))
    np.testing.assert_allclose(answer_exported(head, UNCALIBRATED, 3, features), expected, atol=1e-6)
