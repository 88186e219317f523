"""Checks of tables by Great Expectations: what is wanted, and what was found, in words."""

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from relearn.errors import ValidationFailed
from relearn.runtime.text import escape_controls

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

N_ROWS_NAMED = 20  # in the report; the terminal names fewer
N_ROWS_SHOWN = 3
N_LINES = 15  # of failed checks on the terminal


Row = Mapping[Hashable, Any]


class Table(NamedTuple):
    """A data frame to check, and what its rows are called."""

    frame: pd.DataFrame
    unit: str


def name_path(row: Row) -> str:
    """Return the path of a row that is an image."""
    return str(row["path"])


class Check(NamedTuple):
    """An expectation of a table, and how a person is told of it.

    `severity` is error, warn or off; `wanted` says the expectation in words; `name_row` names a row that failed, and
    `list_images` tells which images show why. `observed`, where it is given, says better what was found than the
    number of rows does.
    """

    name: str
    severity: str
    wanted: str
    table: str
    expectation: "Expectation"
    name_row: Callable[[Row], str] = name_path
    list_images: Callable[[Row], list[str]] | None = None
    observed: str = ""


class Finding(NamedTuple):
    """What a check found: the first rows that failed, in the order of the table, and for each the images to look at."""

    name: str
    severity: str
    wanted: str
    observed: str
    passed: bool
    n_failed: int
    rows: list[str]
    images: list[list[str]]


def has_errors(findings: Iterable[Finding]) -> bool:
    """Tell whether a check failed whose severity is error."""
    return any(not finding.passed and finding.severity == "error" for finding in findings)


def describe_failure(finding: Finding) -> str:
    """Say of one failed check in one line: wanted, found, where."""
    shown = finding.rows[:N_ROWS_SHOWN]
    more = finding.n_failed - len(shown)
    rows = ", ".join(shown) + (f" and {more:,} more" if shown and more else "")
    text = f"{finding.name}: wanted {finding.wanted}, got {finding.observed}" + (f": {rows}" if rows else "")
    return escape_controls(text)


def describe_findings(findings: list[Finding], subject: str) -> list[str]:
    """Return the verdict on `subject`, and a line for each check that failed, errors first: at most 17 lines."""
    failed = sorted((finding for finding in findings if not finding.passed), key=lambda finding: finding.severity)
    n_errors = sum(finding.severity == "error" for finding in failed)
    n_off = sum(finding.severity == "off" for finding in findings)
    counts = {"failed": n_errors, "warned": len(failed) - n_errors, "off": n_off}
    verdict = ([] if n_errors else ["passed"]) + [f"{n} {word}" for word, n in counts.items() if n]
    lines = [f"{subject}, {len(findings) - n_off} checks: {', '.join(verdict)}"]
    lines += [f"  {finding.severity:5}  {describe_failure(finding)}" for finding in failed[:N_LINES]]
    return lines + ([f"  and {len(failed) - N_LINES} more"] if len(failed) > N_LINES else [])


def run_checks(tables: Mapping[str, Table], checks: list[Check]) -> list[Finding]:
    """Run the checks over their tables with Great Expectations, in memory; the findings come in the checks' order.

    A check that is off is not run, and its finding says so.
    """
    results: dict[str, Any] = {}
    for name, table in tables.items():
        if asked := [check for check in checks if check.table == name and check.severity != "off"]:
            results |= _run_suite(name, table.frame, asked)
    return [_read_result(check, results.get(check.name), tables[check.table].unit) for check in checks]


def _run_suite(name: str, frame: pd.DataFrame, checks: list[Check]) -> dict[str, Any]:
    """Run the checks of one table; return the results by the checks' names."""
    import great_expectations as gx

    _, asset = open_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    for check in checks:
        check.expectation.meta = {"check": check.name}
        # Expectations that are equal but for their meta are merged; their descriptions differ.
        check.expectation.description = f"{check.name}: {check.wanted}"
    suite = gx.ExpectationSuite(name=name, expectations=[check.expectation for check in checks])
    outcome = batch.validate(
        suite,
        # Listing every row that failed takes 20 s a check on a million rows; the first ones take none.
        result_format={
            "result_format": "BASIC",
            "include_unexpected_rows": True,
            "partial_unexpected_count": N_ROWS_NAMED,
        },
    )
    return {result.expectation_config.meta["check"]: result for result in outcome.results}


def open_asset(name: str) -> tuple[Any, Any]:
    """Return a Great Expectations context that leaves nothing on the disk and calls nobody, and an asset in it."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context, context.data_sources.add_pandas("tables").add_dataframe_asset(name)


def _read_result(check: Check, result: Any, unit: str) -> Finding:
    if result is None:
        return Finding(check.name, check.severity, check.wanted, "not looked at", True, 0, [], [])
    raise_exception(check, result.exception_info)
    found, passed = result.result, bool(result.success)
    if "element_count" not in found:  # an expectation of the table or of a column as a whole
        value = found["observed_value"]
        observed = check.observed or (", ".join(map(str, value)) if isinstance(value, list) else str(value))
        return Finding(check.name, check.severity, check.wanted, observed, passed, int(not passed), [], [])
    n_failed, n_rows = int(found["unexpected_count"]), int(found["element_count"])
    observed = f"{n_failed:,} of {n_rows:,} {unit} that fail" if n_failed else f"{n_rows:,} {unit}"
    failed = found["unexpected_rows"].head(N_ROWS_NAMED).to_dict("records") if n_failed else []
    return Finding(
        check.name,
        check.severity,
        check.wanted,
        check.observed or observed,
        passed,
        n_failed,
        [check.name_row(row) for row in failed],
        [list(group) for group in dict.fromkeys(tuple(check.list_images(row)) for row in failed)]
        if check.list_images
        else [],
    )


def raise_exception(check: Check, info: Mapping[str, Any]) -> None:
    """Raise what stopped a check; Great Expectations tells it at the top or below the name of a metric."""
    for part in (info, *(nested for nested in info.values() if isinstance(nested, Mapping))):
        if part.get("raised_exception"):
            raise ValidationFailed(f"{check.name}: could not be checked: {part['exception_message']}")
