import logging
import re
from dataclasses import fields

import pytest

from conftest import ROOT, make_split, make_train_params
from relearn.errors import TrainingError
from relearn.heads import training_data
from relearn.heads.centroid import NearestCentroidOptions, fit_nearest_centroid
from relearn.heads.kinds import KINDS, HeadKind, check_memory, prepare_data
from relearn.heads.search import try_head
from relearn.heads.selection import choose_trial
from relearn.params.heads import HEADS, HeadBlocks


@pytest.mark.parametrize("head", ["logistic_regression", "decision_tree"])
def test_fits_that_take_long_show_how_far_they_are(head, monkeypatch, caplog):
    monkeypatch.setattr("relearn.heads.kinds.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("relearn.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    grid = {"C": [0.01, 1.0]} if head == "logistic_regression" else {"max_depth": [2, 3]}
    params = make_train_params(head, grid)
    with caplog.at_level(logging.INFO, "relearn"):
        try_head(*params.grids[0], prepare_data(make_split(1), make_split(2), params))
    unit = "values of C" if head == "logistic_regression" else "heads"
    assert f"train {head}: 1 of 2 {unit}, " in caplog.text
    if head == "logistic_regression":
        assert re.search(r"train logistic_regression: 0\.\d\d of 2 values of C, ", caplog.text)  # within the first C


@pytest.mark.parametrize(
    ("head", "options", "n_fits"),
    [
        ("logistic_regression", {"C": [0.01, 1.0]}, 2),
        ("logistic_regression", {"C": 1.0}, 1),
        ("nearest_centroid", {}, 0),
        ("linear_svm", {}, None),
    ],
)
@pytest.mark.parametrize("select_by", ["validation", "folds"])
def test_coordinates_are_chosen_for_all_fits(head, options, n_fits, select_by, monkeypatch):
    given = []
    find = training_data.find_coordinates
    monkeypatch.setattr(training_data, "find_coordinates", lambda *a, n_fits: given.append(n_fits) or find(*a))
    params = make_train_params(head, options, select_by=select_by, n_folds=4)
    prepare_data(make_split(1), make_split(2), params).coordinates  # noqa: B018
    assert given == [n_fits and n_fits * (4 if select_by == "folds" else 1)]


def test_every_block_has_a_row_in_the_same_order():
    assert tuple(KINDS) == HEADS


@pytest.mark.parametrize("head", HEADS)
def test_options_are_the_keys_of_the_block(head):
    block = HeadBlocks.model_fields[head].annotation
    assert [field.name for field in fields(KINDS[head].options)] == list(block.model_fields)
    assert KINDS[head].capacity.keys() <= block.model_fields.keys()
    assert KINDS[head].columns or KINDS[head].number_bytes  # what it reads is counted by the one or the other


@pytest.mark.parametrize("head", HEADS)
def test_head_is_named_in_three_places(head):
    """The block of its parameters, the row of the table, and the module that fits it."""
    named = {
        path.relative_to(ROOT / "src" / "relearn").as_posix()
        for path in ROOT.glob("src/relearn/**/*.py")
        if re.search(rf"\b{head}\b(?!\.py| import)", path.read_text())
    }
    places = {"params/heads.py", "heads/kinds.py", f"heads/{KINDS[head].options.__module__.split('.')[-1]}.py"}
    assert {"params/heads.py", "heads/kinds.py"} <= named <= places


def test_new_head_is_a_row_of_the_table(monkeypatch):
    """Whatever goes through the table needs no other mention: fit, progress, order of complexity, memory."""

    def fit(candidates, data, sample_weights, track):
        heads = (fit_nearest_centroid(options, data, sample_weights) for options in candidates)
        return list(track(heads, len(candidates), unit="heads"))

    kind = HeadKind(NearestCentroidOptions, fit, {"shrink_threshold": -1}, number_bytes=10**9)
    monkeypatch.setitem(KINDS, "farthest_centroid", kind)
    params = make_train_params("nearest_centroid", {"shrink_threshold": [None, 0.1]})
    data = prepare_data(make_split(1), make_split(2), params)
    grid = params.nearest_centroid
    trials = [*try_head("farthest_centroid", grid, data), *try_head("nearest_centroid", grid, data)]
    assert [trial.name for trial in trials[:2]] == [f"farthest_centroid shrink_threshold={v}" for v in (None, 0.1)]
    assert choose_trial(trials, False)[0].head == "nearest_centroid"  # as good, and before it in the table
    with pytest.raises(TrainingError, match=r"train\.head farthest_centroid: wanted train\.memory_limit_mb of at"):
        check_memory("farthest_centroid", data)
