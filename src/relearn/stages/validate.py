"""Stage `validate`: the gate between the images and all that is learned from them."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.dataset.manifest import TABLES, Exclusion, hash_tables
from relearn.errors import IntegrityError, ValidationFailed
from relearn.gates.checks import check_data, describe_verdict
from relearn.gates.expectations import Finding, has_errors
from relearn.gates.page import draw_page
from relearn.gates.reference import find_reference
from relearn.gates.tables import Data, check_tables, count_labels
from relearn.images.fingerprints import read_hashes
from relearn.params.data import ValidateParams
from relearn.repository.history import iterate_committed
from relearn.storage.files import hash_file, read_csv, read_json, write_file, write_json

log = logging.getLogger(__name__)

AGAIN = "run `dvc repro --force restructure`"


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
        file.write(draw_page(report, data.manifest, data.details, data.excluded).encode())
    summary = "\n".join(describe_verdict(findings, data.manifest, params))
    if has_errors(findings):
        raise ValidationFailed(summary)
    log.info(summary)


def read_data() -> Data:
    """Read what `restructure` wrote, and the last committed data to compare it with.

    Raises
    ------
    IntegrityError
        A file is missing or damaged, or two of them are not about the same images.
    """
    manifest, details, hashes = read_table(paths.MANIFEST), read_table(paths.SIGHTINGS), read_hashes(paths.HASHES)
    check_tables(manifest, details, hashes)
    record = read_json(paths.SOURCE, ("source", "n_files", "lost_classes", *TABLES))
    source, n_files, lost = record["source"], record["n_files"], record["lost_classes"]
    is_counted = isinstance(lost, dict) and all(type(n) is int for n in [n_files, *lost.values()])
    if not isinstance(source, str) or not is_counted:
        raise IntegrityError(
            where=paths.SOURCE,
            wanted="source as text, n_files as a whole number, and lost_classes as a number for each class",
            got=f"{source!r}, {n_files!r} and {lost!r}",
            advice=AGAIN,
        )
    excluded = [Exclusion(*row) for row in read_csv(paths.EXCLUDED, Exclusion._fields)]
    for key, found in hash_tables().items():
        if found != record[key]:
            raise IntegrityError(
                where=TABLES[key],
                wanted=f"sha256 {record[key]} ({paths.SOURCE})",
                got=f"{found}, because it was changed by hand",
                advice=AGAIN,
            )
    committed = iterate_committed(paths.VALIDATION_REPORT)
    before, is_accepted = find_reference(committed, hash_file(paths.MANIFEST), source)
    images = list(manifest["sha256"].fillna("")) if "sha256" in manifest else []
    groups = read_groups(paths.SPLITS, images)
    return Data(manifest, details, hashes, excluded, source, n_files, before, is_accepted, groups, lost)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, every cell as it stands; an empty one is missing."""
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise IntegrityError("no such file", where=path, advice="run `dvc repro restructure`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise IntegrityError(where=path, wanted="CSV", got=error, advice=AGAIN) from None


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
        "findings": [finding._asdict() for finding in findings],
    }
