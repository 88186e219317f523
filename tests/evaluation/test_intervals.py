import numpy as np
import pytest

from relearn.evaluation.intervals import (
    compute_difference_interval,
    compute_recall_margin,
    compute_wilson_interval,
    draw_groups,
    draw_resamples,
    find_percentiles,
)


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [
        ((48, 80), (56, 70), (0.0524, 0.3339)),
        ((3, 10), (9, 10), (0.1705, 0.8090)),
        ((0, 29), (5, 56), (-0.0381, 0.1926)),
    ],
)
def test_difference_is_the_published_one(first, second, published):
    """Newcombe 1998, table II: 56/70 - 48/80, 9/10 - 3/10, 5/56 - 0/29 by method 10."""
    found = compute_difference_interval(first, second, 0.95)
    assert found == pytest.approx(published, abs=5e-5)


def test_difference_is_that_of_the_other_order_turned_around():
    low, high = compute_difference_interval((3, 40), (9, 25), 0.9)
    assert compute_difference_interval((9, 25), (3, 40), 0.9) == pytest.approx((-high, -low))
    assert low < 9 / 25 - 3 / 40 < high


def test_wilson_is_wider_for_more_confidence():
    assert compute_wilson_interval(98, 100) == pytest.approx((0.93, 0.9945), abs=1e-3)
    low, high = compute_wilson_interval(98, 100, 0.99)
    assert low < 0.93
    assert high > 0.9945


@pytest.mark.parametrize("chunk_numbers", [1, 100, 10**6])
def test_resamples_are_those_of_choice_class_by_class(chunk_numbers, monkeypatch):
    """One call draws them all, and numpy must take the same numbers of its stream for that."""
    monkeypatch.setattr("relearn.evaluation.intervals.CHUNK_NUMBERS", chunk_numbers)
    truth = np.random.default_rng(0).choice([0, 1, 2, 5], 40, p=[0.5, 0.3, 0.15, 0.05])
    truth[:1] = 9  # the only image of its class
    rng = np.random.default_rng(7)
    strata = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    wanted = [np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata]) for _ in range(30)]
    parts = list(draw_resamples(truth, 30, 7))
    assert np.array_equal(np.concatenate(parts), wanted)
    assert max(map(len, parts)) == max(1, min(30, chunk_numbers // 40))


def test_groups_are_drawn_whole_within_each_class(monkeypatch):
    monkeypatch.setattr("relearn.evaluation.intervals.CHUNK_NUMBERS", 500)
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 100), rng.integers(0, 12, 100)
    drawn = np.concatenate(list(draw_groups(labels, groups, 50, 7)))
    assert drawn.shape == (50, 100)
    assert (np.sort(labels[drawn]) == np.sort(labels)).all()
    for row in drawn:
        n_copies = np.bincount(row, minlength=100)
        for label in range(3):
            members = [np.flatnonzero((labels == label) & (groups == group)) for group in np.unique(groups)]
            cut = [images for images in members if len(set(n_copies[images])) > 1]
            assert len(cut) <= 1  # the last one
    assert np.array_equal(drawn, np.concatenate(list(draw_groups(labels, groups, 50, 7))))
    shares = np.bincount(drawn.ravel(), minlength=100) / 50
    assert shares.min() > 0.5
    assert shares.max() < 1.6


def test_groups_of_one_image_are_images():
    labels = np.array([0, 0, 1, 0, 1])
    drawn = np.concatenate(list(draw_groups(labels, np.arange(5), 300, 0)))
    assert (np.sort(labels[drawn]) == np.sort(labels)).all()
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / 300, 1, atol=0.15)


def test_percentiles_hold_95_percent():
    low, high = find_percentiles(np.column_stack([np.arange(1001), np.arange(1001) * 2]))
    np.testing.assert_allclose(low, [25, 50])
    np.testing.assert_allclose(high, [975, 1950])


def test_recall_of_few_images_is_known_to_within_many_points():
    assert [round(compute_recall_margin(n_images)) for n_images in (1, 2, 20, 96, 1000)] == [40, 41, 20, 10, 3]
