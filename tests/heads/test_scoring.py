import numpy as np
import pytest

from relearn.heads.fitted import LayeredHead
from relearn.heads.scoring import compute_scores, judge_scores


def make_head(weights, has_probabilities=True):
    weights = np.array(weights, np.float64)
    return LayeredHead(np.zeros(1), np.ones(1), [(weights, np.zeros(weights.shape[1]))], has_probabilities)


def test_scores_of_rows_are_those_of_all_blocks():
    head = make_head([[1, 2, 3]])
    blocks = [np.arange(4.0)[:, np.newaxis], np.arange(4.0, 5.0)[:, np.newaxis], np.arange(5.0, 8.0)[:, np.newaxis]]
    everything = compute_scores(head, blocks)
    np.testing.assert_array_equal(everything, np.arange(8.0)[:, np.newaxis] * [1, 2, 3])
    rows = np.array([0, 1, 1, 0, 0, 0, 0, 1], bool)  # none of the second block
    np.testing.assert_array_equal(compute_scores(head, blocks, rows), everything[rows])


def test_right_answers_and_losses_of_three_classes():
    right, losses = judge_scores(make_head([[1, 2, 3]]), np.array([[0.0, 1, 2], [0, 1, 2]]), np.array([2, 0]))
    assert right.tolist() == [True, False]
    shares = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert losses == pytest.approx(-np.log(shares[[2, 0]]))


def test_single_score_speaks_for_the_second_class():
    right, losses = judge_scores(make_head([[1]]), np.array([[2.0], [-2], [2]]), np.array([1, 0, 0]))
    assert right.tolist() == [True, True, False]
    assert losses == pytest.approx(np.log1p(np.exp([-2, -2, 2])))


def test_loss_is_finite_and_absent_without_probabilities():
    scores, labels = np.array([[1e6], [-1e6]]), np.array([0, 0])
    assert judge_scores(make_head([[1]]), scores, labels)[1] == pytest.approx([-np.log(np.finfo(float).eps), 0])
    assert judge_scores(make_head([[1]], has_probabilities=False), scores, labels)[1] is None
