import pandas as pd
import pytest

from relearn.errors import ValidationFailed
from relearn.gates.expectations import Check, Finding, Table, expect, has_errors, run_checks
from relearn.params.data import AllowedFormats, Range, Rule

pytestmark = pytest.mark.slow


TABLE = Table(pd.DataFrame({"path": ["b", "a", "c"], "x": [1, 5, 9], "y": [1.0, None, 3.0]}), "rows", "a note")
ERROR, WARN, OFF = (Rule(severity=severity) for severity in ("error", "warn", "off"))


def expect_between(column, **options):
    return expect("ColumnValuesToBeBetween", column=column, **options)


def test_findings_come_in_the_order_of_the_rules_with_their_rows():
    checks = {
        "gaps": Check("u", "2 at least", expect_between("y", min_value=2), observe=lambda table: table.note),
        "large": Check("t", "3 at least", expect_between("x", min_value=3)),
        "never": Check("t", "nothing", expect_between("x", max_value=0)),
        "small": Check("t", "6 at most", expect_between("x", max_value=6), "{path}={x}"),
    }
    rules = {"large": ERROR, "small": WARN, "never": OFF, "gaps": ERROR}
    assert run_checks({"t": TABLE, "u": TABLE}, checks, rules) == [
        Finding("large", "error", "3 at least", "1 of 3 rows that fail", False, 1, ["b"], []),
        Finding("small", "warn", "6 at most", "1 of 3 rows that fail", False, 1, ["c=9"], []),
        Finding("never", "off", "nothing", "not looked at", True, 0, [], []),
        Finding("gaps", "error", "2 at least", "a note", False, 1, ["b"], []),
    ]


def test_thresholds_of_the_rule_are_those_of_the_expectation():
    checks = {
        "x": Check("t", lambda rule: f"{rule.min} to {rule.max}", expect_between("x")),
        "path": Check(
            "t",
            lambda rule: f"one of {rule.allowed}",
            expect("ColumnValuesToBeInSet", column="path"),
            list_images=lambda row, frame: [row["path"], frame["path"][2]],
        ),
    }
    rules = {
        "x": Range(severity="error", min=5, max=8),
        "path": AllowedFormats.model_construct(severity="error", allowed=["b", "c"]),
    }
    between, among = run_checks({"t": TABLE}, checks, rules)
    assert (between.wanted, between.rows) == ("5 to 8", ["b", "c"])
    assert (among.wanted, among.rows, among.images) == ("one of ['b', 'c']", ["a"], [["a", "c"]])


def test_equal_expectations_stay_two():
    checks = {name: Check("t", f"wanted by {name}", expect_between("x", min_value=3)) for name in ("one", "two")}
    findings = run_checks({"t": TABLE}, checks, {"one": ERROR, "two": ERROR})
    assert [finding.name for finding in findings] == ["one", "two"]


def test_empty_table_has_nothing_that_fails():
    checks = {"a": Check("t", "x", expect_between("x", min_value=3))}
    (finding,) = run_checks({"t": Table(TABLE.frame[:0], "rows")}, checks, {"a": ERROR})
    assert (finding.passed, finding.observed) == (True, "0 rows")


def test_check_that_cannot_be_run_is_reported():
    checks = {"lost": Check("t", "x", expect_between("z", min_value=1))}
    with pytest.raises(ValidationFailed, match=r"lost: could not be checked: .*column \"z\""):
        run_checks({"t": TABLE}, checks, {"lost": WARN})


def test_only_failures_that_are_errors_stop():
    finding = Finding("a", "warn", "x", "y", False, 1, [], [])
    assert not has_errors([finding, finding._replace(severity="error", passed=True)])
    assert has_errors([finding, finding._replace(severity="error")])
