"""The head that a network is judged by is the one that stage `train` fits."""

import numpy as np
import pytest

from conftest import ROOT, make_split
from relearn.finetuning.exact_head import (
    VALUES_OF_C,
    Labeled,
    fit_exact_head_below,
    fit_exact_heads,
    fold_standardization,
    search_exact_head,
)
from relearn.heads.training import train_head
from relearn.params.pipeline import read_params


def make_splits(n_classes):
    return [make_split(seed, n_classes=n_classes) for seed in (0, 1)]


def to_labeled(split):
    return Labeled(split.features, np.searchsorted(sorted(set(split.labels)), split.labels))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_is_that_of_the_stage(n_classes):
    training, validation = make_splits(n_classes)
    found = search_exact_head(to_labeled(training), to_labeled(validation), n_classes)
    params = read_params(ROOT / "params.yaml").train
    grid = params.logistic_regression.model_copy(update={"C": [found.C]})
    trained = train_head(training, validation, params.model_copy(update={"logistic_regression": grid}))
    assert trained.metrics["validation_accuracy_score"] == pytest.approx(found.accuracy, abs=1e-6)
    assert trained.metrics["validation_log_loss"] == pytest.approx(found.log_loss, abs=1e-4)


@pytest.mark.parametrize("C", VALUES_OF_C)
def test_the_lowest_loss_is_found_from_anywhere(C):
    training, validation = map(to_labeled, make_splits(3))
    losses = {head.C: head.log_loss for head in fit_exact_heads(training, validation, 3, VALUES_OF_C)}
    found = search_exact_head(training, validation, 3, C)
    assert min(losses, key=losses.get) == found.C
    assert found.log_loss == pytest.approx(losses[found.C], rel=1e-3)


def test_an_epoch_takes_the_same_value_or_the_next_lower_one():
    training, validation = map(to_labeled, make_splits(3))
    losses = {head.C: head.log_loss for head in fit_exact_heads(training, validation, 3, VALUES_OF_C)}
    for lower, C in zip([1e-4, *VALUES_OF_C], VALUES_OF_C, strict=False):
        found = fit_exact_head_below(training, validation, 3, C)
        assert min((lower, C), key=losses.get) == found.C


@pytest.mark.parametrize("n_classes", [2, 3])
def test_plain_features_give_the_same_probabilities(n_classes):
    from scipy.special import softmax

    training = to_labeled(make_splits(n_classes)[0])
    training = training._replace(features=training.features * 3 + 5)
    head = search_exact_head(training, training, n_classes)
    weights, biases = fold_standardization(head.fitted)
    assert weights.shape == (8, n_classes)
    logits = training.features @ weights + biases
    scores = head.fitted.compute_scores(training.features)
    wanted = softmax(np.hstack([0 * scores, scores]) if n_classes == 2 else scores, axis=1)
    assert np.abs(softmax(logits, axis=1) - wanted).max() < 1e-12
    assert np.abs(biases.mean() - biases).max() > 0
