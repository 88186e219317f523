"""Stage `verify`: the gate between the features and the head that learns from them."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from relearn import paths
from relearn.errors import ValidationFailed
from relearn.expectations import Check, Row, Table, describe_failure, has_errors, run_checks
from relearn.features import IndexRow, hash_features, iterate_shards, read_index
from relearn.files import hash_bytes, write_json
from relearn.manifest import ManifestRow, read_manifest
from relearn.params import VerifyParams

log = logging.getLogger(__name__)


def run(params: VerifyParams) -> None:
    """Write `reports/verification.json`, passed or not.

    Raises
    ------
    ValidationFailed
        A check failed whose severity is error; the text has a line for each check that failed.
    IntegrityError
        The features or the manifest are missing or damaged.
    """
    rows = describe_rows()
    tables = {
        "rows": Table(rows, "rows of features"),
        "order": Table(compare_order(read_manifest(paths.MANIFEST), read_index(paths.FEATURES)), "rows"),
    }
    findings = run_checks(tables, plan_checks(params))
    passed = not has_errors(findings)
    report = {"passed": passed, "n_images": len(rows), **hash_features(paths.FEATURES)}
    report["findings"] = [finding._asdict() for finding in findings]
    write_json(paths.VERIFICATION_REPORT, report)
    failed = sorted((finding for finding in findings if not finding.passed), key=lambda finding: finding.severity)
    verdict = f"{len(failed)} not met" if failed else "all met"
    lines = [f"{paths.FEATURES}: {len(rows):,} rows of features, {len(findings)} checks: {verdict}"]
    lines += [f"  {finding.severity:5}  {describe_failure(finding)}" for finding in failed]
    if not passed:
        raise ValidationFailed("\n".join([*lines, "  mend the data, or change the block verify of params.yaml"]))
    log.info("\n".join(lines))


def describe_rows() -> pd.DataFrame:
    """Return what the checks want to know of each row of features, a shard in memory at a time.

    Returns
    -------
    DataFrame
        split, label, sha256 of the image; `n_not_finite`, how many of its features are not; `spread`, the largest
        less the smallest; `n_splits`, in how many splits there are these very features.
    """
    parts = []
    for index, values in iterate_shards(paths.FEATURES):
        finite = np.isfinite(values)
        part = pd.DataFrame(index, columns=list(IndexRow._fields))[["split", "label", "sha256"]]
        part["n_not_finite"] = values.shape[1] - finite.sum(axis=1)
        part["spread"] = np.where(finite.all(axis=1), np.ptp(np.where(finite, values, 0), axis=1), np.nan)
        part["content"] = [hash_bytes(row.tobytes()) for row in values]
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    rows["n_splits"] = rows.groupby("content")["split"].transform("nunique")
    return rows


def compare_order(manifest: list[ManifestRow], index: list[IndexRow]) -> pd.DataFrame:
    """Return of each place what the manifest and the index of the features have there, as text, and if it is one."""
    wanted = [f"{row.split}/{row.label} {row.sha256}" for row in manifest]
    found = [f"{row.split}/{row.label} {row.sha256}" for row in index]
    n_rows = max(len(wanted), len(found))
    table = pd.DataFrame(
        {
            "wanted": wanted + ["nothing"] * (n_rows - len(wanted)),
            "found": found + ["nothing"] * (n_rows - len(found)),
        }
    )
    return table.assign(is_same=table["wanted"] == table["found"], row=range(n_rows))


def plan_checks(params: VerifyParams) -> list[Check]:
    """Return the checks in the order of `params`."""
    import great_expectations.expectations as gxe

    def name_image(row: Row) -> str:
        return f"{row['split']}/{row['label']} {row['sha256']}"

    def plan(name: str, wanted: str, column: str, **limits: Any) -> Check:
        expectation = gxe.ExpectColumnValuesToBeBetween(column=column, **limits)
        return Check(name, getattr(params, name).severity, wanted, "rows", expectation, name_image)

    return [
        Check(
            "rows_of_manifest",
            params.rows_of_manifest.severity,
            f"the images of {paths.MANIFEST}, in its order",
            "order",
            gxe.ExpectColumnValuesToBeInSet(column="is_same", value_set=[True]),
            lambda row: f"row {row['row']}: wanted {row['wanted']}, got {row['found']}",
        ),
        plan("finite", "finite numbers alone", "n_not_finite", max_value=0),
        plan("constant_rows", "features that differ within a row", "spread", min_value=0, strict_min=True),
        plan("identical_rows", "features in one split only", "n_splits", max_value=1),
    ]
