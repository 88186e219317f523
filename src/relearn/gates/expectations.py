"""Checks of tables by Great Expectations: what is wanted, and what was found, in words."""

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from relearn.errors import ValidationFailed
from relearn.params.data import Rule
from relearn.runtime.text import escape_controls

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

N_ROWS_NAMED = 20  # in the report; the terminal names fewer
N_ROWS_SHOWN = 3
N_LINES = 15  # of failed checks on the terminal

# What Great Expectations calls the severities, and the thresholds of a rule.
SEVERITIES = {"error": "critical", "warn": "warning"}
OPTIONS = {"min": "min_value", "max": "max_value", "allowed": "value_set"}

Row = Mapping[Hashable, Any]


class Table(NamedTuple):
    """A data frame to check, what its rows are called, and a note that checks can report instead of their number."""

    frame: pd.DataFrame
    unit: str
    note: str = ""


class Check(NamedTuple):
    """A check of a table. Its name and its rule (severity and thresholds) stand in the parameters.

    Parameters
    ----------
    table
        The name of the table.
    wanted
        The sentence of what is wanted, or what makes it from the rule.
    expect
        Makes the expectation from the rule; see `expect`.
    row_format
        How a failed row is named: a format of its cells.
    list_images
        Returns, of a failed row and its frame, the paths of the images that show why it failed.
    observe
        Returns what was found, if the number of rows does not say it best.
    compares_commits
        Whether the check compares with the last committed data, so that a commit accepts what failed.
    """

    table: str
    wanted: str | Callable[[Any], str]
    expect: Callable[[Rule], "Expectation"]
    row_format: str = "{path}"
    list_images: Callable[[Row, pd.DataFrame], list[str]] | None = None
    observe: Callable[[Table], str] | None = None
    compares_commits: bool = False

    def describe(self, rule: Rule) -> str:
        """Return the sentence of what is wanted."""
        return self.wanted if isinstance(self.wanted, str) else self.wanted(rule)


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


def expect(kind: str, **options: Any) -> Callable[[Rule], "Expectation"]:
    """Return what makes an expectation from a rule.

    Parameters
    ----------
    kind
        The name of the expectation in Great Expectations, without Expect.
    options
        Its options, in addition to the thresholds of the rule (min, max, allowed).
    """

    def _make_expectation(rule: Rule) -> "Expectation":
        import great_expectations.expectations as gxe

        thresholds = {OPTIONS[key]: value for key, value in rule if key in OPTIONS}
        expectation: Expectation = getattr(gxe, f"Expect{kind}")(**thresholds, **options)
        return expectation

    return _make_expectation


def has_errors(findings: Iterable[Finding]) -> bool:
    """Return whether a check failed whose severity is error."""
    return any(not finding.passed and finding.severity == "error" for finding in findings)


def describe_failure(finding: Finding) -> str:
    """Describe a failed check in one line: wanted, got, where."""
    shown = finding.rows[:N_ROWS_SHOWN]
    more = finding.n_failed - len(shown)
    rows = ", ".join(shown) + (f" and {more:,} more" if shown and more else "")
    text = f"{finding.name}: wanted {finding.wanted}, got {finding.observed}" + (f": {rows}" if rows else "")
    return escape_controls(text)


