"""Stage `validate`: the gate between the images and all that is learned from them."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset.manifest import TABLES, Exclusion, SourceDetails, hash_tables
from relearn.errors import IntegrityError, ValidationFailed
from relearn.gates.checks import HISTORY, Data, Reference, count_labels, plan_validation
from relearn.gates.expectations import Finding, describe_findings, has_errors, run_checks
from relearn.gates.page import draw_page
from relearn.images.fingerprints import read_hashes
from relearn.params import ValidateParams
from relearn.repository.history import iterate_committed
from relearn.storage.files import hash_file, read_csv, read_json, write_file, write_json

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
    report = describe_data(data) | {"passed": not has_errors(findings)}
    report["findings"] = [finding._asdict() for finding in findings]
    write_json(paths.VALIDATION_REPORT, report)
    with write_file(paths.VALIDATION_PAGE) as file:
        file.write(draw_page(report, data.manifest, data.sightings, data.excluded).encode())
    summary = "\n".join(describe_verdict(findings, len(data.manifest)))
    if has_errors(findings):
        raise ValidationFailed(summary)
    log.info(summary)


def read_data() -> Data:
    """Read what `restructure` wrote, and what the last commit was trained on.

    Raises
    ------
    IntegrityError
        A file is missing or damaged, or two of them are not about the same images.
    """
    manifest, sightings = read_table(paths.MANIFEST), read_table(paths.SIGHTINGS)
    about = manifest["path"] if "path" in manifest else sightings.get("path")
    if list(sightings.columns) != list(SourceDetails._fields) or not sightings["path"].equals(about):
        raise IntegrityError(
            f"{paths.SIGHTINGS}: wanted a row for each of {paths.MANIFEST} with the columns "
            f"{','.join(SourceDetails._fields)}; run `dvc repro --force restructure`"
        )
    contrast = pd.to_numeric(sightings["contrast"], errors="coerce")
    if not contrast.between(0, 127.5).all():
        row = int(np.flatnonzero(~contrast.between(0, 127.5))[0])
        raise IntegrityError(
            f"{paths.SIGHTINGS}: row {row + 2}: wanted a contrast of 0 to 127.5, got {sightings['contrast'][row]}; run "
            "`dvc repro --force restructure`"
        )
    hashes = read_hashes(paths.HASHES)
    if len(hashes) != len(manifest):
        raise IntegrityError(
            f"{paths.HASHES}: wanted {len(manifest)} rows, got {len(hashes)}; run `dvc repro -f restructure`"
        )
    record = read_json(paths.SOURCE, ("source", "n_files", *TABLES))
    source, n_files = record["source"], record["n_files"]
    if not isinstance(source, str) or type(n_files) is not int:
        raise IntegrityError(
            f"{paths.SOURCE}: wanted source as text and n_files as a whole number, got {source!r} and {n_files!r}; run "
            "`dvc repro --force restructure`"
        )
    committed = iterate_committed(paths.VALIDATION_REPORT)
    before, is_accepted = find_reference(committed, hash_file(paths.MANIFEST), source)
    excluded = [Exclusion(*row) for row in read_csv(paths.EXCLUDED, Exclusion._fields)]
    for key, found in hash_tables().items():
        if found != record[key]:
            raise IntegrityError(
                f"{TABLES[key]}: wanted sha256 {record[key]} ({paths.SOURCE}), got {found}; it was changed by hand; "
                "run `dvc repro --force restructure`"
            )
    return Data(manifest, sightings, hashes, excluded, source, n_files, before, is_accepted)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, every cell as it stands; an empty one is missing."""
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file; run `dvc repro restructure`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise IntegrityError(f"{path}: wanted CSV, got {error}; run `dvc repro restructure`") from None


def find_reference(
    reports: Iterable[tuple[str, bytes]], manifest_sha256: str, source: str
) -> tuple[Reference | None, bool]:
    """Return the newest data that passed the gate, came from this source, and is not what there is now.

    A source of another name is another data set, which a person has chosen. Where the newest report is about the data
    that there is now, what it was compared with is taken from it: so the gate finds the same before and after the
    commit, and in a clone without history.

    Parameters
    ----------
    reports
        Commit and content of the versions of `reports/validation.json`, the newest first.

    Returns
    -------
    The reference, and whether a commit holds the data that there is now: so a person has accepted it.
    """
    for commit, content in reports:
        try:
            report = json.loads(content)
            if report["passed"] is not True or os.path.normpath(report["source"]) != os.path.normpath(source):
                continue
            if report["manifest_sha256"] != manifest_sha256:
                return _read_reference({"commit": commit, "classes": report["classes"]}), False
            return _read_reference(report["compared_with"]), True
        # The report of another version of this stage, or of none.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None, False


def _read_reference(record: dict[str, Any] | None) -> Reference | None:
    if record is None:
        return None
    return Reference(str(record["commit"]), {str(label): int(n) for label, n in record["classes"].items()})


def describe_data(data: Data) -> dict[str, Any]:
    """Return what the report says of the data itself."""
    return {
        "passed": False,
        "source": data.source,
        "manifest_sha256": hash_file(paths.MANIFEST),
        "compared_with": data.before._asdict() if data.before else None,
        "n_files": data.n_files,
        "n_images": len(data.manifest),
        "classes": count_labels(data.manifest),
        "excluded": dict(sorted(Counter(exclusion.kind for exclusion in data.excluded).items())),
    }


def describe_verdict(findings: list[Finding], n_images: int) -> list[str]:
    """Return the verdict, what failed, and what to do about it: at most 20 lines."""
    lines = describe_findings(findings, f"{paths.MANIFEST}: {n_images:,} images")
    errors = [finding.name for finding in findings if has_errors([finding])]
    if errors:
        lines.append("  mend the data, or change the block validate of params.yaml")
    if meant := [name for name in errors if name in HISTORY]:
        overrides = " ".join(f"-S validate.{name}.severity=warn" for name in meant)
        lines.append(f"  if that is meant: dvc exp run {overrides}; then commit, and set it back to error")
    return [*lines, f"  {paths.VALIDATION_PAGE} shows it all"]


def check_data(data: Data, params: ValidateParams) -> list[Finding]:
    """Run every check, in the order of `params`.

    What differs from the last committed data is no error once a commit holds it.
    """
    findings = run_checks(*plan_validation(data, params))
    if not data.is_accepted:
        return findings
    return [
        finding._replace(severity="warn")
        if finding.name in HISTORY and finding.severity == "error" and not finding.passed
        else finding
        for finding in findings
    ]
