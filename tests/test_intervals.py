import pytest

from relearn.intervals import compute_difference_interval, compute_wilson_interval


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
