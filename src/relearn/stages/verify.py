"""Stage `verify`: the gate between the features and the head that learns from them."""

import logging

from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import ValidationFailed
from relearn.features.shards import hash_features, iterate_shards, read_index
from relearn.gates.expectations import describe_findings, has_errors, run_checks
from relearn.gates.feature_checks import FEATURE_CHECKS, make_feature_tables
from relearn.params.data import VerifyParams
from relearn.storage.files import write_json

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
    manifest, hashes = read_manifest(paths.MANIFEST), hash_features(paths.FEATURES)
    index = read_index(paths.FEATURES)
    tables = make_feature_tables(manifest, index, iterate_shards(paths.FEATURES))
    n_images = sum(row.view == "0" for row in index)
    findings = run_checks(tables, FEATURE_CHECKS, dict(params))
    passed = not has_errors(findings)
    report = {"passed": passed, "n_images": n_images, **hashes}
    report["findings"] = [finding._asdict() for finding in findings]
    write_json(paths.VERIFICATION_REPORT, report)
    summary = "\n".join(describe_findings(findings, f"{paths.FEATURES}: {len(index):,} rows of features", "verify"))
    if not passed:
        raise ValidationFailed(summary)
    log.info(summary)