def describe_findings(
    findings: list[Finding], subject: str, block: str, advice: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Return the verdict on `subject`, the checks that failed, errors first, and what to do: at most 18 lines.

    Parameters
    ----------
    block
        The block of `params.yaml` that has the rules.
    advice
        What to do about an error, by the name of its check.
    """
    failed = sorted((finding for finding in findings if not finding.passed), key=lambda finding: finding.severity)
    n_errors = sum(finding.severity == "error" for finding in failed)
    n_off = sum(finding.severity == "off" for finding in findings)
    counts = {"failed": n_errors, "warned": len(failed) - n_errors, "off": n_off}
    verdict = ([] if n_errors else ["passed"]) + [f"{n} {word}" for word, n in counts.items() if n]
    lines = [f"{subject}, {len(findings) - n_off} checks: {', '.join(verdict)}"]
    for finding in failed[:N_LINES]:
        hint = advice.get(finding.name) if finding.severity == "error" else None
        lines.append(f"  {finding.severity:5}  {describe_failure(finding)}" + (f"; {hint}" if hint else ""))
    lines += [f"  and {len(failed) - N_LINES} more"] * (len(failed) > N_LINES)
    return lines + [f"  fix the data, or change the block {block} of params.yaml"] * (n_errors > 0)


def run_checks(tables: Mapping[str, Table], checks: Mapping[str, Check], rules: Mapping[str, Rule]) -> list[Finding]:
    """Run the check of each rule over its table with Great Expectations, in memory.

    The findings come in the order of the rules. A check that is off is not run, and its finding says so.

    Raises
    ------
    ValidationFailed
        A check could not be run.
    """
    results: dict[str, Any] = {}
    for name, table in tables.items():
        if asked := choose_rules(name, checks, rules):
            results |= _run_suite(name, table.frame, checks, asked)
    return [
        _read_result(name, checks[name], rule, results.get(name), tables[checks[name].table])
        for name, rule in rules.items()
    ]


def choose_rules(table: str, checks: Mapping[str, Check], rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return the rules of the checks of a table that are not off."""
    return {name: rule for name, rule in rules.items() if checks[name].table == table and rule.severity != "off"}


def _run_suite(
    table: str, frame: pd.DataFrame, checks: Mapping[str, Check], rules: Mapping[str, Rule]
) -> dict[str, Any]:
    """Run the checks of one table; return the results by the names of the checks."""
    batch = _open_batch(table, frame)
    outcome = batch.validate(
        make_suite(table, checks, rules),
        # Listing every row that failed takes 20 s a check on a million rows; the first ones take none.
        result_format={
            "result_format": "BASIC",
            "include_unexpected_rows": True,
            "partial_unexpected_count": N_ROWS_NAMED,
        },
    )
    return {result.expectation_config.meta["check"]: result for result in outcome.results}


def make_suite(name: str, checks: Mapping[str, Check], rules: Mapping[str, Rule]) -> Any:
    """Return the suite of Great Expectations that has these checks with these rules."""
    suite = start_quietly().ExpectationSuite(name=name)
    from great_expectations.expectations.metadata_types import FailureSeverity

    for check, rule in rules.items():
        expectation = checks[check].expect(rule)
        expectation.meta = {"check": check}
        # Expectations that are equal but for their meta are merged; their descriptions differ.
        expectation.description = f"{check}: {checks[check].describe(rule)}"
        expectation.severity = FailureSeverity(SEVERITIES[rule.severity])
        suite.add_expectation(expectation)
    return suite


def start_quietly() -> Any:
    """Import Great Expectations so that it calls nobody."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return gx


def _open_batch(table: str, frame: pd.DataFrame) -> Any:
    """Return a frame as a batch of a context that leaves nothing on the disk and calls nobody."""
    gx = start_quietly()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset(table)
    return asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})


def _read_result(name: str, check: Check, rule: Rule, result: Any, table: Table) -> Finding:
    finding = Finding(name, rule.severity, check.describe(rule), "not looked at", True, 0, [], [])
    if result is None:
        return finding
    _raise_exception(name, result.exception_info)
    found, passed = result.result, bool(result.success)
    said = check.observe(table) if check.observe else ""
    if "element_count" not in found:  # an expectation of the table or of a column as a whole
        value = found["observed_value"]
        observed = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return finding._replace(observed=said or observed, passed=passed, n_failed=int(not passed))
    n_failed, n_rows = int(found["unexpected_count"]), int(found["element_count"])
    observed = f"{n_failed:,} of {n_rows:,} {table.unit} that fail" if n_failed else f"{n_rows:,} {table.unit}"
    failed = found["unexpected_rows"].head(N_ROWS_NAMED).to_dict("records") if n_failed else []
    images = [tuple(check.list_images(row, table.frame)) for row in failed] if check.list_images else []
    return finding._replace(
        observed=said or observed,
        passed=passed,
        n_failed=n_failed,
        rows=[check.row_format.format_map(row) for row in failed],
        images=[list(group) for group in dict.fromkeys(images)],
    )


def _raise_exception(name: str, info: Mapping[str, Any]) -> None:
    """Raise what stopped a check. Great Expectations reports it at the top or below the name of a metric."""
    for part in (info, *(nested for nested in info.values() if isinstance(nested, Mapping))):
        if part.get("raised_exception"):
            raise ValidationFailed(f"could not be checked: {part['exception_message']}", where=name)
