import json

import numpy as np
import pytest

from conftest import write_rows
from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.errors import IntegrityError, ValidationFailed
from relearn.features.shards import hash_features
from relearn.params.data import VerifyParams
from relearn.stages.train import check_verified
from relearn.stages.verify import run
from relearn.storage.files import read_json, write_csv, write_folder

PARAMS = VerifyParams.model_validate({name: {"severity": "error"} for name in VerifyParams.model_fields})


@pytest.fixture
def write(features):
    """Write features and a manifest: `write(values, manifest)`; without them, those of the fixture."""
    values = np.concatenate([part.features for part in features.values()])
    manifest = [
        ManifestRow(f"{split}/{seed}-{number}.png", split, label, sha256, 1, 1, 1, "L", "PNG")
        for seed, (split, part) in enumerate(features.items())
        for number, (sha256, label) in enumerate(zip(part.sha256, part.labels, strict=True))
    ]

    def write(change=lambda values: None, listed=None):
        changed = values.copy()
        change(changed)
        with write_folder(paths.FEATURES) as folder:
            write_rows(folder, manifest, changed)
        write_csv(paths.MANIFEST, ManifestRow._fields, manifest if listed is None else listed(manifest))
        paths.VERIFICATION_REPORT.unlink(missing_ok=True)

    return write


def put_nan(values):
    values[3, 2] = np.nan
    values[3, 4] = np.inf


def make_constant(values):
    values[100] = 0.25


def copy_row(values):
    values[130] = values[7]


def swap(manifest):
    return [*manifest[:4], manifest[5], manifest[4], *manifest[6:]]


FAILURES = {
    "rows_of_manifest": (
        {"listed": swap},
        r"the images of data/manifest\.csv, in its order, got 2 of 180 rows that fail: row 4: wanted training/class 2 "
        "15[0-9a-f]{62}, got training/class 1 11[0-9a-f]{62}",
    ),
    "finite": (
        {"change": put_nan},
        r"finite numbers alone, got 1 of 180 rows of features that fail: training/0-3\.png\n",
    ),
    "constant_rows": (
        {"change": make_constant},
        r"features that differ within a row, got 1 of 180 rows of features that fail: validation/1-40\.png\n",
    ),
    "identical_rows": (
        {"change": copy_row},
        r"features that no other image of another split has, got 2 of 180 rows of features that fail: "
        r"training/0-7\.png \(as evaluation/2-10\.png\), evaluation/2-10\.png \(as training/0-7\.png\)",
    ),
}


@pytest.mark.slow
def test_good_features_pass(write):
    write()
    run(PARAMS)
    report = read_json(paths.VERIFICATION_REPORT)
    assert (report["passed"], report["n_images"]) == (True, 180)
    assert [finding["name"] for finding in report["findings"]] == list(VerifyParams.model_fields)
    assert {name: report[name] for name in ("index_sha256", "shards_sha256")} == hash_features(paths.FEATURES)
    check_verified()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_each_check_fails_on_what_it_is_for(write, name):
    changes, message = FAILURES[name]
    write(**changes)
    with pytest.raises(
        ValidationFailed, match=rf"180 rows of features, 4 checks: 1 failed\n  error  {name}: wanted {message}"
    ):
        run(PARAMS)
    failed = [finding["name"] for finding in read_json(paths.VERIFICATION_REPORT)["findings"] if not finding["passed"]]
    assert failed == [name]
    with pytest.raises(
        ValidationFailed, match=r"verification\.json: wanted features that pass, got some that did not; fix"
    ):
        check_verified()


def test_every_check_has_a_failing_case():
    assert FAILURES.keys() == VerifyParams.model_fields.keys()


@pytest.mark.slow
def test_warning_lets_the_features_through(write, caplog):
    write(copy_row)
    with caplog.at_level("INFO"):
        run(PARAMS.model_copy(update={"identical_rows": PARAMS.finite.model_copy(update={"severity": "warn"})}))
    assert "4 checks: passed, 1 warned\n  warn   identical_rows: wanted features that no other" in caplog.text
    check_verified()


@pytest.mark.slow
def test_features_alike_in_one_split_are_no_matter(write):
    def copy_within(values):
        values[8] = values[7]

    write(copy_within)
    run(PARAMS)


def test_training_waits_for_these_very_features(features):
    report = json.loads(paths.VERIFICATION_REPORT.read_text())
    paths.VERIFICATION_REPORT.write_text(json.dumps(report | {"index_sha256": "0"}))
    with pytest.raises(
        ValidationFailed, match=r"verification\.json: wanted a report on data/features, got one on other features; run"
    ):
        check_verified()
    paths.VERIFICATION_REPORT.unlink()
    with pytest.raises(IntegrityError, match=r"reports/verification\.json: no such file; run `dvc repro`"):
        check_verified()


def test_damaged_features_are_reported(write):
    write()
    shard = sorted(paths.FEATURES.glob("training-*.npy"))[0]
    shard.write_bytes(shard.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(IntegrityError, match=r"training-0\.npy: wanted sha256 \w+ \(shards\.csv\), got other bytes"):
        run(PARAMS)
