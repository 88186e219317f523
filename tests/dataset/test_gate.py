"""Nothing reads images that did not pass `validate`."""

import pytest

from relearn import paths
from relearn.dataset.gate import check_gate
from relearn.dataset.manifest import write_manifest
from relearn.errors import IntegrityError, ValidationFailed
from relearn.storage.files import hash_file, write_json


def write_gate(passed=True, sha256=None):
    write_manifest(paths.MANIFEST, [])
    write_json(paths.VALIDATION_REPORT, {"passed": passed, "manifest_sha256": sha256 or hash_file(paths.MANIFEST)})


def test_gate_opens_for_the_manifest_that_passed(workspace):
    write_gate()
    check_gate()


def test_gate_stays_shut(workspace):
    with pytest.raises(IntegrityError, match=r"reports/validation\.json: no such file; run `dvc repro`"):
        check_gate()
    write_gate(passed=False)
    with pytest.raises(ValidationFailed, match=r"the data did not pass: see reports/validation\.json"):
        check_gate()
    write_gate(sha256="0" * 64)
    with pytest.raises(ValidationFailed, match=r"is about another data/manifest\.csv than the one here"):
        check_gate()
