import re

import numpy as np
import pytest

from conftest import make_train_params, write_groups
from relearn import paths
from relearn.commands.report import describe_evaluation
from relearn.dataset.assignments import read_groups
from relearn.dataset.manifest import ManifestRow, write_manifest
from relearn.errors import IntegrityError, TrainingError
from relearn.evaluation.metrics import compute_value, judge, prepare_roc_auc
from relearn.evaluation.predictions import read_predictions
from relearn.features.shards import seal_features
from relearn.heads.out_of_fold import predict_out_of_fold
from relearn.inference.classifier import read_classifier
from relearn.params.pipeline import EvaluateParams
from relearn.stages import evaluate, train
from relearn.stages.evaluate import check_labels, write_plots
from relearn.storage.files import read_csv, read_json

PARAMS = EvaluateParams(by="split", n_resamples=200, resample="images", n_bins=15, n_explained=24, seed=0)


def run(params=PARAMS, train=None):
    evaluate.run(params, train or make_train_params())


def make_judged(n_images, n_classes):
    rng = np.random.default_rng(0)
    columns = np.arange(n_images) % n_classes
    scores = np.exp(2 * np.eye(n_classes)[columns] + rng.normal(0, 2, (n_images, n_classes)))
    classes = [f"class {number}" for number in range(n_classes)]
    return judge(classes, [classes[column] for column in columns], scores / scores.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_plots(workspace, n_classes):
    judged = make_judged(1500, n_classes)
    write_plots(judged)
    confusion = read_csv(paths.CONFUSION, ("label", "predicted"))
    right = sum(label == predicted for label, predicted in confusion)
    assert (len(confusion), right) == (1500, (judged.labels == judged.predicted).sum())
    points = np.array(read_csv(paths.ROC, ("false_positive_rate", "true_positive_rate")), float)
    assert len(points) <= 500
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    if n_classes == 2:
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(
            compute_value(prepare_roc_auc(judged), judged), abs=2e-3
        )
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
        with pytest.raises(
            IntegrityError,
            match="models/classifier: wanted a classifier trained on data/features, got one trained on other features",
        ):
            run(PARAMS)
        path.write_text(before)
        seal_features(paths.FEATURES)
    run(PARAMS)


def test_groups_are_counted_and_drawn(trained, caplog):
    caplog.set_level("INFO")
    by_group = PARAMS.model_copy(update={"resample": "groups"})
    with pytest.raises(
        TrainingError, match=r"evaluate\.resample: wanted images with groups, got none; set restructure"
    ):
        run(by_group)
    run(PARAMS)
    alone, by_image = read_json(paths.EVALUATION_METRICS), read_json(paths.INTERVALS)
    images = trained["evaluation"].sha256
    write_groups({sha256: f"{number // 12}" for number, sha256 in enumerate(images)})
    run(PARAMS)
    assert read_json(paths.EVALUATION_METRICS) == alone | {"n_groups": 5}
    run(by_group)
    assert read_json(paths.EVALUATION_METRICS) == alone | {"n_groups": 5}
    assert read_json(paths.INTERVALS)["log_loss"] != by_image["log_loss"]
    assert "evaluate.resample: class class 0 has 5 groups; of so few the intervals are too narrow" in caplog.messages
    assert caplog.messages[-1].startswith("60 evaluation images in 5 groups: accuracy ")
    assert describe_evaluation()[0] == "60 evaluation images in 5 groups of 3 classes"


def test_folds_judge_every_image_by_a_head_that_was_not_fitted_on_it(trained, caplog):
    caplog.set_level("INFO")
    run(PARAMS.model_copy(update={"by": "folds"}))
    found = read_predictions(paths.PREDICTIONS)
    parts = list(trained.values())
    assert found.sha256 == [sha256 for part in parts for sha256 in part.sha256]
    assert found.are_out_of_fold
    record = read_classifier(paths.CLASSIFIER).record
    expected = predict_out_of_fold(parts, record, make_train_params())
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    metrics = read_json(paths.EVALUATION_METRICS)
    assert (metrics["n_images"], metrics["n_folds"]) == (180, 5)
    assert metrics["accuracy_score"] == pytest.approx(found.right.mean(), abs=1e-6)
    assert caplog.messages[-1].startswith("180 images, out of 5 folds: accuracy ")
    headline = "180 images of 3 classes, out of 5 folds: each judged by a head that was not fitted on it"
    assert describe_evaluation()[0] == headline
    run()
    assert not read_predictions(paths.PREDICTIONS).are_out_of_fold
    assert "n_folds" not in read_json(paths.EVALUATION_METRICS)


def test_folds_keep_groups(trained):
    images = [sha256 for part in trained.values() for sha256 in part.sha256]
    write_groups({sha256: f"{number // 12}" for number, sha256 in enumerate(images)})
    run(PARAMS.model_copy(update={"by": "folds"}))
    found = read_predictions(paths.PREDICTIONS)
    record = read_classifier(paths.CLASSIFIER).record
    groups = read_groups(paths.SPLITS, images)
    expected = predict_out_of_fold(list(trained.values()), record, make_train_params(), groups)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert read_json(paths.EVALUATION_METRICS)["n_groups"] == len(set(groups))


def test_folds_cannot_judge_a_network_that_was_tuned(trained):
    (paths.FEATURES / paths.TUNED_WEIGHTS).write_bytes(b"weights")
    message = (
        "evaluate.by: folds: wanted a network that has not seen the images, got one that finetune trained on them; "
        "set evaluate.by to split, or finetune.epochs to 0"
    )
    with pytest.raises(TrainingError, match=re.escape(message)):
        run(PARAMS.model_copy(update={"by": "folds"}))


def test_manifest_of_other_labels_is_refused(trained):
    text = paths.MANIFEST.read_text()
    row = next(line for line in text.splitlines() if ",evaluation,class 0," in line)
    paths.MANIFEST.write_text(text.replace(row, row.replace(",class 0,", ",class 1,")))
    with pytest.raises(
        IntegrityError, match=r"data/features: wanted the evaluation images of data/manifest\.csv, got others"
    ):
        run(PARAMS)


def test_manifest_of_other_images_is_refused(trained):
    write_manifest(paths.MANIFEST, [ManifestRow("a", "evaluation", "class 0", "other", 1, 1, 1, "L", "PNG")])
    with pytest.raises(
        IntegrityError, match=r"data/features: wanted the evaluation images of data/manifest\.csv, got others"
    ):
        run(PARAMS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "evaluation: wanted images, got none"), (["a", "z"], r"evaluation: wanted the classes .* got also \['z'\]")],
)
def test_labels_that_cannot_be_judged(labels, message):
    with pytest.raises(TrainingError, match=message):
        check_labels(labels, ["a", "b"])
