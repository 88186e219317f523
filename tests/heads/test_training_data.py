import numpy as np
import pytest

from conftest import make_split, make_train_params
from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.kinds import KINDS, fit_heads, prepare_data
from relearn.heads.scoring import judge_scores
from relearn.heads.training_data import LOWEST_SCALE, check_labels, find_standard


@pytest.mark.parametrize("class_weight", ["balanced", {"class 0": 5.0, "class 1": 0.2, "class 2": 1.0}])
@pytest.mark.parametrize("head", ["logistic_regression", "linear_svm", "random_forest"])
def test_weights_of_classes(class_weight, head):
    from sklearn.utils.class_weight import compute_sample_weight

    training, validation = make_split(1, 91), make_split(2)
    params = make_train_params(head, class_weight=class_weight)
    data = prepare_data(training, validation, params)
    np.testing.assert_allclose(data.compute_sample_weights(), compute_sample_weight(class_weight, training.labels))
    options = KINDS[head].options(**params.grids[0][1].list_candidates()[0])
    plain, weighted = (fit_heads(head, [options], data, w)[0] for w in (np.ones(91), data.compute_sample_weights()))
    assert not np.array_equal(plain.compute_scores(validation.features), weighted.compute_scores(validation.features))


def repeat_rows(split, n_views):
    """Add views that are their image itself."""
    rows = np.repeat(np.arange(len(split.labels)), 1 + n_views)
    return SplitFeatures([split.features[rows]], *([texts[row] for row in rows] for texts in split[1:3]), n_views)


@pytest.mark.parametrize(
    ("head", "class_weight"),
    [
        ("nearest_centroid", None),
        ("logistic_regression", None),
        ("logistic_regression", "balanced"),
        ("linear_svm", "balanced"),
        ("decision_tree", None),
    ],
)
def test_views_that_are_their_image_change_no_head(head, class_weight):
    """An image counts once with any number of views, so C and the least size of a leaf mean the same."""
    training, validation = make_split(1, 91), make_split(2)
    params = make_train_params(head, {} if "tree" in head else None, class_weight=class_weight)
    options = KINDS[head].options(**params.grids[0][1].list_candidates()[0])
    scores = []
    for split in (training, repeat_rows(training, 4)):
        data = prepare_data(split, validation, params)
        assert (data.n_images, len(data.labels)) == (91, 91 * (1 + split.n_views))
        weights = data.compute_sample_weights()
        assert weights.sum() == pytest.approx(91)
        scores.append(fit_heads(head, [options], data, weights)[0].compute_scores(validation.features))
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-3)


def test_weights_that_name_no_class_are_reported():
    data = prepare_data(make_split(1), make_split(2), make_train_params(class_weight={"class 0": 1.0, "cat": 2.0}))
    message = r"train\.class_weight: wanted a weight for each of class 0, class 1, class 2, got those of class 0, cat"
    with pytest.raises(TrainingError, match=message):
        data.compute_sample_weights()
    with pytest.raises(ValueError, match="class_weight: null with nearest_centroid, which takes no weights"):
        make_train_params("nearest_centroid", class_weight="balanced")


def test_nan_in_a_shard_is_reported():
    training = make_split(1)
    training.blocks[0][7, 3] = np.nan
    with pytest.raises(
        TrainingError, match=f"wanted finite features, got NaN or infinity for image {training.sha256[7]}"
    ):
        prepare_data(training, make_split(2), make_train_params())


def test_nan_in_validation_is_reported():
    validation = make_split(2)
    validation.blocks[0][7, 3] = np.inf
    with pytest.raises(
        TrainingError, match=f"validation: wanted finite features, got NaN or infinity for image {validation.sha256[7]}"
    ):
        prepare_data(make_split(1), validation, make_train_params())


def test_features_that_are_constant_are_reported():
    training = make_split(1)
    training.blocks[0][:] = 3
    with pytest.raises(
        TrainingError, match=r"wanted features that differ between images, got the same 8 for all 60; check"
    ):
        prepare_data(training, make_split(2), make_train_params())


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (["a", "a"], ["a"], r"training: wanted at least 2 classes, got \['a'\]"),
        ([], [], r"training: wanted at least 2 classes, got \[\]"),
        (["a", "b"], [], "validation: wanted images to choose a head by, got none"),
        (["a", "b"], ["c"], r"validation: wanted the classes of training, got also \['c'\]"),
    ],
)
def test_labels_that_allow_no_training(training, validation, message):
    with pytest.raises(TrainingError, match=message):
        check_labels(training, validation)


def test_the_standard_is_that_of_scikit_learn_with_a_lowest_scale():
    from sklearn.preprocessing import StandardScaler

    rows = np.random.default_rng(0).normal(3, [1, 2, 0.5, 0.01, 0], (40, 5)).astype(np.float32)
    reference = StandardScaler().fit(rows.astype(np.float64))
    standard = find_standard([rows[:7], rows[7:]])
    np.testing.assert_allclose(standard.mean, reference.mean_)
    np.testing.assert_allclose(standard.variance, reference.var_, atol=1e-15)
    lowest = LOWEST_SCALE * np.sqrt(reference.var_).mean()
    assert reference.scale_[2] > lowest > reference.scale_[3]
    np.testing.assert_allclose(standard.scale, [*reference.scale_[:3], lowest, lowest])


def test_the_standard_of_features_that_never_vary():
    standard = find_standard([np.full((3, 2), 7, np.float32)])
    assert (standard.scale == 1).all()
    assert (standard.variance == 0).all()


@pytest.mark.parametrize(
    "head", ["nearest_centroid", "logistic_regression", "linear_svm", pytest.param("dense", marks=pytest.mark.slow)]
)
def test_features_that_hardly_occur_in_training_decide_no_label(head):
    """Each is 0 for all training images but one, as many of a deep layer are for few images."""
    n_images, n_rare = 30, 8
    plain = make_split(1, n_images), make_split(2, 600)
    rare = np.zeros((n_images, n_rare), np.float32)
    rare[range(n_rare), range(n_rare)] = 1e-3
    seldom = np.random.default_rng(3).binomial(1, 0.1, (600, n_rare)).astype(np.float32)
    with_rare = [
        SplitFeatures([np.hstack([split.features, more])], *split[1:])
        for split, more in zip(plain, (rare, seldom), strict=True)
    ]
    params = make_train_params(head)
    options = KINDS[head].options(**params.grids[0][1].list_candidates()[0])
    accuracy = []
    for training, validation in (plain, with_rare):
        data = prepare_data(training, validation, params)
        fitted = fit_heads(head, [options], data, data.compute_sample_weights())[0]
        right, _ = judge_scores(fitted, fitted.compute_scores(validation.features), data.validation_labels)
        accuracy.append(right.mean())
    assert accuracy[1] >= accuracy[0] - 0.01
