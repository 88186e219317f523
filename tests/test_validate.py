from pathlib import Path

import pandas as pd
import pytest

from relearn import paths
from relearn.errors import IntegrityError, ValidationFailed
from relearn.files import hash_file, read_json
from relearn.manifest import SPLITS, ManifestRow, write_manifest
from relearn.params import ValidateParams
from relearn.validate import N_ROWS_NAMED, Finding, check_manifest, count_images, describe_failure, run

PARAMS = ValidateParams(min_images=2, min_width_px=10, min_height_px=10, modes=["RGB", "L"], duplicates="fail")


def make_rows():
    return [
        ManifestRow(f"{split}/{label}/{n}.png", split, label, f"{i:03}{j}{n}" + "0" * 59, 9, 10, 10, "RGB", "PNG")
        for i, split in enumerate(SPLITS)
        for j, label in enumerate(("cat", "dog"))
        for n in range(3)
    ]


def make_table(rows=None):
    return pd.DataFrame(rows or make_rows(), columns=ManifestRow._fields)


def change(row, column, value):
    table = make_table().astype({"width_px": object, "split": object})
    table.loc[row, column] = value
    return table


def test_counts_name_every_class_in_every_split():
    table = make_table([row for row in make_rows() if (row.split, row.label) != ("validation", "dog")])
    counts = count_images(table)
    assert list(counts["n_images"]) == [3, 3, 3, 0, 3, 3]
    assert "validation/dog (0)" in set(counts["class_in_split"])


def test_failure_is_one_line():
    finding = Finding("modes", "a colour mode of L", "5 of 9 rows without", False, 5, ["a", "b", "c", "d", "e"])
    assert describe_failure(finding) == "modes: wanted a colour mode of L, got 5 of 9 rows without: a, b, c and 2 more"
    assert describe_failure(finding._replace(n_failed=1, rows=["a"])).endswith("without: a")


@pytest.mark.slow
def test_good_manifest_passes():
    findings = check_manifest(make_table(), PARAMS)
    assert [finding.name for finding in findings if not finding.passed] == []
    assert len(findings) == 21


ROWS = make_rows()
FAILURES = {
    "columns": (make_table().rename(columns={"mode": "colour"}), None, "wanted the columns path, split"),
    "complete_split": (change(3, "split", None), [ROWS[3].path], "wanted a split in every row, got 1 of 18"),
    "complete_width_px": (change(4, "width_px", None), [ROWS[4].path], "wanted a width_px in every row"),
    "unique_paths": (change(1, "path", ROWS[0].path), [ROWS[0].path] * 2, "wanted a path once, got 2 of 18"),
    "known_splits": (change(2, "split", "test"), [ROWS[2].path], "wanted a split of training, validation, evaluation"),
    "hashes": (change(2, "sha256", "xyz"), [ROWS[2].path], "wanted 64 hexadecimal digits"),
    "one_label_an_image": (
        change(3, "sha256", ROWS[0].sha256),
        [ROWS[0].path, ROWS[3].path],
        "wanted the same bytes under one label, got 2 of 18",
    ),
    "one_split_an_image": (
        change(6, "sha256", ROWS[0].sha256),
        [ROWS[0].path, ROWS[6].path],
        "wanted the same bytes in one split only, got 2 of 18",
    ),
    "modes": (change(5, "mode", "CMYK"), [ROWS[5].path], "wanted a colour mode of RGB, L"),
    "width": (change(7, "width_px", 9), [ROWS[7].path], "wanted at least 10 px of width"),
    "height": (change(8, "height_px", 9), [ROWS[8].path], "wanted at least 10 px of height"),
    "classes": (make_table([row for row in ROWS if row.label == "cat"]), [], "wanted at least 2 classes, got 1"),
    "every_class_in_every_split": (
        make_table([row for row in ROWS if (row.split, row.label) != ("validation", "dog")]),
        ["validation/dog (0)"],
        "wanted an image of every class in every split, got 1 of 6",
    ),
    "min_images": (make_table(ROWS[:-2]), ["evaluation/dog (1)"], "wanted at least 2 images of every class"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_each_check_fails_on_what_it_is_for(name):
    table, rows, message = FAILURES[name]
    failed = {finding.name: finding for finding in check_manifest(table, PARAMS) if not finding.passed}
    assert name in failed
    if rows is not None:
        assert failed[name].rows == rows
        # What fails beside it is what must: a class that is missing is also fewer than the least number.
        allowed = {"every_class_in_every_split": {"min_images"}, "complete_split": {"known_splits"}}
        assert failed.keys() - {name} <= allowed.get(name, set())
    assert message in describe_failure(failed[name])


@pytest.mark.slow
def test_every_check_has_a_failing_case():
    checks = {finding.name for finding in check_manifest(make_table(), PARAMS)}
    complete = {f"complete_{column}" for column in ManifestRow._fields}
    assert checks - complete == FAILURES.keys() - complete


@pytest.mark.slow
def test_one_image_of_each_is_enough_where_one_is_wanted():
    params = PARAMS.model_copy(update={"min_images": 1})
    assert all(finding.passed for finding in check_manifest(make_table(ROWS[::3]), params))
    failed = [finding.name for finding in check_manifest(make_table(ROWS[3:]), params) if not finding.passed]
    assert failed == ["every_class_in_every_split"]


@pytest.mark.slow
def test_duplicates_may_be_allowed():
    table = change(6, "sha256", ROWS[0].sha256)
    findings = check_manifest(table, PARAMS.model_copy(update={"duplicates": "allow"}))
    assert all(finding.passed for finding in findings)


@pytest.mark.slow
def test_only_so_many_rows_are_named():
    table = make_table().assign(mode="P")
    table = pd.concat([table, table.assign(path=table["path"] + "x")], ignore_index=True)
    (finding,) = (finding for finding in check_manifest(table, PARAMS) if finding.name == "modes")
    assert (finding.n_failed, len(finding.rows)) == (36, N_ROWS_NAMED)


@pytest.mark.slow
def test_report_is_written_and_the_same_each_time(workspace):
    write_manifest(paths.MANIFEST, make_rows())
    run(PARAMS)
    first = paths.VALIDATION_REPORT.read_bytes()
    run(PARAMS)
    assert paths.VALIDATION_REPORT.read_bytes() == first
    report = read_json(paths.VALIDATION_REPORT)
    assert report["passed"] is True
    assert report["n_images"] == 18
    assert report["manifest_sha256"] == hash_file(paths.MANIFEST)


@pytest.mark.slow
def test_bad_manifest_ends_the_stage_and_leaves_the_report(workspace):
    write_manifest(paths.MANIFEST, [row._replace(mode="P") for row in make_rows()])
    with pytest.raises(ValidationFailed, match=r"data/manifest\.csv: 1 of 21 expectations failed; .*\n  modes: wanted"):
        run(PARAMS)
    report = read_json(paths.VALIDATION_REPORT)
    assert report["passed"] is False
    assert [finding["name"] for finding in report["findings"] if not finding["passed"]] == ["modes"]


def test_no_manifest(workspace):
    with pytest.raises(IntegrityError, match=r"data/manifest\.csv: no such file; run `dvc repro restructure`"):
        run(PARAMS)


def test_labels_that_look_like_missing_values_are_labels(workspace):
    from relearn.validate import read_table

    write_manifest(Path("m.csv"), [row._replace(label="NA" if row.label == "cat" else "null") for row in make_rows()])
    assert set(read_table(Path("m.csv"))["label"]) == {"NA", "null"}
