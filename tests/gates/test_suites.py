import json
from pathlib import Path

import pandas as pd
import pytest

from gate_data import ROWS, change, make_data, make_params
from relearn.errors import IntegrityError, ParamsError, ValidationFailed
from relearn.gates.checks import CHECKS, check_data
from relearn.gates.expectations import describe_failure, start_quietly
from relearn.gates.suites import COLUMNS, read_own_checks, write_suites
from relearn.gates.tables import make_tables

pytestmark = pytest.mark.slow


def write_own(*expectations):
    """Write a suite with Great Expectations, as a notebook does, and return the rules that name it."""
    suite = start_quietly().ExpectationSuite(name="mine", expectations=list(expectations))
    Path("mine.json").write_text(json.dumps(suite.to_json_dict()))
    return make_params().model_copy(update={"suite": "mine.json"})


def find_own(data, params):
    return [finding for finding in check_data(data, params) if finding.name.startswith("own")]


def test_own_checks_are_run_with_the_built_in_ones(workspace):
    gxe = start_quietly().expectations
    params = write_own(
        gxe.ExpectColumnValuesToBeBetween(column="width_px", min_value=50, max_value=2000),
        gxe.ExpectColumnValuesToMatchRegex(column="path", regex=r"\.png$", severity="warning"),
        gxe.ExpectColumnMeanToBeBetween(column="contrast", min_value=60, description="photos with some contrast"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=["cat", "dog"], severity="info"),
    )
    findings = find_own(make_data(change(7, width_px=40)), params)
    assert [(finding.severity, finding.passed) for finding in findings] == [
        ("error", False),
        ("warn", True),
        ("error", False),
        ("warn", True),
    ]
    assert describe_failure(findings[0]) == (
        "own_1: wanted expect_column_values_to_be_between(column='width_px', min_value=50.0, max_value=2000.0), "
        f"got 1 of 18 images that fail: {ROWS[7].path}"
    )
    assert findings[0].images == [[ROWS[7].path]]
    assert describe_failure(findings[2]) == "own_3: wanted photos with some contrast, got 50.0"


def test_the_committed_suite_is_empty_and_every_column_is_there(root, monkeypatch):
    monkeypatch.chdir(root)
    assert read_own_checks(Path(make_params().suite)) == ({}, {})
    assert set(COLUMNS) <= set(make_tables(make_data(), make_params())["images"].frame.columns)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", IntegrityError, r"^mine\.json: wanted JSON"),
        ("[]", IntegrityError, r"^mine\.json: "),
        ('{"name": "x"}', IntegrityError, r"^mine\.json: .*expectations"),
        ('{"name": "x", "expectations": [{"type": "expect_nothing", "kwargs": {}}]}', ParamsError, "expect_nothing"),
        ('{"name": "x", "expectations": [{"kwargs": {}}]}', ParamsError, "a suite of Great Expectations, got"),
        ('{"name": "x", "expectations": 3}', ParamsError, "a suite of Great Expectations, got"),
        (
            '{"name": "x", "expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"colum": "a"}}]}',
            ParamsError,
            "column; field required",
        ),
    ],
)
def test_what_is_no_suite_is_told_in_one_line(workspace, content, error, message):
    Path("mine.json").write_text(content)
    with pytest.raises(error, match=message) as caught:
        read_own_checks(Path("mine.json"))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_told(workspace):
    gxe = start_quietly().expectations
    params = write_own(gxe.ExpectColumnValuesToBeUnique(column="width"))
    with pytest.raises(ValidationFailed, match=r'own_1: could not be checked: .*"width".* does not exist'):
        check_data(make_data(), params)


def test_exported_suites_find_what_the_gate_finds(workspace):
    """Read and run as Great Expectations' own documentation does it: by a checkpoint, from the files."""
    gx = start_quietly()
    data = make_data(change(7, width_px=7), n_files=20)
    params = make_params()
    paths = write_suites(Path("suites"), make_tables(data, params), CHECKS, params.rules)
    assert {path.stem for path in paths} >= {"images", "files", "class_counts", "splits", "classes"}
    context = gx.get_context(mode="ephemeral")
    source = context.data_sources.add_pandas("files")
    found = {}
    for path in paths:
        suite = context.suites.add(gx.ExpectationSuite(**json.loads(path.read_text())))
        batch = source.add_csv_asset(path.stem, path.with_suffix(".csv")).add_batch_definition("whole")
        definition = gx.ValidationDefinition(name=path.stem, data=batch, suite=suite)
        context.validation_definitions.add(definition)
        outcome = context.checkpoints.add(gx.Checkpoint(name=path.stem, validation_definitions=[definition])).run()
        (run,) = outcome.run_results.values()
        found |= {result.expectation_config.meta["check"]: bool(result.success) for result in run.results}
    expected = {finding.name: finding.passed for finding in check_data(data, params) if finding.severity != "off"}
    assert found == {name: passed for name, passed in expected.items() if name != "columns"}
    assert [name for name, passed in found.items() if not passed] == ["width_px", "aspect_ratio", "counts_add_up"]
    assert len(pd.read_csv("suites/images.csv")) == 18
