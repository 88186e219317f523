import random
from collections import Counter

import pytest

from relearn.dataset.stratification import count_shares, cut_class
from relearn.params.data import Fractions

USUAL = Fractions(validation=0.2, evaluation=0.2)


@pytest.mark.parametrize(
    ("n_images", "training", "validation", "evaluation"),
    [(1, 1, 0, 0), (2, 1, 0, 1), (3, 1, 1, 1), (4, 2, 1, 1), (5, 3, 1, 1), (8, 5, 1, 2), (15, 9, 3, 3), (30, 18, 6, 6)],
)
def test_shares_of_a_class(n_images, training, validation, evaluation):
    counts = count_shares(n_images, USUAL)
    assert counts == {"training": training, "validation": validation, "evaluation": evaluation}


def test_shares_sum_up_are_within_one_and_leave_no_split_empty():
    shuffler = random.Random(0)
    for n_images in range(300):
        cuts = sorted(shuffler.choice([0.0, shuffler.random()]) for _ in range(2))
        fractions = Fractions(evaluation=cuts[0], validation=(1 - cuts[0]) * shuffler.random() * 0.99)
        counts = count_shares(n_images, fractions)
        wanted = {"evaluation": fractions.evaluation * n_images, "validation": fractions.validation * n_images}
        wanted["training"] = n_images - sum(wanted.values())
        assert sum(counts.values()) == n_images
        if min(wanted.values()) >= 1:
            assert all(abs(counts[split] - wanted[split]) < 1 for split in counts)
        if n_images >= 3:
            assert all(counts[split] > 0 for split in counts if wanted[split] > 0)


def test_splits_with_no_fraction_get_nothing():
    assert count_shares(2, Fractions(validation=0.0, evaluation=0.0)) == {
        "evaluation": 0,
        "validation": 0,
        "training": 2,
    }


def test_new_ones_go_where_most_of_a_share_is_missing():
    keys = [f"{number:016x}" for number in range(10)]
    known = Counter(training=30)
    splits = cut_class(keys, USUAL, known)
    assert list(splits.values()) == ["evaluation"] * 5 + ["validation"] * 5
    assert cut_class(list(reversed(keys)), USUAL, known) == splits
    assert set(cut_class(keys, USUAL, Counter(evaluation=30, validation=10)).values()) == {"training"}
