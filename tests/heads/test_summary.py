import json

import numpy as np
import pytest

from conftest import make_split, make_train_params
from heads.samples import make_right, make_trial
from relearn.evaluation.intervals import compute_wilson_interval
from relearn.heads.fitted import LayeredHead
from relearn.heads.kinds import prepare_data
from relearn.heads.summary import SEARCH_HEADER, summarize_training, tabulate_scores, tabulate_search


def test_search_has_one_row_per_trial():
    trials = [
        make_trial("logistic_regression", make_right(90), 0.25, C=0.1),
        make_trial("nearest_centroid", make_right(60), None)._replace(n_iter=None, converged=False),
    ]
    rows = [dict(zip(SEARCH_HEADER, row, strict=True)) for row in tabulate_search(trials, ["chosen", "worse"])]
    assert [json.loads(row["options"]) for row in rows] == [trial.options.to_dict() for trial in trials]
    assert list(json.loads(rows[0]["options"])) == ["C", "tol", "max_iter"]
    assert [(row["accuracy"], row["log_loss"]) for row in rows] == [("0.900000", "0.250000"), ("0.600000", "")]
    assert [(row["n_iter"], row["converged"]) for row in rows] == [(1, "true"), ("", "false")]
    assert [row["p_value"] for row in rows] == ["1.000000", "0.000000"]
    low, high = compute_wilson_interval(60, 100)
    assert (rows[1]["accuracy_ci95_low"], rows[1]["accuracy_ci95_high"]) == (f"{low:.6f}", f"{high:.6f}")


def test_scores_are_those_of_the_chosen_kind_if_it_has_a_c():
    trials = [make_trial("linear_svm", make_right(90), C=C) for C in (0.001, 10)]
    trials += [make_trial("logistic_regression", make_right(80), C=1), make_trial("decision_tree", make_right(70))]
    assert [row[:3] for row in tabulate_scores(trials, "linear_svm")] == [
        ("0.001", "-3.0000", "0.900000"),
        ("10", "1.0000", "0.900000"),
    ]
    assert tabulate_scores(trials, "decision_tree") == []


def test_summary_scores_the_head_on_validation():
    data = prepare_data(make_split(1), make_split(2), make_train_params())
    head = LayeredHead(data.mean, data.scale, [], has_probabilities=True, converged=False)
    chosen = make_trial("logistic_regression", make_right(9, 10), C=0.5)._replace(fitted=head)
    scores = np.zeros((60, 3))  # the first class for all
    metrics = summarize_training(chosen, head, [chosen, chosen], scores, data)
    assert metrics["validation_accuracy_score"] == pytest.approx(1 / 3, abs=1e-6)
    assert metrics["validation_baseline_score"] == pytest.approx(1 / 3, abs=1e-6)
    assert metrics["validation_log_loss"] == pytest.approx(np.log(3), abs=1e-6)
    assert (metrics["C"], metrics["converged"], metrics["n_trials_converged"]) == (0.5, False, 2)
    assert "folds_accuracy_score" not in metrics
    in_folds = summarize_training(chosen._replace(fitted=None), head, [chosen], scores, data)
    assert in_folds["folds_accuracy_score"] == 0.9
    assert in_folds["validation_accuracy_score"] == metrics["validation_accuracy_score"]
