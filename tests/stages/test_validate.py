import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT, commit, draw_image, encode_image, git
from relearn import paths
from relearn.dataset.manifest import SPLITS, TABLES, Exclusion, ManifestRow, SourceDetails, hash_tables
from relearn.errors import IntegrityError, ValidationFailed
from relearn.gates.expectations import Finding, describe_failure
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, compute_fingerprint, write_hashes
from relearn.params import ValidateParams, read_params
from relearn.stages.validate import (
    Data,
    Reference,
    check_data,
    describe_verdict,
    find_reference,
    plan_validation,
    read_data,
    run,
)
from relearn.storage.files import hash_file, read_json, write_csv, write_json


def make_params(**rules):
    """The repository's rules with small changes: `make_params(min_images={"min": 3})`."""
    block = read_params(ROOT / "params.yaml").validate_.model_dump()
    block["min_images"]["min"], block["modes"]["allowed"] = 2, ["RGB", "L"]
    for name, change in rules.items():
        block[name] |= change
    return ValidateParams.model_validate(block)


def make_rows():
    return [
        ManifestRow(f"{split}/{label}/{n}.png", split, label, f"{i:03}{j}{n}" + "0" * 59, 9, 100, 100, "RGB", "PNG")
        for i, split in enumerate(SPLITS)
        for j, label in enumerate(("cat", "dog"))
        for n in range(3)
    ]


ROWS = make_rows()


def make_data(rows=None, *, contrast=None, hashes=None, n_files=None, excluded=(), before=None, is_accepted=False):
    rows = make_rows() if rows is None else rows
    manifest = pd.DataFrame(rows, columns=list(ManifestRow._fields)).astype("str")
    manifest = manifest.mask(manifest == "")
    sightings = pd.DataFrame({"path": manifest["path"], "source_path": manifest["path"], "contrast": "50.0"})
    for row, value in (contrast or {}).items():
        sightings.loc[row, "contrast"] = str(value)
    table = np.zeros((len(rows), N_HASHES, HASH_BYTES), np.uint8)
    for row, seed in (hashes or {}).items():
        rgb = draw_image(seed, (64, 64))
        table[row] = np.frombuffer(compute_fingerprint(rgb).hashes, np.uint8).reshape(table.shape[1:])
    excluded = [Exclusion(*exclusion) for exclusion in excluded]
    n_files = len(rows) + len(excluded) if n_files is None else n_files
    return Data(manifest, sightings, table, excluded, "source", n_files, before, is_accepted)


def change(row, **cells):
    """The rows with other cells in one of them."""
    return [old._replace(**cells) if number == row else old for number, old in enumerate(ROWS)]


def without(*classes):
    return [row for row in ROWS if f"{row.split}/{row.label}" not in classes]


BEFORE = Reference("c" * 40, {"cat": 9, "dog": 9})

