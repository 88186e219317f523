import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from relearn.heads.folds import deal_groups


def count(labels, fold_of, n_folds):
    """Return how many images of each class each fold has, (folds, classes)."""
    return np.array([np.bincount(labels[fold_of == fold], minlength=labels.max() + 1) for fold in range(n_folds)])


@pytest.mark.parametrize(("n_images", "n_classes", "n_folds"), [(3, 1, 3), (97, 4, 5), (1000, 30, 7)])
def test_single_images_are_spread_evenly(n_images, n_classes, n_folds):
    labels = np.random.default_rng(0).integers(0, n_classes, n_images)
    groups = [str(number) for number in range(n_images)]
    fold_of = deal_groups(labels, groups, n_folds, 0)
    counts = count(labels, fold_of, n_folds)
    assert np.ptp(counts, axis=0).max() <= 1  # of each class
    assert np.ptp(counts.sum(axis=1)) <= 3
    assert np.array_equal(deal_groups(labels, groups, n_folds, 0), fold_of)
    assert n_images < 9 or not np.array_equal(deal_groups(labels, groups, n_folds, 1), fold_of)


def test_groups_are_never_cut_and_spread_as_evenly_as_by_scikit_learn():
    """Groups of one to seventy images, of several classes each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 4000)
    groups = np.repeat(np.arange(4000), rng.geometric(0.05, 4000))[:4000].astype(str)
    fold_of = deal_groups(labels, groups, 5, 0)
    assert len(set(zip(groups, fold_of, strict=True))) == len(set(groups))
    reference = np.empty(4000, int)
    for fold, (_, held_out) in enumerate(StratifiedGroupKFold(5).split(labels, labels, groups)):
        reference[held_out] = fold
    spread, other = (np.ptp(count(labels, folds, 5), axis=0).max() for folds in (fold_of, reference))
    assert spread <= 1.5 * other
