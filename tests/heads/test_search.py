import re

import numpy as np
import pytest

from conftest import make_split, make_train_params
from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.folds import deal_groups
from relearn.heads.kinds import fit_heads, prepare_data
from relearn.heads.scoring import judge_scores
from relearn.heads.search import assign_folds, try_head


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
        (trial,) = try_head(*params.grids[0], prepare_data(training, validation, params))
        reference.fit(
            training.features.astype(np.float64 if "tree" not in head and "forest" not in head else "f4"),
            training.labels,
        )
        expected = reference.predict(validation.features) == validation.labels
        assert np.array_equal(trial.right, expected), head


@pytest.mark.parametrize("head", ["logistic_regression", "decision_tree"])
def test_folds_judge_each_image_by_a_head_that_has_not_seen_it(head):
    training, validation = make_split(1), make_split(2)
    params = make_train_params(
        head,
        {"C": 0.1} if head == "logistic_regression" else {"max_depth": 3},
        select_by="folds",
        n_folds=4,
        scale=False,
    )
    data = prepare_data(training, validation, params)
    (trial,) = try_head(*params.grids[0], data)
    right, accuracies = np.empty(60, bool), []
    fold_of = deal_groups(data.labels, training.sha256, 4, 0)
    for fold in range(4):
        fitting, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        part = SplitFeatures([training.features[fitting]], [], [training.labels[n] for n in fitting])
        (head_of_fold,) = fit_heads(
            head, [trial.options], prepare_data(part, validation, params), np.ones(len(fitting))
        )
        right[held_out] = judge_scores(
            head_of_fold, head_of_fold.compute_scores(training.features[held_out]), data.labels[held_out]
        )[0]
        accuracies.append(right[held_out].mean())
    assert np.array_equal(trial.right, right)
    assert trial.standard_error == pytest.approx(np.std(accuracies, ddof=1) / 2)


def test_groups_are_in_one_fold():
    training = make_split(1)
    groups = [f"group {number // 6}" for number in range(60)]
    params = make_train_params(select_by="folds", n_folds=5)
    folds = assign_folds(prepare_data(training, make_split(2), params, groups))
    assert len(set(zip(folds, groups, strict=True))) == 10
    assert len(set(folds)) == 5
    assert len(set(zip(assign_folds(prepare_data(training, make_split(2), params)), groups, strict=True))) > 10


def test_folds_want_as_many_groups_of_every_class():
    groups = [f"group {number % 4}" if number % 3 == 1 else str(number) for number in range(60)]
    data = prepare_data(make_split(1), make_split(2), make_train_params(select_by="folds", n_folds=5), groups)
    message = "wanted at least 5 groups of every class (train.n_folds), got 4 of class class 1; lower train.n_folds"
    with pytest.raises(TrainingError, match=re.escape(message)):
        assign_folds(data)


def test_copies_of_an_image_are_in_one_fold():
    """Noise in pairs of copies: who had seen the other copy would be right more often than by chance."""
    noise, validation = make_split(1, 100, 2, 50), make_split(2, 60, 2, 50)
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(100, 50)).astype("f4"), 2, axis=0)
    labels = np.repeat(rng.permutation(noise.labels), 2).tolist()
    training = SplitFeatures([features], np.repeat(noise.sha256, 2).tolist(), labels)
    params = make_train_params(options={"C": 1.0}, select_by="folds")
    (trial,) = try_head(*params.grids[0], prepare_data(training, validation, params))
    assert trial.accuracy < 0.65


def test_views_are_in_the_fold_of_their_image_which_alone_is_judged():
    """The folds are those without views; a head that had seen an image's view would know the image."""
    noise, validation = make_split(1, 100, 2, 50), make_split(2, 60, 2, 50)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(100, 50)).astype("f4")
    features = np.repeat(images, 3, axis=0)
    features[1::3] += 0.01
    features[2::3] = 0  # judged as well, they would be right half of the time
    labels = rng.permutation(noise.labels)
    training = SplitFeatures([features], np.repeat(noise.sha256, 3).tolist(), np.repeat(labels, 3).tolist(), 2)
    params = make_train_params(options={"C": 1.0}, select_by="folds")
    data = prepare_data(training, validation, params)
    plain = prepare_data(SplitFeatures([images], noise.sha256, labels.tolist()), validation, params)
    assert np.array_equal(assign_folds(data), np.repeat(assign_folds(plain), 3))
    (trial,) = try_head(*params.grids[0], data)
    assert len(trial.right) == 100
    assert trial.accuracy < 0.65
    right = np.empty(100, bool)
    for fold in range(params.n_folds):
        rows = assign_folds(data) == fold
        (head,) = fit_heads(
            "logistic_regression", [trial.options], data, np.where(rows, 0, data.compute_sample_weights())
        )
        images_of_fold = assign_folds(plain) == fold
        right[images_of_fold] = judge_scores(
            head, head.compute_scores(images[images_of_fold]), plain.labels[images_of_fold]
        )[0]
    assert np.array_equal(trial.right, right)
