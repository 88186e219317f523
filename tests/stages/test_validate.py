import json
import shutil

import pytest

from conftest import commit, draw_image, encode_image, git, write_groups
from gate_data import ROWS, change, make_params, without
from relearn import paths
from relearn.dataset.corrections import Corrected
from relearn.dataset.manifest import TABLES, Exclusion, ManifestRow, SourceDetails, hash_tables
from relearn.errors import IntegrityError, ValidationFailed
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, write_hashes
from relearn.stages.validate import read_data, run
from relearn.storage.files import hash_file, read_json, write_csv, write_json


def write_data(rows):
    """Write what `restructure` writes, with pictures."""
    write_csv(paths.MANIFEST, ManifestRow._fields, rows)
    write_csv(paths.SIGHTINGS, SourceDetails._fields, [SourceDetails(row.path, row.path, 50.0) for row in rows])
    write_hashes(paths.HASHES, len(rows), [b""] * len(rows))
    write_csv(paths.EXCLUDED, Exclusion._fields, [])
    write_csv(paths.CORRECTED, Corrected._fields, [])
    write_groups({})
    write_json(paths.SOURCE, {"source": "source", "n_files": len(rows), "lost_classes": {}, **hash_tables()})
    for seed, row in enumerate(rows):
        (paths.DATASET / row.path).parent.mkdir(parents=True, exist_ok=True)
        (paths.DATASET / row.path).write_bytes(encode_image(draw_image(seed)))


@pytest.mark.slow
def test_severity_decides_what_stops(workspace):
    for severity, stops in (("error", True), ("warn", False), ("off", False)):
        write_data(change(5, mode="CMYK"))
        params = make_params(modes={"severity": severity})
        if stops:
            with pytest.raises(ValidationFailed, match=r"28 checks: 1 failed\n  error  modes: wanted"):
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
def test_group_in_two_splits_stops_and_is_shown(workspace):
    write_data(ROWS)
    write_groups({ROWS[0].sha256: "x", ROWS[6].sha256: "x", ROWS[1].sha256: "y", ROWS[2].sha256: "y"})
    message = (
        r"groups_across_splits: wanted all images of a group in one split, got 1 of 2 groups that fail: "
        rf"{ROWS[0].path}, {ROWS[6].path}; bring each group into one split of the source; or, .*, delete data/splits"
    )
    with pytest.raises(ValidationFailed, match=message):
        run(make_params())
    (finding,) = (found for found in read_json(paths.VALIDATION_REPORT)["findings"] if not found["passed"])
    assert finding["images"] == [[ROWS[0].path, ROWS[6].path]]
    assert "groups_across_splits" in paths.VALIDATION_PAGE.read_text()
    paths.SPLITS.unlink()
    with pytest.raises(IntegrityError, match=r"data/splits\.csv: no such file; run `dvc repro restructure`"):
        read_data()


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


@pytest.mark.parametrize("path", TABLES.values())
def test_table_of_another_run_is_reported(workspace, path):
    """Each is whole and of the right form: nothing but the hash shows it."""
    write_data(ROWS)
    before = read_data()
    if path == paths.HASHES:
        write_hashes(path, len(ROWS), [bytes([7]) * N_HASHES * HASH_BYTES] * len(ROWS))
    elif path == paths.EXCLUDED:
        write_csv(path, Exclusion._fields, [("x.png", "hidden")])
    elif path == paths.CORRECTED:
        write_csv(path, Corrected._fields, [Corrected("x.png", "a", "keep", "cat", "cat", "", "")])
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
        with pytest.raises(ValidationFailed, match=r"data/manifest\.csv: 18 images, 28 checks: 1 failed"):
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


@pytest.mark.parametrize(
    "path", [paths.MANIFEST, paths.SIGHTINGS, paths.HASHES, paths.EXCLUDED, paths.CORRECTED, paths.SOURCE]
)
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
            r"n_files as a whole number, and lost_classes as a number for each class, got 'source', 'x' and",
        ),
        (paths.SOURCE, "18", "null", r"for each class, got 'source', None and \{\}; run"),
        (paths.SOURCE, "18", "1.5", r"for each class, got 'source', 1\.5 and \{\}; run"),
        (paths.SOURCE, "{}", '{"cat": "x"}', r"for each class, got 'source', 18 and \{'cat': 'x'\}; run"),
    ],
)
def test_cells_that_were_changed_by_hand_are_reported(workspace, path, old, new, message):
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


def test_files_of_other_images_are_reported(workspace):
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
