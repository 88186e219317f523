import numpy as np
import pytest
from scipy.stats import binom

from relearn.evaluation.paired import compare_paired


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
