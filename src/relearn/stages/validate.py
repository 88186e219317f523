"""Stage `validate`: the gate between the images and all that is learned from them."""

import logging
from collections import Counter
from typing import Any

from relearn import paths
from relearn.dataset.corrections import count_corrections
from relearn.errors import ValidationFailed
from relearn.gates.checks import check_data, describe_verdict
from relearn.gates.expectations import Finding, has_errors
from relearn.gates.page import draw_page
from relearn.gates.reading import read_data
from relearn.gates.tables import Data, count_labels
from relearn.params.data import ValidateParams
from relearn.storage.files import hash_file, write_file, write_json

log = logging.getLogger(__name__)


def run(params: ValidateParams) -> None:
    """Write `reports/validation.json` and `reports/validation.html`, passed or not.

    Raises
    ------
    ValidationFailed
        A check failed whose severity is error; the text has a line for each check that failed.
    IntegrityError
        A file of `restructure` is missing or damaged.
    """
    data = read_data()
    findings = check_data(data, params)
    report = make_report(data, findings)
    write_json(paths.VALIDATION_REPORT, report)
    with write_file(paths.VALIDATION_PAGE) as file:
        file.write(draw_page(report, data.manifest, data.details, data.excluded, data.corrected).encode())
    summary = "\n".join(describe_verdict(findings, data.manifest, params))
    if has_errors(findings):
        raise ValidationFailed(summary)
    log.info(summary)


def make_report(data: Data, findings: list[Finding]) -> dict[str, Any]:
    """Return what `reports/validation.json` says of the data and of each check."""
    return {
        "passed": not has_errors(findings),
        "source": data.source,
        "manifest_sha256": hash_file(paths.MANIFEST),
        "compared_with": data.before._asdict() if data.before else None,
        "n_files": data.n_files,
        "n_images": len(data.manifest),
        "classes": count_labels(data.manifest),
        "excluded": dict(sorted(Counter(exclusion.kind for exclusion in data.excluded).items())),
        "corrections": count_corrections(data.corrected),
        "findings": [finding._asdict() for finding in findings],
    }
