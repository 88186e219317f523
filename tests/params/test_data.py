from pathlib import Path
from typing import get_args

import pytest

from conftest import read_params_error
from relearn.images.formats import FORMATS
from relearn.params.data import Format
from relearn.params.pipeline import read_params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restructure.layout": "food5k"}, "restructure: wanted labels for layout food5k"),
        ({"restructure.layout": "csv"}, "restructure: wanted labels_csv for layout csv"),
        ({"restructure.fractions.evaluation": 0.8}, "restructure.fractions: wanted validation + evaluation below 1"),
        ({"restructure.splits.validation": "training"}, "restructure.splits: wanted three different names"),
        ({"validate.modes.severity": "fatal"}, "validate.modes.severity: wanted one of 'error', 'warn' or 'off', got"),
        ({"validate.modes.allowed": ["HSV"]}, "validate.modes.allowed.0: wanted one of '1', 'L', 'LA'"),
        ({"validate.width_px.min": 30_000}, "validate.width_px: wanted max of at least min, which is 30000, got 20000"),
        ({"validate.min_images": 5}, "validate.min_images: wanted a block with the keys severity, min, got 5"),
        ({"validate.contrast.max": 3}, "validate.contrast.max: unknown key; known here are severity, min"),
        ({"restructure.labels": {True: "a"}}, "wanted a valid string, got True"),
        ({"restructure.labels": {"a": 0}}, "restructure.labels.a: wanted a valid string, got 0"),
    ],
)
def test_values_that_cannot_be(workspace, set_params, changes, message):
    set_params(changes)
    assert message in read_params_error()


def test_labels_may_be_numbers(workspace, set_params):
    set_params({"restructure.labels": {0: "non_food", "1": "food"}})
    assert read_params(Path("params.yaml")).restructure.labels == {"0": "non_food", "1": "food"}


def test_severity_off_is_a_word_to_yaml_of_all_versions(workspace, set_params):
    for off in ("off", False):
        set_params({"validate.modes.severity": off})
        assert read_params(Path("params.yaml")).validate_.modes.severity == "off"


def test_formats_are_those_that_are_read():
    assert get_args(Format) == FORMATS
