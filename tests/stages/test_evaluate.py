import logging

import numpy as np
import pytest
from sklearn import metrics as reference

from conftest import make_train_params
from relearn import paths
from relearn.dataset.manifest import ManifestRow, write_manifest
from relearn.errors import IntegrityError, TrainingError
from relearn.features.shards import seal_features
from relearn.params import EvaluateParams
from relearn.stages import train
from relearn.stages.evaluate import (
    Judged,
    bootstrap_intervals,
    check_labels,
    compute_balanced_accuracy,
    compute_calibration_error,
    compute_log_loss,
    compute_macro_f1,
    compute_metrics,
    compute_roc_auc,
    judge,
    prepare_metrics,
    report_classes,
    run,
    write_plots,
)
from relearn.storage.files import read_csv, read_json

PARAMS = EvaluateParams(n_resamples=200, n_bins=15, seed=0)


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
    truth, predicted, scores = judged.truth, judged.predicted, judged.probabilities
    assert compute_balanced_accuracy(judged) == pytest.approx(reference.balanced_accuracy_score(truth, predicted))
    assert compute_macro_f1(judged) == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    assert compute_log_loss(judged) == pytest.approx(reference.log_loss(truth, scores))
    auc = scores[:, 1] if n_classes == 2 else scores
    assert compute_roc_auc(judged) == pytest.approx(reference.roc_auc_score(truth, auc, multi_class="ovr"))
    precision, recall, f1, n_images = reference.precision_recall_fscore_support(truth, predicted, zero_division=0)
    for number, row in enumerate(report_classes(judged)):
        assert row[:2] == (f"class {number}", n_images[number])
        assert [float(cell) for cell in row[2:]] == pytest.approx(
            [precision[number], recall[number], f1[number]], abs=1e-6
        )


def test_calibration_error_by_hand():
    """Two bins: (0.5, 0.75] has confidences 0.6 and 0.7 and one right; (0.75, 1] has 0.8, right."""
    probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    judged = Judged(["a", "b"], np.array([0, 1, 1]), probabilities.argmax(axis=1), probabilities)
    expected = 2 / 3 * abs(0.65 - 0.5) + 1 / 3 * abs(0.8 - 1)
    assert compute_calibration_error(judged, 4) == pytest.approx(expected)


def test_calibration_error_of_certain_and_right_is_zero():
    probabilities = np.eye(2)[[0, 1, 1]]
    assert (
        compute_calibration_error(Judged(["a", "b"], np.array([0, 1, 1]), np.array([0, 1, 1]), probabilities), 15) == 0
    )


def test_metrics_file_is_flat_and_bounded():
    metrics = compute_metrics(make_judged(), PARAMS)
    assert metrics["n_images"] == 200
    for name in ("accuracy_score", "balanced_accuracy_score", "macro_f1_score", "roc_auc_score", "log_loss"):
        assert metrics[f"{name}_ci95_low"] < metrics[name] < metrics[f"{name}_ci95_high"]
    assert all(value == round(value, 6) for value in metrics.values())
    assert metrics["majority_baseline_score"] < metrics["accuracy_score"]


def test_wilson_interval_of_a_perfect_score_is_not_empty():
    """97 right of 97: Wilson's lower end is n / (n + z^2)."""
    judged = make_judged(97, noise=0.01)
    metrics = compute_metrics(judged, PARAMS)
    assert metrics["accuracy_score"] == 1
    assert metrics["accuracy_score_ci95_low"] == pytest.approx(97 / (97 + 1.959964**2), abs=1e-6)
    assert metrics["accuracy_score_ci95_high"] == 1


def bootstrap(judged, params=PARAMS):
    return bootstrap_intervals(judged.truth, prepare_metrics(judged, params.n_bins), params)


def test_bootstrap_covers_and_repeats():
    judged = make_judged(400)
    found = bootstrap(judged)
    low, high = found["log_loss"]
    losses = -np.log(judged.probabilities[np.arange(400), judged.truth])
    normal = 1.96 * losses.std() / 20
    assert high - low == pytest.approx(2 * normal, rel=0.25)
    assert bootstrap(judged) == found
    assert bootstrap(judged, PARAMS.model_copy(update={"seed": 1})) != found


@pytest.mark.parametrize(("n_images", "n_classes"), [(200, 2), (150, 3), (300, 40), (2000, 5)])
def test_resamples_give_what_scikit_learn_gives_for_the_rows_drawn(n_images, n_classes, monkeypatch):
    """Interval by interval, each resample drawn and computed by itself."""
    monkeypatch.setattr("relearn.evaluation.intervals.CHUNK_NUMBERS", 5000)
    judged = make_judged(n_images, n_classes)
    present = np.unique(judged.truth)
    strata = [np.flatnonzero(judged.truth == label) for label in present]
    rng = np.random.default_rng(3)
    values = []
    for _ in range(100):
        drawn = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        truth, predicted, scores = judged.truth[drawn], judged.predicted[drawn], judged.probabilities[drawn]
        areas = [reference.roc_auc_score(truth == c, scores[:, c]) for c in ([1] if n_classes == 2 else present)]
        values.append(
            (
                reference.recall_score(truth, predicted, labels=present, average="macro"),
                reference.f1_score(truth, predicted, labels=present, average="macro", zero_division=0),
                np.mean(areas),
                -np.log(scores[np.arange(n_images), truth]).mean(),
                compute_calibration_error(Judged(judged.classes, truth, predicted, scores), 15),
            )
        )
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    found = bootstrap(judged, EvaluateParams(n_resamples=100, n_bins=15, seed=3))
    np.testing.assert_allclose(list(found.values()), np.column_stack([low, high]), rtol=0, atol=1e-12)


