import pytest

from heads.samples import make_right, make_trial
from relearn.heads.selection import choose_trial


def test_without_a_difference_the_choice_is_accuracy_then_loss_then_the_simplest():
    trials = [
        make_trial("random_forest", make_right(85), 0.1, n_estimators=10),
        make_trial("random_forest", make_right(90), 0.5, n_estimators=20),
        make_trial("random_forest", make_right(90), 0.4, n_estimators=40),
        make_trial("random_forest", make_right(90), 0.4, n_estimators=30),
    ]
    for given in (trials, trials[::-1]):
        assert choose_trial(given, False)[0].options.n_estimators == 30


def test_of_heads_fitted_by_log_loss_the_lowest_is_chosen_where_accuracy_is_no_difference():
    """Here 3 of 100 images more are no clear difference, 10 are."""
    trials = [
        make_trial("logistic_regression", make_right(80), 0.2, C=0.001),
        make_trial("logistic_regression", make_right(90), 1.0, C=0.01),
        make_trial("logistic_regression", make_right(87), 0.5, C=0.1),
        make_trial("logistic_regression", make_right(87), 0.6, C=1.0),
    ]
    chosen, verdicts = choose_trial(trials, False)
    assert chosen.options.C == 0.1
    assert verdicts == [
        "worse",
        "the most accurate",
        "chosen: lower log loss than logistic_regression, no clear difference",
        "no clear difference",
    ]
    chosen, verdicts = choose_trial(trials, True)
    assert (chosen.options.C, verdicts[1]) == (0.01, "chosen: the best")


def test_between_two_with_the_same_answers_the_log_loss_decides_who_leads():
    first, second = make_right(90), make_right(100) & ~make_right(10)
    trials = [
        make_trial("decision_tree", first, 0.5, max_depth=1),
        make_trial("decision_tree", second, 0.4, max_depth=2),
    ]
    assert choose_trial(trials, False)[0].options.max_depth == 2


def test_without_probabilities_the_most_accurate_is_chosen():
    trials = [make_trial("linear_svm", make_right(right), None, C=C) for right, C in ((88, 0.1), (90, 1.0), (89, 10.0))]
    assert choose_trial(trials, False)[0].options.C == 1.0


def test_what_is_clearly_worse_than_the_most_accurate_is_not_chosen():
    """Though it is no worse than the head of lower log loss that is the best of its kind."""
    trials = [
        make_trial("logistic_regression", make_right(90), 0.5, C=1.0),
        make_trial("logistic_regression", make_right(85), 0.3, C=0.1),
        make_trial("nearest_centroid", make_right(80), 0.3, shrink_threshold=None),
    ]
    chosen, verdicts = choose_trial(trials, False)
    assert (chosen.options.C, verdicts[2]) == (0.1, "worse")


def test_a_lower_log_loss_of_another_kind_decides_nothing():
    trials = [
        make_trial("dense", make_right(88), 0.1, units=8),
        make_trial("logistic_regression", make_right(90), 0.5, C=1.0),
    ]
    assert choose_trial(trials, False)[0].head == "logistic_regression"


def test_one_standard_error_takes_the_simplest_that_is_near():
    trials = [
        make_trial("linear_svm", make_right(85), C=0.01, standard_error=0.03),
        make_trial("linear_svm", make_right(88), C=0.1, standard_error=0.03),
        make_trial("linear_svm", make_right(90), C=1, standard_error=0.03),
    ]
    assert choose_trial(trials, False)[0].options.C == 1
    chosen, verdicts = choose_trial(trials, True)
    assert chosen.options.C == 0.1
    assert verdicts == [
        "no clear difference",
        "chosen: simpler than linear_svm, within one standard error",
        "the most accurate",
    ]


def test_between_heads_a_tie_goes_to_the_simpler():
    worse, near, best = make_right(60), make_right(88), make_right(90)
    trials = [
        make_trial("random_forest", best, n_estimators=10),
        make_trial("logistic_regression", near, C=1.0),
        make_trial("nearest_centroid", worse, shrink_threshold=None),
    ]
    chosen, verdicts = choose_trial(trials, False)
    assert chosen.head == "logistic_regression"
    assert verdicts == ["the most accurate", "chosen: simpler than random_forest, no clear difference", "worse"]
    chosen, verdicts = choose_trial([trials[0], trials[2]], False)
    assert (chosen.head, verdicts) == ("random_forest", ["chosen: the best", "worse"])


@pytest.mark.parametrize(
    ("head", "simpler", "other"),
    [
        ("decision_tree", {"max_depth": 2}, {"max_depth": None}),
        ("random_forest", {"min_samples_leaf": 5}, {"min_samples_leaf": 1}),
        ("nearest_centroid", {"shrink_threshold": 1.0}, {"shrink_threshold": None}),
        ("logistic_regression", {"C": 0.1}, {"C": 1}),
        ("dense", {"units": 8, "dropout": 0.1}, {"units": 16, "dropout": 0.2}),
        ("dense", {"dropout": 0.2}, {"dropout": 0.1}),
    ],
)
def test_what_is_simpler(head, simpler, other):
    assert make_trial(head, [True], **simpler).complexity < make_trial(head, [True], **other).complexity


def test_simpler_kind_is_simpler_whatever_its_options():
    assert make_trial("linear_svm", [True], C=1e9).complexity < make_trial("decision_tree", [True]).complexity


def test_not_converged_is_in_the_verdict():
    trial = make_trial("linear_svm", make_right(90))._replace(converged=False)
    assert choose_trial([trial], False)[1] == ["chosen: the best, not converged"]
