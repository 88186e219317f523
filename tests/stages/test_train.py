import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import make_split, make_train_params, write_groups, write_rows
from relearn import paths
from relearn.dataset.manifest import SPLITS, ManifestRow, write_manifest
from relearn.errors import IntegrityError, TrainingError
from relearn.features.shards import hash_features
from relearn.heads.kinds import prepare_data
from relearn.heads.search import try_head
from relearn.heads.summary import SCORE_HEADER, SEARCH_HEADER
from relearn.inference.classifier import read_classifier
from relearn.params.heads import HEADS
from relearn.stages.train import run
from relearn.storage.files import read_csv, read_json, write_json

PARAMS = make_train_params()
QUICK_HEADS = [head for head in HEADS if head != "dense"]


def test_run_writes_classifier_metrics_and_plot(features):
    run(PARAMS)
    classifier = read_classifier(paths.CLASSIFIER)
    assert classifier.classes == ["class 0", "class 1", "class 2"]
    assert classifier.record.extractor == {"network": "x", "n_features": 8, "feature_dtype": "float32"}
    metrics = read_json(paths.TRAINING_METRICS)
    assert metrics["n_images"] == metrics["n_validation_images"] == 60
    assert metrics["validation_baseline_score"] == pytest.approx(1 / 3, abs=1e-6)
    assert metrics["validation_accuracy_score"] > metrics["validation_baseline_score"]
    assert metrics["converged"] is True
    assert metrics["C"] in PARAMS.logistic_regression.C
    assert paths.SCORE_BY_C.read_text().splitlines()[0] == ",".join(SCORE_HEADER)
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


def read_search():
    return [dict(zip(SEARCH_HEADER, row, strict=True)) for row in read_csv(paths.SEARCH, SEARCH_HEADER)]


@pytest.mark.parametrize("head", [*QUICK_HEADS, pytest.param("dense", marks=pytest.mark.slow)])
def test_one_parameter_switches_the_head(features, head):
    run(make_train_params(head))
    classifier = read_classifier(paths.CLASSIFIER)
    assert classifier.record.head == head
    validation = features["validation"]
    probabilities = classifier.predict_probabilities(validation.features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    metrics = read_json(paths.TRAINING_METRICS)
    accuracy = np.mean(np.array(classifier.predict_labels(probabilities)) == validation.labels)
    assert metrics["validation_accuracy_score"] == pytest.approx(accuracy, abs=1e-6)
    assert accuracy > 0.6
    calibrated = head in ("nearest_centroid", "linear_svm")
    assert classifier.record.calibration == ("temperature" if calibrated else "none")
    assert ("validation_log_loss" in metrics) == (not calibrated)
    assert read_search()[-1]["head"] == metrics["head"] == head


@pytest.mark.parametrize("head", [*QUICK_HEADS, pytest.param("dense", marks=pytest.mark.slow)])
def test_same_bytes_with_other_numbers_of_threads(features, head, monkeypatch):
    found = set()
    for n_threads in ("1", "2", "4"):
        monkeypatch.setenv("RELEARN_THREADS", n_threads)
        run(make_train_params(head))
        found.add((paths.CLASSIFIER / "head.onnx").read_bytes() + paths.TRAINING_METRICS.read_bytes())
    assert len(found) == 1


@pytest.mark.slow
def test_threads_of_blas_change_no_bit(features):
    """Of scipy's own as well, which is loaded late. At this size two threads were seen to give other bits."""
    write_large(features, 1500, n_images=700)
    found = set()
    for n_threads in ("1", "2"):
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": n_threads,
            "OMP_NUM_THREADS": n_threads,
            "RELEARN_THREADS": n_threads,
        }
        subprocess.run([sys.executable, "-m", "relearn", "train"], env=environment, check=True, capture_output=True)
        found.add((paths.CLASSIFIER / "head.onnx").read_bytes())
    assert len(found) == 1


def test_groups_of_the_images_are_counted_and_kept_together(features):
    """In folds that keep groups a head is judged on other images, so the answers differ."""
    params = make_train_params(select_by="folds", n_folds=5)
    run(params)
    assert "n_groups" not in read_json(paths.TRAINING_METRICS)
    alone = paths.SEARCH.read_bytes()
    images = features["training"].sha256
    write_groups({sha256: f"{number // 6}" for number, sha256 in enumerate(images[:54])})
    run(params)
    assert read_json(paths.TRAINING_METRICS)["n_groups"] == 9 + 6
    assert paths.SEARCH.read_bytes() != alone


def test_search_tries_heads_and_says_why(features):
    search = [
        {"head": "logistic_regression", "C": [0.01, 1.0]},
        {"head": "random_forest", "n_estimators": [3, 5], "max_depth": [2, None]},
        {"head": "nearest_centroid"},
    ]
    run(make_train_params(search=search))
    rows = read_search()
    assert [row["head"] for row in rows] == ["logistic_regression"] * 2 + ["random_forest"] * 4 + ["nearest_centroid"]
    assert {
        (json.loads(row["options"]).get("n_estimators"), json.loads(row["options"]).get("max_depth"))
        for row in rows[2:6]
    } == {(3, 2), (3, None), (5, 2), (5, None)}
    (chosen,) = [row for row in rows if row["verdict"].startswith("chosen")]
    assert read_classifier(paths.CLASSIFIER).record.head == chosen["head"]
    assert all(
        float(row["accuracy_ci95_low"]) < float(row["accuracy"]) <= float(row["accuracy_ci95_high"]) for row in rows
    )
    before = paths.SEARCH.read_bytes()
    run(make_train_params(search=search))
    assert paths.SEARCH.read_bytes() == before