def test_resampling_that_takes_long_shows_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr("relearn.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("relearn.evaluation.intervals.CHUNK_NUMBERS", 1000)
    with caplog.at_level(logging.INFO, "relearn"):
        bootstrap(make_judged())
    assert caplog.text == ""
    monkeypatch.setattr("relearn.stages.evaluate.QUIET_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "relearn"):
        bootstrap(make_judged())
    assert "evaluate: 5 of 200 resamples, " in caplog.text
    assert "evaluate: 200 resamples in " in caplog.text


def test_class_without_evaluation_images():
    """It is left out of the means, not counted as zero."""
    judged = make_judged(n_classes=2)
    padded = Judged(
        [*judged.classes, "rare"], judged.truth, judged.predicted, np.c_[judged.probabilities, np.zeros(200)]
    )
    assert compute_balanced_accuracy(padded) == pytest.approx(compute_balanced_accuracy(judged))
    assert compute_metrics(padded, PARAMS)["lowest_recall_score"] > 0


def test_one_class_alone_has_no_curve():
    judged = Judged(["a", "b"], np.zeros(3, int), np.zeros(3, int), np.tile([0.9, 0.1], (3, 1)))
    assert compute_roc_auc(judged) == 0.5


@pytest.mark.parametrize("n_classes", [2, 4])
def test_plots(workspace, n_classes):
    judged = make_judged(1500, n_classes=n_classes, noise=2)
    write_plots(judged)
    confusion = read_csv(paths.CONFUSION, ("label", "predicted"))
    right = sum(label == predicted for label, predicted in confusion)
    assert (len(confusion), right) == (1500, (judged.truth == judged.predicted).sum())
    points = np.array(read_csv(paths.ROC, ("false_positive_rate", "true_positive_rate")), float)
    assert len(points) <= 500
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    if n_classes == 2:
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(compute_roc_auc(judged), abs=2e-3)
    curve = np.array(read_csv(paths.PRECISION_RECALL, ("recall", "precision")), float)
    assert (np.diff(curve[:, 0]) >= 0).all()
    assert curve[-1, 0] == 1
    bins = np.array(read_csv(paths.CALIBRATION, ("confidence", "accuracy", "n_images")), float)
    assert bins[:, 2].sum() == 1500


@pytest.fixture
def trained(features):
    """Features, their manifest, and a classifier."""
    train.run(make_train_params())
    return features


def test_run_judges_every_evaluation_image(trained):
    run(PARAMS)
    classes = ["class 0", "class 1", "class 2"]
    header = ("path", "sha256", "label", "predicted", *(f"probability_{name}" for name in classes))
    rows = read_csv(paths.PREDICTIONS, header)
    assert [row[1] for row in rows] == trained["evaluation"].sha256
    assert [row[2] for row in rows] == trained["evaluation"].labels
    assert rows[0][0] == "evaluation/class 0/2-0.png"
    for row in rows:
        probabilities = [float(cell) for cell in row[4:]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row[3] == classes[int(np.argmax(probabilities))]
    accuracy = np.mean([row[2] == row[3] for row in rows])
    assert read_json(paths.EVALUATION_METRICS)["accuracy_score"] == pytest.approx(accuracy, abs=1e-6)


def test_classifier_of_other_features_is_refused(trained):
    """Other settings, other numbers, or other splits: then what is judged may have been trained on."""
    for name in ("extractor.json", "shards.csv", "index.csv"):
        path = paths.FEATURES / name
        before = path.read_text()
        path.write_text('{"network": "y"}' if name == "extractor.json" else before + before.splitlines()[-1] + "\n")
        with pytest.raises(
            IntegrityError, match=rf"data/features/{name}: wanted sha256 [0-9a-f]{{64}} \(hashes\.json\), "
        ):
            run(PARAMS)
        seal_features(paths.FEATURES)
        with pytest.raises(IntegrityError, match="models/classifier was trained on other features than data/features"):
            run(PARAMS)
        path.write_text(before)
        seal_features(paths.FEATURES)
    run(PARAMS)


def test_manifest_of_other_labels_is_refused(trained):
    text = paths.MANIFEST.read_text()
    row = next(line for line in text.splitlines() if ",evaluation,class 0," in line)
    paths.MANIFEST.write_text(text.replace(row, row.replace(",class 0,", ",class 1,")))
    with pytest.raises(IntegrityError, match=r"data/features and data/manifest\.csv list other evaluation images"):
        run(PARAMS)


def test_manifest_of_other_images_is_refused(trained):
    write_manifest(paths.MANIFEST, [ManifestRow("a", "evaluation", "class 0", "other", 1, 1, 1, "L", "PNG")])
    with pytest.raises(IntegrityError, match=r"data/features and data/manifest\.csv list other evaluation images"):
        run(PARAMS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "evaluation: wanted images, got none"), (["a", "z"], r"evaluation: wanted the classes .* got also \['z'\]")],
)
def test_labels_that_cannot_be_judged(labels, message):
    with pytest.raises(TrainingError, match=message):
        check_labels(labels, ["a", "b"])