# Of each check: data that fails it, the rows that it names, and a part of the message.
FAILURES = {
    "complete": (make_data(change(3, label="")), [f"{ROWS[3].path} (no label)"], "a value in every cell, got 1 of 18"),
    "types": (
        make_data(change(2, width_px="x", sha256="abc")),
        [f"{ROWS[2].path} (width_px sha256)"],
        "wanted whole positive numbers, SHA-256 in hexadecimal, known splits, got 1 of 18 images that fail",
    ),
    "unique_paths": (make_data(change(1, path=ROWS[0].path)), [ROWS[0].path] * 2, "a path once, got 2 of 18"),
    "counts_add_up": (make_data(n_files=20), [], "as many .* as found, got 18 kept and 0 excluded of 20 found"),
    "excluded_share": (
        make_data(excluded=[("a.jpg", "damaged JPEG file: x"), ("b.jpg", "damaged JPEG file: y")]),
        [],
        r"at most 5\.0% .* got 2 of 20 \(10\.0%\): 2 damaged JPEG file, such as a\.jpg$",
    ),
    "classes": (make_data(without(*(f"{split}/dog" for split in SPLITS))), [], "at least 2 classes, got 1"),
    "class_names": (
        make_data([row._replace(label="Cat") if row.label == "dog" else row for row in ROWS]),
        ["Cat", "cat"],
        "names of classes that differ by more than upper and lower case, got 2 of 2 classes that fail: Cat, cat",
    ),
    "every_class_in_every_split": (
        make_data(without("validation/dog")),
        ["validation/dog (0)"],
        "an image of every class in every split, got 1 of 6 pairs of split and class that fail: validation/dog",
    ),
    "min_images": (make_data(ROWS[:-2]), ["evaluation/dog (1)"], "at least 2 images of every class in every split"),
    "class_balance": (
        make_data([*ROWS, *(ROWS[0]._replace(path=f"x{n}", sha256=f"{n:064}") for n in range(60))]),
        ["training (cat 63, dog 3)"],
        "at most 10 times as many images in a split's largest class as in its smallest, got 1 of 3 splits",
    ),
    "split_balance": (
        make_data(ROWS[:-2]),
        [r"evaluation/cat (75.0%, off by 25.0%)", "evaluation/dog (25.0%, off by 25.0%)"],
        r"a class's share of a split within 0\.1 of its share of training, got 2 of 6",
    ),
    "copies_across_splits": (
        make_data(change(6, sha256=ROWS[0].sha256)),
        [ROWS[0].path, ROWS[6].path],
        "the same bytes in one split only, got 2 of 18",
    ),
    "copies_across_labels": (
        make_data(change(3, sha256=ROWS[0].sha256)),
        [ROWS[0].path, ROWS[3].path],
        "the same bytes under one label, got 2 of 18",
    ),
    "near_duplicates_across_splits": (
        make_data(hashes={0: 1, 4: 2, 8: 1, 13: 3}),
        [f"{ROWS[0].path} (like {ROWS[8].path}, distance 0)"],
        "no copy in another split, re-encoded, resized, slightly cropped or mirrored, got 1 of 4 images "
        "with one; 14 too small or too uniform to compare: training/cat/0.png",
    ),
    "near_duplicates_across_labels": (
        make_data(hashes={0: 1, 3: 1}),
        [f"{ROWS[0].path} (like {ROWS[3].path}, distance 0)"],
        "no copy in another label, re-encoded, resized, slightly cropped or mirrored, got 1 of 2 images with one",
    ),
    "width_px": (make_data(change(7, width_px=7)), [f"{ROWS[7].path} (7 px)"], "8 to 20,000 px of width, got 1 of"),
    "height_px": (make_data(change(7, height_px=20_001)), [f"{ROWS[7].path} (20001 px)"], "8 to 20,000 px of height"),
    "aspect_ratio": (make_data(change(7, width_px=501)), [f"{ROWS[7].path} (501 x 100 px)"], "sides of at most 5 to 1"),
    "formats": (make_data(change(5, format="ICO")), [f"{ROWS[5].path} (ICO)"], "a format of BMP, GIF, JPEG, PNG"),
    "modes": (make_data(change(5, mode="CMYK")), [f"{ROWS[5].path} (CMYK)"], "a colour mode of RGB, L, got 1 of 18"),
    "contrast": (make_data(contrast={9: 3.5}), [f"{ROWS[9].path} (3.5)"], "brightness that deviates by at least 4 of"),
    "vanished_classes": (
        make_data(before=Reference("c" * 40, {"cat": 9, "dog": 9, "owl": 2})),
        ["owl"],
        "an image of each class that there was in the last committed data, got 1 of 3 classes that fail: owl",
    ),
    "new_classes": (
        make_data(before=Reference("c" * 40, {"cat": 9})),
        ["dog"],
        "no class that there was not in the last committed data, got 1 of 2 classes that fail: dog",
    ),
    "shrinkage": (
        make_data(before=Reference("c" * 40, {"cat": 9, "dog": 12})),
        ["dog (9, was 12)"],
        r"at most 20\.0% fewer images than in the last committed data, in each class and all of these, got 1 of 3",
    ),
}
# What fails beside a check is what must: a class that is missing is also fewer than the least number.
BESIDE = {
    "complete": {"split_balance"},
    "types": {"width_px", "aspect_ratio"},
    "every_class_in_every_split": {"min_images", "split_balance"},
    "min_images": {"split_balance"},
    "split_balance": {"min_images"},
    "class_balance": {"split_balance"},
    "height_px": {"aspect_ratio"},
    "width_px": {"aspect_ratio"},
}