def test_equal_entries_of_a_search_are_both_tried(features):
    run(make_train_params(search=[{"head": "nearest_centroid"}] * 2))
    assert [row["verdict"] for row in read_search()] == ["chosen: the best", "no clear difference"]


def test_refit_that_does_not_converge_is_reported(features, caplog):
    """In folds each fit begins where the one before ended; the last one starts from zero."""
    params = make_train_params(options={"tol": 1e-6, "max_iter": 999}, select_by="folds")
    data = prepare_data(features["training"], features["validation"], params)
    n_iter = max(trial.n_iter for trial in try_head(*params.grids[0], data))
    params = make_train_params(options={"max_iter": n_iter}, select_by="folds")
    run(params)
    converged = read_json(paths.TRAINING_METRICS)["converged"]
    assert converged or "fitted on all of training, did not converge" in caplog.text
    if not converged:
        with pytest.raises(TrainingError, match="wanted a solver that converges"):
            run(params.model_copy(update={"must_converge": True}))


def test_run_with_folds(features):
    run(make_train_params(select_by="folds"))
    metrics = read_json(paths.TRAINING_METRICS)
    assert 0.5 < metrics["folds_accuracy_score"] <= 1
    assert metrics["n_validation_images"] == 60
    with pytest.raises(
        TrainingError, match=r"wanted at least 30 images of every class \(train\.n_folds\), got 20 of class"
    ):
        run(make_train_params(select_by="folds", n_folds=30))


def test_not_converged_is_recorded_and_said(features, caplog):
    params = make_train_params(options={"max_iter": 2})
    with caplog.at_level(logging.WARNING, "relearn"):
        run(params)
    assert read_json(paths.TRAINING_METRICS)["converged"] is False
    assert read_json(paths.TRAINING_METRICS)["n_trials_converged"] == 0
    assert "logistic_regression C=0.01 did not converge in 2 iterations" in caplog.text
    assert [row["converged"] for row in read_search()] == ["false"] * 2
    message = (
        r"wanted a solver that converges \(train\.must_converge\), got 2 iterations without; raise max_iter of log"
    )
    with pytest.raises(TrainingError, match=message):
        run(params.model_copy(update={"must_converge": True}))


def test_run_warns_of_a_best_value_at_an_end(features, caplog):
    run(PARAMS)
    best = read_json(paths.TRAINING_METRICS)["C"]
    assert f"logistic_regression: the best C, {best}, is the " in caplog.text


def test_shard_that_is_missing_is_reported(features):
    next(paths.FEATURES.glob("training*.npy")).unlink()
    with pytest.raises(
        IntegrityError, match=r"training\S*\.npy: no such file, though shards\.csv names it; run `dvc repro"
    ):
        run(PARAMS)


def write_large(features, n_features, n_images=60):
    """Replace the features: `n_features` numbers per image, `n_images` images in training."""
    manifest = []
    for split, count in (("training", n_images), ("validation", 60), ("evaluation", 60)):
        part = make_split(SPLITS.index(split), count)
        manifest += [
            ManifestRow(f"{split}/{number}", split, label, sha256, 1, 1, 1, "L", "PNG")
            for number, (sha256, label) in enumerate(zip(part.sha256, part.labels, strict=True))
        ]
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (3, n_features))
    labels = [int(row.label[-1]) for row in manifest]
    values = (centers[labels] + rng.normal(0, 4, (len(manifest), n_features))).astype(np.float32)
    write_manifest(paths.MANIFEST, manifest)
    write_rows(paths.FEATURES, manifest, values)
    write_json(paths.VERIFICATION_REPORT, {"passed": True, **hash_features(paths.FEATURES)})
    return values


def test_features_that_stay_on_the_disk_give_the_same_head(features):
    write_large(features, 10_000)  # 60 images of 40 kB a split
    heads = []
    for memory_limit_mb in (1, 100):
        run(make_train_params(memory_limit_mb=memory_limit_mb))
        heads.append(read_classifier(paths.CLASSIFIER))
        assert read_json(paths.TRAINING_METRICS)["converged"] is True
    images = make_split(5, 30, n_features=10_000).features
    small, large = (head.predict_probabilities(images) for head in heads)
    np.testing.assert_allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("head", ["nearest_centroid", "decision_tree", "random_forest", "dense"])
def test_head_that_needs_more_memory_says_so(features, head):
    write_large(features, 10_000)
    message = (
        rf"train\.head {head}: wanted train\.memory_limit_mb of at least \d+ for the features, got 1; "
        "raise it, or choose logistic_regression, which reads them in parts"
    )
    with pytest.raises(TrainingError, match=message):
        run(make_train_params(head, memory_limit_mb=1))


def test_no_features(workspace):
    with pytest.raises(IntegrityError, match=r"reports/verification\.json: no such file; run `dvc repro`"):
        run(PARAMS)


@pytest.mark.parametrize("name", ["extractor.json", "index.csv", "shards.csv", "hashes.json"])
def test_features_that_were_changed_by_hand_are_refused(features, name):
    """A recipe that was edited would end in the classifier, which then computes other features than it learned from."""
    path = paths.FEATURES / name
    path.write_text(path.read_text().replace("x", "y", 1) + " ")
    message = "no such file|wanted the key" if name == "hashes.json" else rf"{name}: wanted sha256 .* changed by hand"
    with pytest.raises(IntegrityError, match=message):
        run(PARAMS)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"data/features/{name}: no such file; run `dvc repro"):
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


def test_nothing_is_told_to_anybody(features, tmp_path):
    """onnxruntime would note a device id below the home folder, for its telemetry."""
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-m", "relearn", "train"], env=environment, check=True, capture_output=True)
    assert [path for path in home.rglob("*") if path.is_file()] == []
