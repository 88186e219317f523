import numpy as np
import pytest
from scipy.stats import binom

from relearn.evaluation.paired import compare_paired, compute_paired_interval


def test_mcnemar_is_a_binomial_test_of_the_images_that_differ():
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:3], second[3:15] = True, True
    first[50:], second[50:] = True, True
    found = compare_paired(first, second)
    assert (found.n_images, found.n_only_first, found.n_only_second) == (100, 3, 12)
    assert found.p_value == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert found.verdict == "better"
    assert compare_paired(second, first).verdict == "worse"
    assert compare_paired(first, first) == (100, 0, 0, 1.0)
    assert compare_paired(first, first).verdict == "no clear difference"


def test_five_that_differ_one_way_are_no_clear_difference_and_six_are():
    right = np.ones(50, bool)
    for n_wrong, verdict in ((5, "no clear difference"), (6, "worse")):
        assert compare_paired(right, np.arange(50) >= n_wrong).verdict == verdict


def test_interval_is_the_published_one():
    """Fagerland, Lydersen, Laake 2014, "Recommended tests and confidence intervals for paired binomial proportions"."""
    low, high = compute_paired_interval(21, 7, 1, 0.95)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("n_images", [1, 10, 300, 100_000])
def test_interval_where_no_two_answers_differ(n_images):
    low, high = compute_paired_interval(n_images, 0, 0, 0.95)
    z = 1.959964
    assert (-low, high) == pytest.approx([z**2 / (n_images + z**2)] * 2, rel=1e-5)


@pytest.mark.parametrize(("n_only_first", "n_only_second"), [(0, 5), (5, 0), (3, 4), (10, 0), (0, 10), (5, 5)])
def test_interval_is_that_of_the_other_order_turned_around(n_only_first, n_only_second):
    low, high = compute_paired_interval(10, n_only_first, n_only_second, 0.9)
    assert -1 <= low <= (n_only_second - n_only_first) / 10 <= high <= 1
    assert compute_paired_interval(10, n_only_second, n_only_first, 0.9) == pytest.approx((-high, -low), abs=1e-9)


def test_interval_holds_its_level():
    """Of all outcomes of 60 images of which 10 % differ, evenly, those whose interval misses 0 have 5 % at most."""
    missed = 0.0
    for n_differing in range(61):
        for n_second in range(n_differing + 1):
            low, high = compute_paired_interval(60, n_differing - n_second, n_second, 0.95)
            if not low <= 0 <= high:
                missed += binom.pmf(n_differing, 60, 0.1) * binom.pmf(n_second, n_differing, 0.5)
    assert 0.01 < missed < 0.06
