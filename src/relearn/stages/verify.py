"""Stage `verify`: the gate between the features and the head that learns from them."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import ValidationFailed
from relearn.features.shards import IndexRow, hash_features, iterate_shards, read_index
from relearn.gates.expectations import Check, Row, Table, describe_findings, has_errors, name_path, run_checks
from relearn.params import VerifyParams
from relearn.storage.files import hash_bytes, write_json

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
    manifest = read_manifest(paths.MANIFEST)
    hashes = hash_features(paths.FEATURES)
    rows = describe_rows(manifest)
    tables = {
        "rows": Table(rows, "rows of features"),
        "order": Table(compare_order(manifest, read_index(paths.FEATURES)), "rows"),
    }
    findings = run_checks(tables, plan_checks(params))
    passed = not has_errors(findings)
    report = {"passed": passed, "n_images": len(rows), **hashes}
    report["findings"] = [finding._asdict() for finding in findings]
    write_json(paths.VERIFICATION_REPORT, report)
    lines = describe_findings(findings, f"{paths.FEATURES}: {len(rows):,} rows of features")
    if not passed:
        raise ValidationFailed("\n".join([*lines, "  mend the data, or change the block verify of params.yaml"]))
    log.info("\n".join(lines))


def describe_rows(manifest: list[ManifestRow]) -> pd.DataFrame:
    """Return what the checks want to know of each row of features, a shard in memory at a time.

    Returns
    -------
    DataFrame
        split, label, sha256 of the image, and its path; `n_not_finite`, how many of its features are not; `spread`, the
        largest less the smallest; `has_twin`, 0 or 1, whether an image of other bytes and another split has these very
        features, and `twin`, the path of one.
    """
    parts = [pd.DataFrame(columns=["split", "label", "sha256", "n_not_finite", "spread", "content"])]
    for index, values in iterate_shards(paths.FEATURES):
        finite = np.isfinite(values)
        part = pd.DataFrame(index, columns=list(IndexRow._fields))[["split", "label", "sha256"]]
        part["n_not_finite"] = values.shape[1] - finite.sum(axis=1)
        part["spread"] = np.where(finite.all(axis=1), np.ptp(np.where(finite, values, 0), axis=1), np.nan)
        part["content"] = [hash_bytes(row.tobytes()) for row in values + 0.0]  # -0.0 is 0.0
        parts.append(part)
    rows = pd.concat(parts[1:] or parts, ignore_index=True)
    names = {(row.split, row.label, row.sha256): row.path for row in manifest}
    keys = zip(rows["split"], rows["label"], rows["sha256"], strict=True)
    rows["path"] = [names.get(key, key[2]) for key in keys]
    rows["twin"] = find_twins(rows)
    rows["has_twin"] = (rows["twin"] != "").astype(int)
    return rows


def find_twins(rows: pd.DataFrame) -> list[str]:
    """Return for each row the path of an image of other bytes and another split with the same content, or nothing."""
    twins = [""] * len(rows)
    for _, group in rows[rows["content"].duplicated(keep=False)].groupby("content"):
        # Of two images of a split one has other bytes than any given: no more are needed, were all rows the same.
        candidates = group.drop_duplicates(["split", "sha256"]).groupby("split", sort=False).head(2)
        others = list(candidates[["split", "sha256", "path"]].itertuples(index=False, name=None))
        for row, split, sha256 in group[["split", "sha256"]].itertuples(name=None):
            twins[row] = next((path for s, h, path in others if s != split and h != sha256), "")
    return twins


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

    def plan(name: str, wanted: str, column: str, name_row: Callable[[Row], str] = name_path, **limits: Any) -> Check:
        expectation = gxe.ExpectColumnValuesToBeBetween(column=column, **limits)
        return Check(name, getattr(params, name).severity, wanted, "rows", expectation, name_row)

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
        plan(
            "identical_rows",
            "features that no other image of another split has",
            "has_twin",
            lambda row: f"{row['path']} (as {row['twin']})",
            max_value=0,
        ),
    ]
