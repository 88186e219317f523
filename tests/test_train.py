import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import make_split
from relearn import paths, train
from relearn.classifier import read_classifier
from relearn.errors import IntegrityError, TrainingError
from relearn.files import read_json
from relearn.params import TrainParams
from relearn.train import Trial, choose_trial, export_head, fit_trials, run

PARAMS = TrainParams(scale=True, C=[0.01, 1.0], max_iter=500, tol=1e-4)


def test_run_writes_classifier_metrics_and_plot(features):
    run(PARAMS)
    classifier = read_classifier(paths.CLASSIFIER)
    assert classifier.classes == ["class 0", "class 1", "class 2"]
    assert classifier.record["extractor"] == {"network": "x", "n_features": 8, "feature_dtype": "float32"}
    metrics = read_json(paths.TRAINING_METRICS)
    assert metrics["n_images"] == metrics["n_validation_images"] == 60
    assert metrics["validation_baseline_score"] == pytest.approx(1 / 3, abs=1e-6)
    score = metrics["validation_accuracy_score"]
    assert metrics["validation_accuracy_score_ci95_low"] < score <= metrics["validation_accuracy_score_ci95_high"]
    assert metrics["converged"] is True
    assert metrics["C"] in PARAMS.C
    assert paths.SCORE_BY_C.read_text().splitlines()[0] == ",".join(train.SCORE_HEADER)
    assert [row.split(",")[:2] for row in paths.SCORE_BY_C.read_text().splitlines()[1:]] == [
        ["0.01", "-2.0000"],
        ["1", "0.0000"],
    ]


def test_evaluation_split_is_not_opened(features):
    run(PARAMS)
    before = (paths.CLASSIFIER / "head.onnx").read_bytes(), paths.TRAINING_METRICS.read_bytes()
    for shard in paths.FEATURES.glob("evaluation*.npy"):
        shard.write_bytes(b"not to be read")
    run(PARAMS)
    assert ((paths.CLASSIFIER / "head.onnx").read_bytes(), paths.TRAINING_METRICS.read_bytes()) == before


def test_same_bytes_each_time(features):
    run(PARAMS)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    run(PARAMS)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scale", [True, False])
def test_head_predicts_as_the_model_does(n_classes, scale):
    training, validation = make_split(1, n_classes=n_classes), make_split(2, n_classes=n_classes)
    for trial in fit_trials(training, validation, PARAMS.model_copy(update={"scale": scale})):
        session = train.open_head(export_head(trial.model, validation.features))
        label, probabilities = session.run(["label", "probabilities"], {"features": validation.features})
        np.testing.assert_allclose(probabilities, trial.model.predict_proba(validation.features), atol=1e-5)
        assert list(label) == list(trial.model.predict(validation.features))


def test_head_that_differs_is_an_error(monkeypatch):
    training = make_split(1)
    (trial, _) = fit_trials(training, make_split(2), PARAMS)
    monkeypatch.setattr(train, "HEAD_TOLERANCE", 0.0)
    with pytest.raises(
        TrainingError, match=r"head\.onnx: wanted the model's own probabilities, got some that differ by"
    ):
        export_head(trial.model, training.features)


def test_model_is_fitted_on_training_alone():
    """The reference is scikit-learn's, written out: means, deviations and coefficients of the training split."""
    from sklearn.linear_model import LogisticRegression

    training, validation = make_split(1), make_split(2)
    (trial,) = fit_trials(training, validation, PARAMS.model_copy(update={"C": [0.1]}))
    exact = training.features.astype(np.float64)
    mean, deviation = exact.mean(axis=0), exact.std(axis=0)
    reference = LogisticRegression(C=0.1, max_iter=500).fit((exact - mean) / deviation, training.labels)
    expected = reference.predict_proba((validation.features - mean) / deviation)
    np.testing.assert_allclose(trial.model.predict_proba(validation.features), expected, rtol=1e-6)
    assert trial.accuracy == np.mean(reference.classes_[expected.argmax(axis=1)] == validation.labels)


def make_trial(C, accuracy, log_loss):
    return Trial(C, None, accuracy, log_loss, 1, True)


def test_choice_is_accuracy_then_loss_then_smallest():
    trials = [make_trial(1, 0.8, 0.1), make_trial(2, 0.9, 0.5), make_trial(3, 0.9, 0.4), make_trial(0.5, 0.9, 0.4)]
    for given in (trials, trials[::-1]):
        assert choose_trial(given).C == 0.5


def test_not_converged_is_recorded_and_said(features, caplog):
    with caplog.at_level(logging.WARNING, "relearn"):
        run(PARAMS.model_copy(update={"max_iter": 2}))
    assert read_json(paths.TRAINING_METRICS)["converged"] is False
    assert read_json(paths.TRAINING_METRICS)["n_trials_converged"] == 0
    assert "C=0.01 did not converge in 2 iterations; raise train.max_iter" in caplog.text
    assert paths.SCORE_BY_C.read_text().count("false") == 2


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (["a", "a"], ["a"], r"training: wanted at least 2 classes, got \['a'\]"),
        ([], [], r"training: wanted at least 2 classes, got \[\]"),
        (["a", "b"], [], "validation: wanted images to choose C by, got none"),
        (["a", "b"], ["c"], r"validation: wanted the classes of training, got also \['c'\]"),
    ],
)
def test_labels_that_allow_no_training(training, validation, message):
    with pytest.raises(TrainingError, match=message):
        train.check_labels(training, validation)


def test_no_features(workspace):
    with pytest.raises(IntegrityError, match=r"reports/verification\.json: no such file; run `dvc repro`"):
        run(PARAMS)


def test_classifier_with_another_head_is_refused(features):
    run(PARAMS)
    head = paths.CLASSIFIER / "head.onnx"
    head.write_bytes(head.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match=r"head\.onnx: wanted sha256 [0-9a-f]{64} \(classifier\.json\), got"):
        read_classifier(paths.CLASSIFIER)
    head.unlink()
    with pytest.raises(IntegrityError, match=r"head\.onnx: no such file; run `dvc repro train`"):
        read_classifier(paths.CLASSIFIER)
    with pytest.raises(IntegrityError, match="nowhere: no classifier there; run `dvc repro`"):
        read_classifier(Path("nowhere"))


def test_thread_counts_do_not_change_the_coefficients():
    """The size is one at which two threads of BLAS were seen to give other bits than one."""
    from threadpoolctl import threadpool_limits

    training, validation = make_split(1, 500, 10, 2000), make_split(2, 50, 10, 2000)
    coefficients = set()
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            (trial,) = fit_trials(training, validation, PARAMS.model_copy(update={"C": [0.1]}))
        coefficients.add(trial.model[-1].coef_.tobytes())
    assert len(coefficients) == 1


def test_nothing_is_told_to_anybody(features, tmp_path):
    """onnxruntime would note a device id below the home folder, for its telemetry."""
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-m", "relearn", "train"], env=environment, check=True, capture_output=True)
    assert [path for path in home.rglob("*") if path.is_file()] == []
