import numpy as np
import pytest

from relearn.evaluation import suspects
from relearn.evaluation.suspects import NoisyLabels, compute_margins, compute_p_wrong, fit_noisy_labels, rank_labels


def draw_labels(n_images, n_classes, error_rate, sharpness=1.0, seed=0):
    """Return probabilities, labels of which some are wrong, and which ones; the right label is drawn from the true
    probabilities, and those that are returned are flatter by `sharpness`."""
    rng = np.random.default_rng(seed)
    logs = rng.normal(0, 5, (n_images, n_classes))
    true = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    labels = (true.cumsum(1) > rng.random((n_images, 1))).argmax(1)
    is_wrong = rng.random(n_images) < error_rate
    given = np.where(is_wrong, (labels + rng.integers(1, n_classes, n_images)) % n_classes, labels)
    flat = np.exp(logs / sharpness)
    return flat / flat.sum(1, keepdims=True), given, is_wrong


def test_least_margin_comes_first_and_a_tie_in_the_order_of_the_images():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.5, 0.0], [0.2, 0.7, 0.1]])
    found = rank_labels(probabilities, np.array([0, 0, 0, 0]))
    np.testing.assert_allclose(found.margins, [0.3, -0.5, 0.0, -0.5])
    assert found.order.tolist() == [1, 3, 2, 0]
    np.testing.assert_allclose(compute_margins(probabilities, np.array([2, 1, 1, 1])), [-0.5, 0.5, 0.0, 0.5])


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("sharpness", [1.0, 1.5])
@pytest.mark.parametrize("error_rate", [0.02, 0.1])
def test_error_rate_is_found_although_the_classifier_is_often_unsure(n_classes, sharpness, error_rate):
    probabilities, given, is_wrong = draw_labels(4000, n_classes, error_rate, sharpness)
    noise = fit_noisy_labels(probabilities, given)
    assert noise.error_rate == pytest.approx(error_rate, rel=0.25)
    assert noise.sharpness == pytest.approx(sharpness, rel=0.1)
    found = rank_labels(probabilities, given)
    first = found.order[: 2 * is_wrong.sum()]
    assert found.p_wrong[first].sum() == pytest.approx(is_wrong[first].sum(), rel=0.25)
    assert found.p_wrong.sum() == pytest.approx(is_wrong.sum(), rel=0.25)


def test_right_labels_of_a_calibrated_classifier_are_not_called_wrong():
    probabilities, given, _ = draw_labels(4000, 5, 0.0)
    assert np.mean(probabilities.argmax(1) != given) > 0.1
    assert rank_labels(probabilities, given).p_wrong.sum() < 10


def test_probability_that_a_label_is_wrong_follows_bayes():
    """q = 0.2 of three classes, 10 % errors: 0.1 * 0.8 / 2 = 0.04 against 0.9 * 0.2 = 0.18."""
    (found,) = compute_p_wrong(np.array([[0.2, 0.5, 0.3]]), np.array([0]), NoisyLabels(0.1, 1.0))
    assert found == pytest.approx(0.04 / 0.22)


def test_probabilities_of_zero_are_no_error():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = rank_labels(probabilities, np.array([0, 1, 1, 1]))
    assert found.order[0] == 2
    assert np.isfinite(found.p_wrong).all()
    assert found.p_wrong.argmax() == 2


def test_a_large_set_is_fitted_by_some_rows_and_judged_in_blocks(monkeypatch):
    """With the same bits as those rows alone, and as all rows in one block."""
    probabilities, labels, _ = draw_labels(1000, 7, 0.1)
    noise = NoisyLabels(0.1, 1.3)
    at_once = compute_p_wrong(probabilities, labels, noise)
    every_tenth = fit_noisy_labels(probabilities[::10], labels[::10])
    n_sharpened, sharpen = [], suspects._sharpen
    monkeypatch.setattr(
        suspects, "_sharpen", lambda logs, *others: n_sharpened.append(logs.size) or sharpen(logs, *others)
    )
    monkeypatch.setattr(suspects, "MAX_PROBABILITIES", 700)
    assert fit_noisy_labels(probabilities, labels) == every_tenth
    np.testing.assert_array_equal(compute_p_wrong(probabilities, labels, noise), at_once)
    assert max(n_sharpened) == 700
    monkeypatch.setattr(suspects, "MAX_ROWS", 50)
    assert fit_noisy_labels(probabilities, labels) == fit_noisy_labels(probabilities[::20], labels[::20])