def find_failed(data, params=None):
    return {finding.name: finding for finding in check_data(data, params or make_params()) if not finding.passed}


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, BEFORE])
def test_good_data_passes_every_check(before):
    data = make_data(before=before, hashes={0: 1, 1: 1, 8: 2}, excluded=[(".x", "hidden file")] * 9)
    findings = check_data(data, make_params())
    assert [finding.name for finding in findings] == list(ValidateParams.model_fields)
    assert [describe_failure(finding) for finding in findings if not finding.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_each_check_fails_on_what_it_is_for(name):
    data, rows, message = FAILURES[name]
    failed = find_failed(data)
    assert failed[name].rows == rows
    assert re.search(message, describe_failure(failed[name]))
    assert failed.keys() - {name} <= BESIDE.get(name, set())


@pytest.mark.slow
def test_classes_that_look_the_same_are_told_apart():
    names = {"cat": "\u00e9", "dog": "e\u0301"}
    data = make_data([row._replace(label=names[row.label]) for row in ROWS])
    assert sorted(find_failed(data)["class_names"].rows) == [
        "e\u0301 (accents in Unicode NFD)",
        "\u00e9 (accents in Unicode NFC)",
    ]


def test_every_check_has_a_failing_case():
    assert FAILURES.keys() == ValidateParams.model_fields.keys() - {"columns"}


@pytest.mark.slow
def test_wrong_columns_are_all_that_is_said():
    data = make_data()
    data = data._replace(manifest=data.manifest.rename(columns={"mode": "colour"}))
    (finding,) = check_data(data, make_params())
    assert not finding.passed
    assert describe_failure(finding).startswith("columns: wanted the columns path, split, label,")
    assert ", colour, format" in describe_failure(finding)


@pytest.mark.slow
def test_severity_decides_what_stops(workspace):
    for severity, stops in (("error", True), ("warn", False), ("off", False)):
        write_data(change(5, mode="CMYK"))
        params = make_params(modes={"severity": severity})
        if stops:
            with pytest.raises(ValidationFailed, match=r"25 checks: 1 failed\n  error  modes: wanted"):
                run(params)
        else:
            run(params)
        report = read_json(paths.VALIDATION_REPORT)
        assert report["passed"] is not stops
        (finding,) = (finding for finding in report["findings"] if finding["name"] == "modes")
        assert finding["severity"] == severity
        assert finding["passed"] is (severity == "off")
    assert finding["observed"] == "not looked at"


@pytest.mark.slow
def test_hidden_files_are_no_loss():
    excluded = [
        (f"{n}.jpg", reason)
        for n, reason in enumerate(["hidden file", "system file: Thumbs.db", "outside the subfolder: x"] * 30)
    ]
    assert find_failed(make_data(excluded=excluded)) == {}


@pytest.mark.slow
def test_mirrored_copies_count_where_they_shall():
    data = make_data()
    rgb = draw_image(1, (64, 64)).resize((200, 160))
    for row, image in ((0, rgb), (8, rgb.transpose(0))):
        data.hashes[row] = np.frombuffer(compute_fingerprint(image).hashes, np.uint8).reshape(N_HASHES, HASH_BYTES)
    assert find_failed(data).keys() == {"near_duplicates_across_splits"}
    assert find_failed(data, make_params(near_duplicates_across_splits={"mirrored": False})) == {}


@pytest.mark.slow
def test_only_so_many_rows_are_named():
    rows = [ROWS[0]._replace(path=f"{n}", sha256=f"{n:064}", mode="P") for n in range(50)]
    finding = find_failed(make_data(rows))["modes"]
    assert (finding.n_failed, len(finding.rows), len(finding.images)) == (50, 20, 20)


@pytest.mark.slow
def test_copies_are_shown_side_by_side():
    finding = find_failed(make_data(change(6, sha256=ROWS[0].sha256)))["copies_across_splits"]
    assert finding.images == [[ROWS[0].path, ROWS[6].path]]
    finding = find_failed(make_data(hashes={0: 1, 8: 1}))["near_duplicates_across_splits"]
    assert finding.images == [[ROWS[0].path, ROWS[8].path]]


def make_finding(number, severity="error", passed=False):
    rows = ["a", "b", "c", "d", "e"]
    return Finding(f"check{number}", severity, "x", "5 of 9 rows that fail", passed, 0 if passed else 5, rows, [])


def test_failure_is_one_line():
    finding = make_finding(1)
    assert describe_failure(finding) == "check1: wanted x, got 5 of 9 rows that fail: a, b, c and 2 more"
    assert describe_failure(finding._replace(n_failed=1, rows=["a"])).endswith("that fail: a")
    assert describe_failure(finding._replace(rows=["a"])).endswith("that fail: a and 4 more")


def test_terminal_gets_at_most_20_lines_the_errors_first():
    findings = [make_finding(n, "warn") for n in range(30)] + [make_finding(99)]
    lines = describe_verdict(findings, 1200)
    assert len(lines) <= 20
    assert lines[0] == "data/manifest.csv: 1,200 images, 31 checks: 1 failed, 30 warned"
    assert lines[1].startswith("  error  check99: wanted x")
    assert lines[2].startswith("  warn   check0: ")
    assert lines[-3:] == [
        "  and 16 more",
        "  mend the data, or change the block validate of params.yaml",
        "  reports/validation.html shows it all",
    ]
    assert describe_verdict([make_finding(1, "off", True)], 9)[0].endswith("0 checks: passed, 1 off")


# --- the reference ---------------------------------------------------------------------------------------------------


def make_report(manifest_sha256="1", source="birds", passed=True, **changes):
    report = {"manifest_sha256": manifest_sha256, "source": source, "passed": passed, "classes": {"owl": 3}} | changes
    return json.dumps(report).encode()


def test_reference_is_the_newest_other_data_of_this_source_that_passed():
    reports = [
        make_report("2", passed=False),
        make_report("3", source="food"),
        b"no json",
        b"[]",
        make_report("4", classes=3),
        make_report("5"),
        make_report("6"),
    ]
    commits = [(str(number), content) for number, content in enumerate(reports)]
    assert find_reference(commits, "now", "birds") == (Reference("5", {"owl": 3}), False)
    assert find_reference(commits, "now", "./birds/") == (Reference("5", {"owl": 3}), False)
    assert find_reference(commits, "now", "digits") == (None, False)


def test_reference_of_committed_data_is_in_their_report():
    """Also where the history ends there, as in a shallow clone."""
    for compared_with, expected in ((None, None), ({"commit": "a", "classes": {"owl": 4}}, Reference("a", {"owl": 4}))):
        report = make_report("now", compared_with=compared_with)
        assert find_reference([("x", report), ("y", make_report("2"))], "now", "birds") == (expected, True)
        assert find_reference([("x", report)], "now", "birds") == (expected, True)


@pytest.mark.slow
def test_data_is_compared_with_the_last_commit_that_passed(workspace):
    """The same before and after the commit, so that the report of a commit can be made again from it."""
    git(workspace, "init", "--quiet")
    write_data(ROWS)
    run(make_params())
    assert read_json(paths.VALIDATION_REPORT)["compared_with"] is None
    commit(workspace)
    first = git(workspace, "rev-parse", "HEAD").strip()

    write_data(without("training/dog", "validation/dog", "evaluation/dog"))
    message = (
        r"(?s)vanished_classes: wanted .*, got 1 of 2 classes that fail: dog\n.*"
        r"if that is meant: dvc exp run -S validate\.vanished_classes\.severity=warn; then commit"
    )
    with pytest.raises(ValidationFailed, match=message):
        run(make_params(classes={"min": 1}))
    commit(workspace)  # of data that did not pass
    write_data([row._replace(bytes=8) for row in ROWS])
    run(make_params())
    report = paths.VALIDATION_REPORT.read_bytes()
    assert json.loads(report)["compared_with"] == {"commit": first, "classes": {"cat": 9, "dog": 9}}
    commit(workspace)
    run(make_params())
    assert paths.VALIDATION_REPORT.read_bytes() == report


@pytest.mark.slow
def test_loss_that_was_accepted_and_committed_stays_accepted(workspace):
    git(workspace, "init", "--quiet")
    write_data(ROWS)
    run(make_params())
    commit(workspace)
    write_data(without("training/dog", "validation/dog", "evaluation/dog"))
    run(make_params(classes={"min": 1}, vanished_classes={"severity": "warn"}))
    report = paths.VALIDATION_REPORT.read_bytes()
    commit(workspace)
    run(make_params(classes={"min": 1}))
    assert paths.VALIDATION_REPORT.read_bytes() == report


# --- the stage -------------------------------------------------------------------------------------------------------


def write_data(rows):
    """Write what `restructure` writes, with pictures."""
    write_csv(paths.MANIFEST, ManifestRow._fields, rows)
    write_csv(paths.SIGHTINGS, SourceDetails._fields, [SourceDetails(row.path, row.path, 50.0) for row in rows])
    write_hashes(paths.HASHES, len(rows), [b""] * len(rows))
    write_csv(paths.EXCLUDED, Exclusion._fields, [])
    write_json(paths.SOURCE, {"source": "source", "n_files": len(rows), **hash_tables()})
    for seed, row in enumerate(rows):
        (paths.DATASET / row.path).parent.mkdir(parents=True, exist_ok=True)
        (paths.DATASET / row.path).write_bytes(encode_image(draw_image(seed)))


@pytest.mark.parametrize("path", TABLES.values())
def test_table_of_another_run_is_told(workspace, path):
    """Each is whole and of the right form: nothing but the hash shows it."""
    write_data(ROWS)
    before = read_data()
    if path == paths.HASHES:
        write_hashes(path, len(ROWS), [bytes([7]) * N_HASHES * HASH_BYTES] * len(ROWS))
    elif path == paths.EXCLUDED:
        write_csv(path, Exclusion._fields, [("x.png", "hidden")])
    elif path == paths.SIGHTINGS:
        path.write_text(path.read_text().replace(",50.0", ",51.0", 1))
    else:
        path.write_text(path.read_text().replace(",cat,", ",dog,", 1))
    with pytest.raises(
        IntegrityError, match=rf"{path}: wanted sha256 [0-9a-f]{{64}} \(data/source\.json\), got [0-9a-f]"
    ):
        read_data()
    write_data(ROWS)
    assert len(read_data().manifest) == len(before.manifest)


@pytest.mark.slow
def test_reports_are_the_same_each_time(workspace, monkeypatch):
    write_data(change(7, width_px=7))
    for _ in range(2):
        with pytest.raises(ValidationFailed, match=r"data/manifest\.csv: 18 images, 25 checks: 1 failed"):
            run(make_params())
    first = [path.read_bytes() for path in (paths.VALIDATION_REPORT, paths.VALIDATION_PAGE)]
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with pytest.raises(ValidationFailed):
        run(make_params())
    assert [path.read_bytes() for path in (paths.VALIDATION_REPORT, paths.VALIDATION_PAGE)] == first
    report = read_json(paths.VALIDATION_REPORT)
    assert report["passed"] is False
    assert (report["n_images"], report["n_files"]) == (18, 18)
    assert report["classes"] == {"cat": 9, "dog": 9}
    assert report["manifest_sha256"] == hash_file(paths.MANIFEST)


@pytest.mark.parametrize("path", [paths.MANIFEST, paths.SIGHTINGS, paths.HASHES, paths.EXCLUDED, paths.SOURCE])
def test_what_is_missing_is_named(workspace, path):
    write_data(ROWS)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path}: no such file; run `dvc repro"):
        read_data()


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (paths.SIGHTINGS, ",50.0", ",x", r"sightings\.csv: row 2: wanted a contrast of 0 to 127\.5, got x; run"),
        (paths.SIGHTINGS, ",50.0", ",", r"sightings\.csv: row 2: wanted a contrast of 0 to 127\.5, got nan; run"),
        (
            paths.SOURCE,
            "18",
            '"x"',
            r"source\.json: wanted source as text and n_files as a whole number, got 'source' and",
        ),
        (paths.SOURCE, "18", "null", r"n_files as a whole number, got 'source' and None; run"),
        (paths.SOURCE, "18", "1.5", r"n_files as a whole number, got 'source' and 1\.5; run"),
    ],
)
def test_cells_that_were_changed_by_hand_are_told(workspace, path, old, new, message):
    write_data(ROWS)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(IntegrityError, match=message):
        read_data()


@pytest.mark.slow
@pytest.mark.parametrize("column", ["path", "split", "label", "width_px"])
@pytest.mark.parametrize("which", [slice(3, 4), slice(0, None)])
def test_missing_cells_are_reported_and_break_nothing(workspace, column, which):
    write_data(ROWS)
    rows = [row._replace(**{column: ""}) if n in range(18)[which] else row for n, row in enumerate(ROWS)]
    write_csv(paths.MANIFEST, ManifestRow._fields, rows)
    if column == "path":
        write_csv(paths.SIGHTINGS, SourceDetails._fields, [SourceDetails(row.path, row.path, 50.0) for row in rows])
    write_json(paths.SOURCE, read_json(paths.SOURCE) | hash_tables())
    with pytest.raises(ValidationFailed, match=f"complete: wanted a value in every cell, got .*no {column}"):
        run(make_params())
    assert paths.VALIDATION_PAGE.exists()


@pytest.mark.slow
def test_empty_manifest_is_reported(workspace):
    write_data([])
    with pytest.raises(ValidationFailed, match="classes: wanted at least 2 classes, got 0"):
        run(make_params())
    assert paths.VALIDATION_PAGE.exists()


def test_wrong_columns_cannot_be_let_pass(workspace):
    data = make_data()
    data = data._replace(manifest=data.manifest.drop(columns="mode"))
    for severity in ("warn", "off"):
        with pytest.raises(
            IntegrityError, match=r"data/manifest\.csv: the columns path, .* are missing, got path, .*; no"
        ):
            plan_validation(data, make_params(columns={"severity": severity}))


@pytest.mark.slow
def test_both_splits_of_many_copies_are_shown():
    rows = [row._replace(sha256=ROWS[0].sha256) if row.label == "cat" else row for row in ROWS]
    rows = [ROWS[0]._replace(path=f"training/cat/x{n}.png") for n in range(9)] + rows
    (group,) = find_failed(make_data(rows))["copies_across_splits"].images
    assert {name.split("/")[0] for name in group} == set(SPLITS)


def test_files_of_other_images_are_told(workspace):
    write_data(ROWS)
    shutil.copy(paths.SIGHTINGS, "sightings")
    write_csv(paths.SIGHTINGS, SourceDetails._fields, [SourceDetails("other", "other", 1.0)])
    with pytest.raises(IntegrityError, match=r"data/sightings\.csv: wanted a row for each of data/manifest\.csv"):
        read_data()
    shutil.copy("sightings", paths.SIGHTINGS)
    write_hashes(paths.HASHES, 1, [b""])
    with pytest.raises(IntegrityError, match=r"data/hashes\.npy: wanted 18 rows, got 1"):
        read_data()


def test_labels_that_look_like_missing_values_are_labels(workspace):
    write_data([row._replace(label="NA" if row.label == "cat" else "null") for row in ROWS])
    assert set(read_data().manifest["label"]) == {"NA", "null"}


def test_committed_report_that_is_nested_too_deeply_is_passed_over():
    report = {"passed": True, "source": "s", "manifest_sha256": "a", "classes": {"cat": 3}}
    reports = [("c2", b"[" * 100_000), ("c1", json.dumps(report).encode())]
    assert find_reference(reports, "b", "s") == (Reference("c1", {"cat": 3}), False)
