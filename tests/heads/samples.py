"""Clouds, heads and trials that several tests of heads need."""

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import make_train_params
from relearn.heads.export import export_head
from relearn.heads.fitted import LayeredHead
from relearn.heads.kinds import KINDS
from relearn.heads.selection import Trial
from relearn.inference.classifier import open_head


def make_clouds(n_classes, seed=0, n_images=400, n_features=12):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_images) % n_classes)
    centers = np.random.default_rng(99).normal(0, 1, (n_classes, n_features))
    return (centers[labels] + rng.normal(5, 1.5, (n_images, n_features))).astype(np.float32), labels


def make_linear(estimator, features, labels, has_probabilities):
    pipeline = make_pipeline(StandardScaler(), estimator).fit(features.astype(np.float64), labels)
    scaler, linear = pipeline[0], pipeline[1]
    return pipeline, LayeredHead(
        scaler.mean_, scaler.scale_, [(linear.coef_.T, linear.intercept_)], has_probabilities=has_probabilities
    )


def answer_exported(head, calibration, n_classes, features):
    names = [f"class {number}" for number in range(n_classes)]
    session = open_head(export_head(head, calibration, names, [features]), features.shape[1], names)
    label, probabilities = session.run(["label", "probabilities"], {"features": features})
    assert probabilities.dtype == np.float32
    assert list(label) == [names[column] for column in probabilities.argmax(axis=1)]
    return probabilities


def make_trial(head, right, log_loss=0.5, standard_error=0.0, **options):
    first = getattr(make_train_params(head), head).list_candidates()[0]
    typed = KINDS[head].options(**first | options)
    return Trial(head, head, typed, np.array(right, bool), log_loss, standard_error, None, 1, True)


def make_right(n_right, n_images=100):
    return np.arange(n_images) < n_right
