import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from conftest import change_params, execute, read_params_error, write_images
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
        ({"restructure.group_by": "folder"}, "restructure: wanted group_depth for group_by folder"),
        (
            {"restructure.group_by": "column", "restructure.group_column": "x"},
            "restructure: wanted layout csv for group_by column, got class_folders",
        ),
        ({"restructure.group_by": "faces"}, "restructure.group_by: wanted one of 'none', 'folder', 'column'"),
        ({"restructure.group_pattern": "(?P<group>"}, "restructure: wanted a regular expression as group_pattern: "),
        ({"restructure.group_pattern": "(x)"}, "restructure: wanted group_pattern with a part (?P<group>...), such as"),
        (
            {"restructure.group_pattern": "x" * 1001},
            "restructure.group_pattern: wanted String should have at most 1000",
        ),
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


@pytest.mark.slow
def test_labels_are_set_by_the_text_that_the_error_suggests(clone):
    """In params.yaml and on the command line of DVC, whose grammar takes neither quotes nor a map without `+`."""
    change_params({"restructure.layout": "food5k"}, clone / "params.yaml")
    (suggested,) = re.findall(r"; or (dvc exp run -S '.+')$", read_params_error(clone / "params.yaml"))
    names = [
        f"{split}/{label}_{n}.png" for split in ("training", "validation", "evaluation") for label, n in ("01", "12")
    ]
    write_images(clone / "images", names)
    change_params({"restructure.layout": "class_folders", "restructure.source": "images"}, clone / "params.yaml")
    answer = execute(clone, *shlex.split(suggested), "-S", "restructure.layout=food5k", "restructure")
    assert "6 images kept (training 2, validation 2, evaluation 2) of 2 classes" in answer.stderr, answer.stderr
    assert read_params(clone / "params.yaml").restructure.labels == {"0": "non_food", "1": "food"}


def test_labels_may_be_numbers(workspace, set_params):
    set_params({"restructure.labels": {0: "non_food", "1": "food"}})
    assert read_params(Path("params.yaml")).restructure.labels == {"0": "non_food", "1": "food"}


def test_severity_off_is_a_word_to_yaml_of_all_versions(workspace, set_params):
    for off in ("off", False):
        set_params({"validate.modes.severity": off})
        assert read_params(Path("params.yaml")).validate_.modes.severity == "off"


def test_formats_are_those_that_are_read():
    assert get_args(Format) == FORMATS
