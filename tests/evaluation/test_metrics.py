import itertools
import logging

import numpy as np
import pytest
from sklearn import metrics as reference

from relearn.evaluation.metrics import (
    Judged,
    bootstrap_intervals,
    compute_metrics,
    compute_value,
    judge,
    prepare_metrics,
    report_classes,
)
from relearn.evaluation.predictions import Predictions, read_predictions, write_predictions
from relearn.params.pipeline import EvaluateParams

PARAMS = EvaluateParams(by="split", n_resamples=200, resample="images", n_bins=15, n_explained=24, seed=0)


def make_judged(n_images=200, n_classes=3, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(n_classes, n_images, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    logits = np.eye(n_classes)[truth] * 2 + rng.normal(0, noise, (n_images, n_classes))
    probabilities = np.exp(logits).round(2)  # rounding makes ties
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = [f"class {number}" for number in range(n_classes)]
    return judge(classes, [classes[label] for label in truth], probabilities.astype(np.float32))


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_metrics_are_those_of_scikit_learn(n_classes):
    judged = make_judged(n_classes=n_classes)
    labels, predicted, scores = judged.labels, judged.predicted, judged.probabilities
    found = {name: compute_value(metric, judged) for name, metric in prepare_metrics(judged, 15).items()}
    auc = scores[:, 1] if n_classes == 2 else scores
    expected = {
        "balanced_accuracy_score": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1_score": reference.f1_score(labels, predicted, average="macro"),
        "roc_auc_score": reference.roc_auc_score(labels, auc, multi_class="ovr"),
        "log_loss": reference.log_loss(labels, scores),
        "calibration_error": found["calibration_error"],  # scikit-learn has none
    }
    assert found == pytest.approx(expected)


def test_report_has_the_scores_of_each_class():
    """Nothing is predicted as `c`, and `d` has no image."""
    classes = ["a", "b", "c", "d"]
    predicted = ["a", "a", "b", "a", "b", "b"]
    judged = judge(classes, ["a", "a", "a", "b", "b", "c"], np.full((6, 4), 0.25), predicted)
    assert report_classes(judged) == [
        ("a", 3, "0.666667", "0.666667", "0.666667"),
        ("b", 2, "0.333333", "0.500000", "0.400000"),
        ("c", 1, "0.000000", "0.000000", "0.000000"),
        ("d", 0, "0.000000", "0.000000", "0.000000"),
    ]


def compute(name, judged, n_bins=15):
    return compute_value(prepare_metrics(judged, n_bins)[name], judged)


def test_log_loss_is_that_of_the_probabilities_that_are_written(tmp_path):
    """A tree may give a label 1e-8, which is 0 with six decimals."""
    probabilities = np.array([[1 - 1e-8, 1e-8], [0.75, 0.25], [0, 1]])
    judged = Judged(["a", "b"], np.array([1, 1, 0]), probabilities.argmax(axis=1), probabilities)
    columns = (["1", "2", "3"], ["1", "2", "3"], list("bba"), list("aab"))
    write_predictions(tmp_path / "p.csv", Predictions(["a", "b"], *columns, probabilities))
    read = judged._replace(probabilities=read_predictions(tmp_path / "p.csv").probabilities)
    assert compute("log_loss", judged) == compute("log_loss", read) == pytest.approx(-np.log([5e-7, 0.25, 5e-7]).mean())


def test_calibration_error_by_hand():
    """Two bins: (0.5, 0.75] has confidences 0.6 and 0.7 and one right; (0.75, 1] has 0.8, right."""
    probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    judged = Judged(["a", "b"], np.array([0, 1, 1]), probabilities.argmax(axis=1), probabilities)
    expected = 2 / 3 * abs(0.65 - 0.5) + 1 / 3 * abs(0.8 - 1)
    assert compute("calibration_error", judged, 4) == pytest.approx(expected)


def test_calibration_error_of_certain_and_right_is_zero():
    probabilities = np.eye(2)[[0, 1, 1]]
    judged = Judged(["a", "b"], np.array([0, 1, 1]), np.array([0, 1, 1]), probabilities)
    assert compute("calibration_error", judged) == 0


def test_metrics_file_is_flat_and_bounded():
    metrics, intervals = compute_metrics(make_judged(), PARAMS)
    assert metrics["n_images"] == 200
    for name in ("accuracy_score", "balanced_accuracy_score", "macro_f1_score", "roc_auc_score", "log_loss"):
        low, high = intervals[name]
        assert low < metrics[name] < high
    assert all(value == round(value, 6) for value in (*metrics.values(), *itertools.chain(*intervals.values())))
    assert metrics["majority_baseline_score"] < metrics["accuracy_score"]


def test_wilson_interval_of_a_perfect_score_is_not_empty():
    """97 right of 97: Wilson's lower end is n / (n + z^2)."""
    judged = make_judged(97, noise=0.01)
    metrics, intervals = compute_metrics(judged, PARAMS)
    assert metrics["accuracy_score"] == 1
    assert intervals["accuracy_score"] == (pytest.approx(97 / (97 + 1.959964**2), abs=1e-6), 1)


def test_images_of_a_group_count_together_in_every_interval():
    """Ten copies of an image, as a group, make the intervals as wide as those of one image; without groups narrower."""
    one, by_group = make_judged(60), PARAMS.model_copy(update={"resample": "groups", "n_resamples": 2000})
    copies = Judged(
        one.classes, *(np.repeat(part, 10, axis=0) for part in one[1:4]), groups=np.repeat(np.arange(60), 10)
    )
    alone = compute_metrics(one, by_group)
    grouped = compute_metrics(copies, by_group)
    assert (alone.metrics["n_images"], grouped.metrics["n_images"], grouped.metrics["n_groups"]) == (60, 600, 60)
    for name in ("accuracy_score", "balanced_accuracy_score", "log_loss", "roc_auc_score"):
        widths = [np.ptp(found.intervals[name]) for found in (alone, grouped)]
        assert widths[1] == pytest.approx(widths[0], rel=0.2), name
    by_image = compute_metrics(copies, PARAMS)
    assert by_image.metrics["n_groups"] == 60
    assert np.ptp(by_image.intervals["roc_auc_score"]) < 0.5 * widths[0]


def test_interval_of_a_perfect_score_is_that_of_the_groups():
    judged = make_judged(97, noise=0.01)._replace(groups=np.arange(97) % 10)
    intervals = compute_metrics(judged, PARAMS.model_copy(update={"resample": "groups"})).intervals
    assert intervals["accuracy_score"] == (pytest.approx(10 / (10 + 1.959964**2), abs=1e-6), 1)


def bootstrap(judged, params=PARAMS):
    return bootstrap_intervals(judged, prepare_metrics(judged, params.n_bins), params)


def test_bootstrap_covers_and_repeats():
    judged = make_judged(400)
    found = bootstrap(judged)
    low, high = found["log_loss"]
    losses = -np.log(judged.probabilities[np.arange(400), judged.labels])
    normal = 1.96 * losses.std() / 20
    assert high - low == pytest.approx(2 * normal, rel=0.25)
    assert bootstrap(judged) == found
    assert bootstrap(judged, PARAMS.model_copy(update={"seed": 1})) != found


@pytest.mark.parametrize(
    ("n_images", "n_classes"),
    [(200, 2), (150, 3), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((300, 12), (2000, 5)))],
)
def test_resamples_give_what_scikit_learn_gives_for_the_rows_drawn(n_images, n_classes, monkeypatch):
    """Interval by interval, each resample drawn and computed by itself."""
    monkeypatch.setattr("relearn.evaluation.intervals.CHUNK_NUMBERS", 5000)
    judged = make_judged(n_images, n_classes)
    present = np.unique(judged.labels)
    strata = [np.flatnonzero(judged.labels == label) for label in present]
    rng = np.random.default_rng(3)
    values = []
    for _ in range(100):
        drawn = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        labels, predicted, scores = judged.labels[drawn], judged.predicted[drawn], judged.probabilities[drawn]
        areas = [reference.roc_auc_score(labels == c, scores[:, c]) for c in ([1] if n_classes == 2 else present)]
        values.append(
            (
                reference.recall_score(labels, predicted, labels=present, average="macro"),
                reference.f1_score(labels, predicted, labels=present, average="macro", zero_division=0),
                np.mean(areas),
                -np.log(scores[np.arange(n_images), labels]).mean(),
                compute("calibration_error", Judged(judged.classes, labels, predicted, scores)),
            )
        )
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    found = bootstrap(
        judged, EvaluateParams(by="split", n_resamples=100, resample="images", n_bins=15, n_explained=24, seed=3)
    )
    np.testing.assert_allclose(list(found.values()), np.column_stack([low, high]), rtol=0, atol=1e-12)


def test_resampling_that_takes_long_shows_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr("relearn.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("relearn.evaluation.intervals.CHUNK_NUMBERS", 1000)
    with caplog.at_level(logging.INFO, "relearn"):
        bootstrap(make_judged())
    assert caplog.text == ""
    monkeypatch.setattr("relearn.evaluation.intervals.QUIET_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "relearn"):
        bootstrap(make_judged())
    assert "evaluate: 5 of 200 resamples, " in caplog.text
    assert "evaluate: 200 resamples in " in caplog.text


def test_class_without_evaluation_images():
    """It is left out of the means, not counted as zero."""
    judged = make_judged(n_classes=2)
    padded = Judged(
        [*judged.classes, "rare"], judged.labels, judged.predicted, np.c_[judged.probabilities, np.zeros(200)]
    )
    for name in ("balanced_accuracy_score", "macro_f1_score", "roc_auc_score", "log_loss"):
        assert compute(name, padded) == pytest.approx(compute(name, judged)), name
    assert compute_metrics(padded, PARAMS).metrics["lowest_recall_score"] > 0


def test_one_class_alone_has_no_curve():
    judged = Judged(["a", "b"], np.zeros(3, int), np.zeros(3, int), np.tile([0.9, 0.1], (3, 1)))
    assert compute("roc_auc_score", judged) == 0.5
