import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import make_split, make_train_params, write_rows
from relearn import paths
from relearn.dataset.manifest import SPLITS, ManifestRow, write_manifest
from relearn.errors import IntegrityError, TrainingError
from relearn.features.shards import SplitFeatures, hash_features
from relearn.heads import fitting as estimators
from relearn.heads.fitting import TrainingData, fit_heads
from relearn.inference.classifier import read_classifier
from relearn.params import HEADS
from relearn.stages import train
from relearn.stages.train import Trial, choose_trial, judge, run, try_head
from relearn.storage.files import read_csv, read_json, write_json

PARAMS = make_train_params()
QUICK_HEADS = [head for head in HEADS if head != "dense"]


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
    assert metrics["C"] in PARAMS.logistic_regression.C
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


def read_search():
    return [dict(zip(train.SEARCH_HEADER, row, strict=True)) for row in read_csv(paths.SEARCH, train.SEARCH_HEADER)]


@pytest.mark.parametrize("head", [*QUICK_HEADS, pytest.param("dense", marks=pytest.mark.slow)])
def test_one_parameter_switches_the_head(features, head):
    run(make_train_params(head))
    classifier = read_classifier(paths.CLASSIFIER)
    assert classifier.record["head"] == head
    validation = features["validation"]
    probabilities = classifier.predict_probabilities(validation.features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    metrics = read_json(paths.TRAINING_METRICS)
    accuracy = np.mean(np.array(classifier.predict_labels(probabilities)) == validation.labels)
    assert metrics["validation_accuracy_score"] == pytest.approx(accuracy, abs=1e-6)
    assert accuracy > 0.6
    calibrated = head in ("nearest_centroid", "linear_svm")
    assert classifier.record["calibration"] == ("temperature" if calibrated else "none")
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


@pytest.mark.parametrize("n_classes", [2, 3])
def test_heads_are_those_of_scikit_learn(n_classes):
    """The same decisions on other images as scikit-learn's own estimators, written out."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    training, validation = make_split(1, 200, n_classes, 30), make_split(2, 150, n_classes, 30)
    references = {
        "nearest_centroid": make_pipeline(StandardScaler(), NearestCentroid()),
        "logistic_regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000)),
        "linear_svm": make_pipeline(StandardScaler(), LinearSVC(C=0.1, tol=1e-8, dual=False, max_iter=10_000)),
        "decision_tree": DecisionTreeClassifier(max_depth=4, min_samples_leaf=5, random_state=0),
        "random_forest": RandomForestClassifier(10, random_state=0),
    }
    options = {
        "logistic_regression": {"C": 0.1},
        "linear_svm": {"C": 0.1, "tol": 1e-8, "max_iter": 10_000},
        "decision_tree": {"max_depth": 4},
    }
    for head, reference in references.items():
        params = make_train_params(head, options.get(head))
        (trial,) = try_head(*params.grids[0], TrainingData(training, validation, params))
        reference.fit(
            training.features.astype(np.float64 if "tree" not in head and "forest" not in head else "f4"),
            training.labels,
        )
        expected = reference.predict(validation.features) == validation.labels
        assert np.array_equal(trial.right, expected), head


@pytest.mark.parametrize("class_weight", ["balanced", {"class 0": 5.0, "class 1": 0.2, "class 2": 1.0}])
@pytest.mark.parametrize("head", ["logistic_regression", "linear_svm", "random_forest"])
def test_weights_of_classes(class_weight, head):
    from sklearn.utils.class_weight import compute_sample_weight

    training, validation = make_split(1, 91), make_split(2)
    params = make_train_params(head, class_weight=class_weight)
    data = TrainingData(training, validation, params)
    np.testing.assert_allclose(data.weigh_rows(), compute_sample_weight(class_weight, training.labels))
    (plain, *_), (weighted, *_) = (
        fit_heads(head, [{n: v[0] if isinstance(v, list) else v for n, v in params.grids[0][1].items()}], data, w)
        for w in (np.ones(91), data.weigh_rows())
    )
    assert not np.array_equal(plain.compute_scores(validation.features), weighted.compute_scores(validation.features))


def test_weights_that_name_no_class_are_told():
    data = TrainingData(make_split(1), make_split(2), make_train_params(class_weight={"class 0": 1.0, "cat": 2.0}))
    message = r"train\.class_weight: wanted a weight for each of class 0, class 1, class 2, got those of class 0, cat"
    with pytest.raises(TrainingError, match=message):
        data.weigh_rows()
    with pytest.raises(ValueError, match="class_weight: null with nearest_centroid, which knows no weights"):
        make_train_params("nearest_centroid", class_weight="balanced")


# --- choosing --------------------------------------------------------------------------------------------------------


def make_trial(head, right, log_loss=0.5, standard_error=0.0, **options):
    return Trial(head, head, options, np.array(right, bool), log_loss, standard_error, None, 1, True)


def make_right(n_right, n_images=100):
    return np.arange(n_images) < n_right


def test_choice_is_accuracy_then_loss_then_smallest():
    trials = [
        make_trial("linear_svm", make_right(80), 0.1, C=1),
        make_trial("linear_svm", make_right(90), 0.5, C=2),
        make_trial("linear_svm", make_right(90), 0.4, C=3),
        make_trial("linear_svm", make_right(90), 0.4, C=0.5),
    ]
    for given in (trials, trials[::-1]):
        assert choose_trial(given, False)[0].options["C"] == 0.5


def test_one_standard_error_takes_the_simplest_that_is_near():
    trials = [
        make_trial("linear_svm", make_right(85), C=0.01, standard_error=0.03),
        make_trial("linear_svm", make_right(88), C=0.1, standard_error=0.03),
        make_trial("linear_svm", make_right(90), C=1, standard_error=0.03),
    ]
    assert choose_trial(trials, False)[0].options["C"] == 1
    chosen, verdicts = choose_trial(trials, True)
    assert chosen.options["C"] == 0.1
    assert verdicts == ["no clear difference", "chosen: simpler than linear_svm, within one standard error", "the best"]


def test_between_heads_a_tie_goes_to_the_simpler():
    worse, near, best = make_right(60), make_right(88), make_right(90)
    trials = [
        make_trial("random_forest", best, n_estimators=10),
        make_trial("logistic_regression", near, C=1.0),
        make_trial("nearest_centroid", worse, shrink_threshold=None),
    ]
    chosen, verdicts = choose_trial(trials, False)
    assert chosen.head == "logistic_regression"
    assert verdicts == ["the best", "chosen: simpler than random_forest, no clear difference", "worse"]
    chosen, verdicts = choose_trial([trials[0], trials[2]], False)
    assert (chosen.head, verdicts) == ("random_forest", ["chosen: the best", "worse"])


@pytest.mark.parametrize(
    ("simpler", "other"),
    [
        ({"max_depth": 2}, {"max_depth": None}),
        ({"min_samples_leaf": 5}, {"min_samples_leaf": 1}),
        ({"shrink_threshold": 1.0}, {"shrink_threshold": None}),
        ({"C": 0.1}, {"C": 1}),
    ],
)
def test_what_is_simpler(simpler, other):
    assert make_trial("dense", [True], **simpler).complexity < make_trial("dense", [True], **other).complexity


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
    assert read_classifier(paths.CLASSIFIER).record["head"] == chosen["head"]
    assert all(
        float(row["accuracy_ci95_low"]) < float(row["accuracy"]) <= float(row["accuracy_ci95_high"]) for row in rows
    )
    before = paths.SEARCH.read_bytes()
    run(make_train_params(search=search))
    assert paths.SEARCH.read_bytes() == before


@pytest.mark.parametrize("head", ["logistic_regression", "decision_tree"])
def test_folds_judge_each_image_by_a_head_that_has_not_seen_it(head):
    from sklearn.model_selection import StratifiedGroupKFold

    training, validation = make_split(1), make_split(2)
    params = make_train_params(
        head,
        {"C": 0.1} if head == "logistic_regression" else {"max_depth": 3},
        select_by="folds",
        n_folds=4,
        scale=False,
    )
    data = TrainingData(training, validation, params)
    (trial,) = try_head(*params.grids[0], data)
    right, accuracies = np.empty(60, bool), []
    for fitting, held_out in StratifiedGroupKFold(4, shuffle=True, random_state=0).split(
        data.truth, data.truth, training.sha256
    ):
        part = SplitFeatures([training.features[fitting]], [], [training.labels[n] for n in fitting])
        (head_of_fold,) = fit_heads(
            head, [trial.options], TrainingData(part, validation, params), np.ones(len(fitting))
        )
        right[held_out] = judge(
            head_of_fold, head_of_fold.compute_scores(training.features[held_out]), data.truth[held_out]
        )[0]
        accuracies.append(right[held_out].mean())
    assert np.array_equal(trial.right, right)
    assert trial.standard_error == pytest.approx(np.std(accuracies, ddof=1) / 2)


def test_copies_of_an_image_are_in_one_fold():
    """Noise in pairs of copies: who had seen the other copy would be right more often than by chance."""
    noise, validation = make_split(1, 100, 2, 50), make_split(2, 60, 2, 50)
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(100, 50)).astype("f4"), 2, axis=0)
    labels = np.repeat(rng.permutation(noise.labels), 2).tolist()
    training = SplitFeatures([features], np.repeat(noise.sha256, 2).tolist(), labels)
    params = make_train_params(options={"C": 1.0}, select_by="folds")
    (trial,) = try_head(*params.grids[0], TrainingData(training, validation, params))
    assert trial.accuracy < 0.65


def test_refit_that_does_not_converge_is_told(features, caplog):
    """In folds each fit begins where the one before ended; the last one begins anew."""
    n_iter = max(
        t.n_iter
        for t in try_head(
            "logistic_regression",
            {"C": [0.01, 1.0], "tol": 1e-6, "max_iter": 999},
            TrainingData(features["training"], features["validation"], make_train_params(select_by="folds")),
        )
    )
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
    assert metrics["folds_accuracy_score_ci95_low"] < metrics["folds_accuracy_score"]
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


# --- the ends of a grid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "name", "values", "best", "message"),
    [
        (
            "logistic_regression",
            "C",
            [0.01, 0.1, 1.0],
            1.0,
            "C, 1.0, is the largest of those that were tried; a larger one may be better: try 10.0 too",
        ),
        (
            "logistic_regression",
            "C",
            [0.01, 0.1, 1.0],
            0.01,
            "C, 0.01, is the smallest of those that were tried; a smaller one may be better: try 0.001 too",
        ),
        ("logistic_regression", "C", [0.01, 0.1, 1.0], 0.1, None),
        ("logistic_regression", "C", [1.0], 1.0, None),
        ("logistic_regression", "C", [1.0, 1e9], 1e9, None),
        ("linear_svm", "C", [1e-6, 1e-4], 1e-6, "smaller one may be better: try 1e-08 too"),
        (
            "decision_tree",
            "max_depth",
            [2, 4, 8],
            8,
            "max_depth, 8, is the largest of those that were tried; a larger one may be better: try 16 too",
        ),
        ("decision_tree", "max_depth", [2, 4, 8, None], 8, None),
        ("decision_tree", "max_depth", [2, 4, 8, None], None, None),
        ("decision_tree", "min_samples_leaf", [1, 5], 1, None),
        ("decision_tree", "ccp_alpha", [0.0, 0.1], 0.0, None),
        ("decision_tree", "criterion", ["gini", "entropy"], "gini", None),
        ("nearest_centroid", "shrink_threshold", [None, 0.1, 0.2], 0.1, None),
        ("nearest_centroid", "shrink_threshold", [None, 0.1, 0.2], 0.2, "try 0.4 too"),
        ("dense", "dropout", [0.3, 0.6], 0.6, None),
        ("dense", "units", [64, 256], 256, "try 1024 too"),
    ],
)
def test_best_value_at_an_end_is_a_warning(head, name, values, best, message, caplog):
    trials = [make_trial(head, make_right(90 if value == best else 80), **{name: value}) for value in values]
    train.warn_of_ends(trials[0], trials, make_train_params(head))
    if message is None:
        assert caplog.text == ""
    else:
        assert f"{head}: the best {name}, {best}, is the " in caplog.text
        assert message in caplog.text


def test_run_warns_of_a_best_value_at_an_end(features, caplog):
    run(PARAMS)
    best = read_json(paths.TRAINING_METRICS)["C"]
    assert f"logistic_regression: the best C, {best}, is the " in caplog.text


@pytest.mark.parametrize("head", ["logistic_regression", "decision_tree"])
def test_fits_that_take_long_show_how_far_they_are(head, monkeypatch, caplog):
    monkeypatch.setattr("relearn.heads.fitting.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("relearn.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    grid = {"C": [0.01, 1.0]} if head == "logistic_regression" else {"max_depth": [2, 3]}
    params = make_train_params(head, grid)
    with caplog.at_level(logging.INFO, "relearn"):
        try_head(*params.grids[0], TrainingData(make_split(1), make_split(2), params))
    unit = "values of C" if head == "logistic_regression" else "heads"
    assert f"train {head}: 1 of 2 {unit}, " in caplog.text
    if head == "logistic_regression":
        assert re.search(r"train logistic_regression: 0\.\d\d of 2 values of C, ", caplog.text)  # within the first C


@pytest.mark.parametrize(
    ("head", "options", "n_fits"),
    [
        ("logistic_regression", {"C": [0.01, 1.0]}, 2),
        ("logistic_regression", {"C": 1.0}, 1),
        ("nearest_centroid", {}, 0),
        ("linear_svm", {}, None),
    ],
)
@pytest.mark.parametrize("select_by", ["validation", "folds"])
def test_coordinates_are_chosen_for_all_fits(head, options, n_fits, select_by, monkeypatch):
    given = []
    find = estimators.find_coordinates
    monkeypatch.setattr(estimators, "find_coordinates", lambda *a, n_fits: given.append(n_fits) or find(*a))
    params = make_train_params(head, options, select_by=select_by, n_folds=4)
    TrainingData(make_split(1), make_split(2), params).coordinates  # noqa: B018
    assert given == [n_fits and n_fits * (4 if select_by == "folds" else 1)]


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_nan_in_a_shard_is_told():
    training = make_split(1)
    training.blocks[0][7, 3] = np.nan
    with pytest.raises(
        TrainingError, match=f"wanted finite features, got NaN or infinity for image {training.sha256[7]}"
    ):
        TrainingData(training, make_split(2), PARAMS)


def test_nan_in_validation_is_told():
    validation = make_split(2)
    validation.blocks[0][7, 3] = np.inf
    with pytest.raises(
        TrainingError, match=f"validation: wanted finite features, got NaN or infinity for image {validation.sha256[7]}"
    ):
        TrainingData(make_split(1), validation, PARAMS)


@pytest.mark.parametrize("n_constant", [0, 5])
def test_centroids_with_features_that_are_constant(n_constant):
    training, validation = make_split(1), make_split(2)
    training.blocks[0][:, :n_constant] = 3
    params = make_train_params("nearest_centroid", {"shrink_threshold": 0.1})
    (trial,) = try_head(*params.grids[0], TrainingData(training, validation, params))
    assert trial.accuracy > 0.5


def test_centroids_cannot_be_shrunk_by_one_image_a_class():
    two, other = make_split(1, 2, 2), make_split(2, 20, 2)
    params = make_train_params("nearest_centroid", {"shrink_threshold": 0.1})
    with pytest.raises(
        TrainingError, match="wants features that vary within a class, got 2 images of 2 classes; take null"
    ):
        try_head(*params.grids[0], TrainingData(two, other, params))


@pytest.mark.slow
def test_learning_rate_that_is_too_large_is_told():
    params = make_train_params("dense", {"learning_rate": 1e9, "weight_decay": 1e3})
    with pytest.raises(
        TrainingError, match=r"dense\.learning_rate: 1e\+09 made the loss NaN or infinite in epoch \d+; lower"
    ):
        try_head(*params.grids[0], TrainingData(make_split(1), make_split(2), params))


def test_svm_that_is_not_scikit_learns_is_told(monkeypatch):
    data = TrainingData(make_split(1), make_split(2), make_train_params("linear_svm"))
    coordinates = data.coordinates
    data.coordinates = coordinates._replace(restore=lambda weights: coordinates.restore(weights) / 2)
    with pytest.raises(TrainingError, match="linear_svm: wanted the scores of scikit-learn's estimator, got some that"):
        fit_heads("linear_svm", [{"C": 1.0, "tol": 1e-4, "max_iter": 1000}], data, np.ones(60))


def test_features_that_tell_nothing_apart_are_told():
    training = make_split(1)
    training.blocks[0][:] = 3
    with pytest.raises(
        TrainingError, match=r"wanted features that tell images apart, got the same 8 for all 60; look at"
    ):
        TrainingData(training, make_split(2), PARAMS)


def test_two_images_are_enough():
    training = make_split(1)
    two = SplitFeatures([training.features[:2]], training.sha256[:2], training.labels[:2])
    validation = SplitFeatures(
        [make_split(2, n_classes=2).features], make_split(2).sha256, make_split(2, n_classes=2).labels
    )
    trials = try_head(*PARAMS.grids[0], TrainingData(two, validation, PARAMS))
    assert all(trial.converged for trial in trials)


def test_class_that_validation_lacks_cannot_be_calibrated(features):
    validation = features["validation"]
    kept = [n for n, label in enumerate(validation.labels) if label != "class 1"]
    part = SplitFeatures([validation.features[kept]], [], [validation.labels[n] for n in kept])
    params = make_train_params(calibration="sigmoid")
    data = TrainingData(features["training"], part, params)
    with pytest.raises(
        TrainingError, match=r"wanted images of every class to calibrate on .*, got none of class 1; add"
    ):
        train.check_calibration(data)


def test_shard_that_is_missing_is_told(features):
    next(paths.FEATURES.glob("training*.npy")).unlink()
    with pytest.raises(
        IntegrityError, match=r"training\S*\.npy: no such file, though shards\.csv names it; run `dvc repro"
    ):
        run(PARAMS)


# --- larger than memory ----------------------------------------------------------------------------------------------


def write_large(features, n_features, n_images=60):
    """Write features of so many numbers an image in place of those that there are; so many images in training."""
    manifest = []
    for split, count in (("training", n_images), ("validation", 60), ("evaluation", 60)):
        part = make_split(SPLITS.index(split), count)
        manifest += [
            ManifestRow(f"{split}/{number}", split, label, sha256, 1, 1, 1, "L", "PNG")
            for number, (sha256, label) in enumerate(zip(part.sha256, part.labels, strict=True))
        ]
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (3, n_features))
    labels = [int(row.label[-1]) for row in manifest]
    values = (centres[labels] + rng.normal(0, 4, (len(manifest), n_features))).astype(np.float32)
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
    message = rf"train: {head} wants \d+ MB for the features, got train\.memory_limit_mb 1; raise it, or take log"
    with pytest.raises(TrainingError, match=message):
        run(make_train_params(head, memory_limit_mb=1))


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (["a", "a"], ["a"], r"training: wanted at least 2 classes, got \['a'\]"),
        ([], [], r"training: wanted at least 2 classes, got \[\]"),
        (["a", "b"], [], "validation: wanted images to choose by, got none"),
        (["a", "b"], ["c"], r"validation: wanted the classes of training, got also \['c'\]"),
    ],
)
def test_labels_that_allow_no_training(training, validation, message):
    with pytest.raises(TrainingError, match=message):
        train.check_labels(training, validation)


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
