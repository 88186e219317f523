"""The reference is scikit-learn's `cross_val_predict` on the same folds."""

import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from conftest import make_split, make_train_params
from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.calibration import fit_calibration
from relearn.heads.folds import deal_groups
from relearn.heads.out_of_fold import join_splits, predict_out_of_fold
from relearn.inference.classifier import HeadRecord

OPTIONS = {
    "logistic_regression": {"C": 0.1, "tol": 1e-8, "max_iter": 10_000},
    "linear_svm": {"C": 0.1, "tol": 1e-8, "max_iter": 10_000},
    "nearest_centroid": {"shrink_threshold": None},
    "decision_tree": {"criterion": "gini", "max_depth": 3, "min_samples_leaf": 5, "ccp_alpha": 0.0},
    "random_forest": {
        "criterion": "gini",
        "max_depth": 3,
        "min_samples_leaf": 1,
        "n_estimators": 5,
        "max_features": "sqrt",
    },
    "dense": {
        "units": 8,
        "dropout": 0.0,
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "batch_size": 32,
        "epochs": 3,
        "patience": 3,
    },
}


def make_record(head="logistic_regression", n_classes=3, calibration="none"):
    return HeadRecord(
        head_sha256="0" * 64,
        classes=[f"class {number}" for number in range(n_classes)],
        head=head,
        options=OPTIONS[head],
        scale=True,
        calibration=calibration,
    )


def cut(splits, groups=None, n_folds=5):
    labels = [label for split in splits for label in split.labels]
    groups = groups or [sha256 for split in splits for sha256 in split.sha256]
    fold_of = deal_groups(np.unique(labels, return_inverse=True)[1], groups, n_folds, 0)
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(n_folds)]


def stack(splits):
    features = np.concatenate([split.features for split in splits]).astype(np.float64)
    return features, np.array([label for split in splits for label in split.labels])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_are_those_of_cross_val_predict(n_classes):
    splits = [make_split(seed, n_images, n_classes) for seed, n_images in enumerate((60, 20, 20))]
    features, labels = stack(splits)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000))
    expected = cross_val_predict(reference, features, labels, cv=cut(splits), method="predict_proba")
    found = predict_out_of_fold(splits, make_record(n_classes=n_classes), make_train_params())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = predict_out_of_fold(splits, make_record(n_classes=n_classes), make_train_params())
    assert found.tobytes() == again.tobytes()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
def test_calibration_of_a_fold_is_fitted_on_the_scores_of_the_others(n_classes, method):
    splits = [make_split(0, 90, n_classes)]
    features, labels = stack(splits)
    folds = cut(splits)
    reference = make_pipeline(StandardScaler(), LinearSVC(C=0.1, tol=1e-8, dual=False, max_iter=10_000))
    scores = cross_val_predict(reference, features, labels, cv=folds, method="decision_function").reshape(90, -1)
    numbers = np.unique(labels, return_inverse=True)[1]
    found = predict_out_of_fold(splits, make_record("linear_svm", n_classes, method), make_train_params())
    for others, held_out in folds:
        calibration = fit_calibration(method, scores[others], numbers[others])
        expected = calibration.compute_probabilities(scores[held_out])
        np.testing.assert_allclose(found[held_out], expected, atol=1e-5)


@pytest.mark.parametrize("head", ["nearest_centroid", "decision_tree", "random_forest"])
def test_every_kind_of_head_judges_what_it_has_not_seen(head):
    """Noise: a head that had seen an image would be right more often than by chance."""
    noise = make_split(0, 200, 2, 30)
    labels = np.random.default_rng(5).permutation(noise.labels).tolist()
    calibration = "temperature" if head == "nearest_centroid" else "none"
    splits = [SplitFeatures([np.random.default_rng(6).normal(size=(200, 30)).astype("f4")], noise.sha256, labels)]
    found = predict_out_of_fold(splits, make_record(head, 2, calibration), make_train_params())
    np.testing.assert_allclose(found.sum(axis=1), 1)
    right = found.argmax(axis=1) == [label == "class 1" for label in labels]
    assert right.mean() < 0.65


@pytest.mark.slow
def test_dense_head_stops_by_another_fold():
    splits = [make_split(0, 60, 2), make_split(1, 30, 2)]
    found = predict_out_of_fold(splits, make_record("dense", 2), make_train_params())
    labels = [label == "class 1" for split in splits for label in split.labels]
    assert (found.argmax(axis=1) == labels).mean() > 0.8


def test_groups_are_never_split():
    """Images of a group are alike and its label is chance: a head that had seen one would know the others."""
    rng = np.random.default_rng(0)
    groups = [f"group {number // 4}" for number in range(160)]
    features = np.repeat(rng.normal(size=(40, 50)), 4, axis=0) + rng.normal(0, 0.01, (160, 50))
    labels = np.repeat(rng.permutation([f"class {number % 2}" for number in range(40)]), 4).tolist()
    hashes = [f"{number:064x}" for number in range(160)]
    splits = [SplitFeatures([features.astype("f4")], hashes, labels)]
    right = {}
    for given in (None, groups):
        found = predict_out_of_fold(splits, make_record(n_classes=2), make_train_params(), given)
        right[given is None] = (found.argmax(axis=1) == [label == "class 1" for label in labels]).mean()
    assert right[True] > 0.9
    assert right[False] < 0.65


def test_views_belong_to_their_image():
    """The folds are those without views, and views that are copies of their images change nothing."""
    training, validation = make_split(0, 60), make_split(1, 30)
    views = SplitFeatures(
        [np.repeat(training.features, 3, axis=0)],
        np.repeat(training.sha256, 3).tolist(),
        np.repeat(training.labels, 3).tolist(),
        2,
    )
    expected = predict_out_of_fold([training, validation], make_record(), make_train_params())
    found = predict_out_of_fold([views, validation], make_record(), make_train_params())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    joined = join_splits([views, validation], 10**9)
    assert joined.n_views == 2
    assert joined.sha256 == np.repeat(training.sha256 + validation.sha256, 3).tolist()


@pytest.mark.parametrize(
    ("n_images", "message"),
    [
        (
            12,
            "wanted at least 5 images of every class (train.n_folds), got 4 of class class 0; lower train.n_folds, or",
        ),
        (2, "wanted the classes class 0, class 1, class 2, got class 0, class 1; run `dvc repro train`"),
    ],
)
def test_what_cannot_be_judged_is_refused(n_images, message):
    with pytest.raises(TrainingError, match=re.escape(f"images in folds: {message}")):
        predict_out_of_fold([make_split(0, n_images)], make_record(), make_train_params())


def test_features_that_do_not_fit_into_memory_are_refused():
    message = "wanted train.memory_limit_mb of at least 3 for the features, got 2; raise it; folds are for small sets"
    with pytest.raises(TrainingError, match=message):
        join_splits([make_split(0, 20_000), make_split(1, 1_000)], 2 * 500_000)


def test_class_whose_groups_are_all_in_one_fold_is_refused(monkeypatch):
    split = make_split(0, 60)
    monkeypatch.setattr(
        "relearn.heads.out_of_fold.cut_folds", lambda images, *_: np.where(images.labels == 2, 0, np.arange(60) % 5)
    )
    with pytest.raises(TrainingError, match="wanted every class in more than one fold, got class 2 in one; lower"):
        predict_out_of_fold([split], make_record(), make_train_params())
