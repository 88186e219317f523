from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from relearn.explanation.coefficients import read_linear_head
from relearn.heads.calibration import UNCALIBRATED, Calibration
from relearn.heads.export import build_model
from relearn.heads.fitted import LayeredHead, TreeHead
from relearn.inference.screening import check_head

N_FEATURES = 6
CALIBRATIONS = {
    "none": lambda n: UNCALIBRATED,
    "temperature": lambda n: Calibration("temperature", [0.5]),
    "sigmoid": lambda n: Calibration("sigmoid", [(-1.5, 0.2)] * n),
    "isotonic": lambda n: Calibration("isotonic", [(np.array([-1.0, 0.0, 1.0]), np.array([0.1, 0.4, 0.9]))] * n),
}


def make_head(n_outputs, *widths):
    """Return a head with a layer for each of the widths, and a last one."""
    rng = np.random.default_rng(0)
    sizes = [N_FEATURES, *widths, n_outputs]
    layers = [(rng.normal(size=pair), rng.normal(size=pair[1])) for pair in pairwise(sizes)]
    return LayeredHead(rng.normal(size=N_FEATURES), rng.uniform(0.5, 2, N_FEATURES), layers, has_probabilities=True)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_are_those_of_the_head(n_classes, calibration):
    n_outputs = 1 if n_classes == 2 else n_classes
    head = make_head(n_outputs)
    content = build_model(head, CALIBRATIONS[calibration](n_outputs), list("abcd")[:n_classes], N_FEATURES)
    found = read_linear_head(content, n_classes)
    features = np.random.default_rng(1).normal(size=(3, N_FEATURES))
    scores = head.compute_scores(features)
    wanted = np.hstack([-scores, scores]) if n_classes == 2 else scores - scores.mean(axis=1, keepdims=True)
    for number in range(n_classes):
        mean, weights, bias = found.find_coefficients(number)
        np.testing.assert_allclose((features - mean) @ weights + bias, wanted[:, number], rtol=1e-12)


def test_softmax_of_scores_against_the_mean_is_that_of_the_scores():
    from scipy.special import softmax

    head = make_head(4)
    found = read_linear_head(build_model(head, UNCALIBRATED, list("abcd"), N_FEATURES), 4)
    features = np.random.default_rng(1).normal(size=(3, N_FEATURES))
    parts = [found.find_coefficients(number) for number in range(4)]
    scores = np.stack([(features - mean) @ weights + bias for mean, weights, bias in parts], axis=1)
    np.testing.assert_allclose(softmax(scores, axis=1), softmax(head.compute_scores(features), axis=1), rtol=1e-9)


def test_a_hidden_layer_is_not_linear():
    content = build_model(make_head(3, 5), UNCALIBRATED, list("abc"), N_FEATURES)
    assert read_linear_head(content, 3) is None


@pytest.mark.parametrize("n_classes", [2, 3])
def test_trees_are_not_linear(n_classes):
    from sklearn.tree import DecisionTreeClassifier

    features = np.random.default_rng(0).normal(size=(30, N_FEATURES)).astype(np.float32)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(features, np.arange(30) % n_classes)
    content = build_model(TreeHead(tree), UNCALIBRATED, list("abc")[:n_classes], N_FEATURES)
    assert read_linear_head(content, n_classes) is None


def test_a_scale_for_all_features_at_once_is_not_ours():
    """`check_head` accepts it, because it computes the same."""
    head = replace(make_head(3), scale=np.ones(()))
    content = build_model(head, UNCALIBRATED, list("abc"), N_FEATURES)
    check_head(content, N_FEATURES, list("abc"))
    assert read_linear_head(content, 3) is None
