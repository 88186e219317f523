"""The last committed data, which the gate compares new data with."""

import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """The data of a commit: which commit, and how many images each class had."""

    commit: str
    classes: dict[str, int]


def find_reference(
    reports: Iterable[tuple[str, bytes]], manifest_sha256: str, source: str
) -> tuple[Reference | None, bool]:
    """Return the newest data that passed the gate, came from this source, and differs from the present data.

    A source of another name is another data set, which a person has chosen. If the newest report is about the present
    data, its own reference is returned. So the gate finds the same before and after the commit, and in a clone without
    history.

    Parameters
    ----------
    reports
        Commit and content of the versions of `reports/validation.json`, the newest first.

    Returns
    -------
    The reference, and whether a commit holds the present data: so a person has accepted it.
    """
    for commit, content in reports:
        try:
            report = json.loads(content)
            if report["passed"] is not True or os.path.normpath(report["source"]) != os.path.normpath(source):
                continue
            if report["manifest_sha256"] != manifest_sha256:
                return _read_reference({"commit": commit, "classes": report["classes"]}), False
            return _read_reference(report["compared_with"]), True
        # Another version of this stage wrote the report, or something else did.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None, False


def _read_reference(record: dict[str, Any] | None) -> Reference | None:
    if record is None:
        return None
    return Reference(str(record["commit"]), {str(label): int(n) for label, n in record["classes"].items()})
