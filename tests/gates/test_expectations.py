import pandas as pd
import pytest

from relearn.errors import ValidationFailed
from relearn.gates.expectations import Check, Finding, Table, has_errors, run_checks

pytestmark = pytest.mark.slow


def expect(column, **limits):
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column=column, **limits)


TABLE = Table(pd.DataFrame({"path": ["b", "a", "c"], "x": [1, 5, 9], "y": [1.0, None, 3.0]}), "rows")


def test_findings_come_in_the_order_of_the_checks_with_their_rows():
    checks = [
        Check("large", "error", "3 at least", "t", expect("x", min_value=3)),
        Check("small", "warn", "6 at most", "t", expect("x", max_value=6), lambda row: f"{row['path']}={row['x']}"),
        Check("never", "off", "nothing", "t", expect("x", max_value=0)),
        Check("gaps", "error", "2 at least", "u", expect("y", min_value=2), observed="what was counted"),
    ]
    assert run_checks({"t": TABLE, "u": TABLE}, checks) == [
        Finding("large", "error", "3 at least", "1 of 3 rows that fail", False, 1, ["b"], []),
        Finding("small", "warn", "6 at most", "1 of 3 rows that fail", False, 1, ["c=9"], []),
        Finding("never", "off", "nothing", "not looked at", True, 0, [], []),
        Finding("gaps", "error", "2 at least", "what was counted", False, 1, ["b"], []),
    ]


def test_equal_expectations_stay_two():
    checks = [Check(name, "error", f"wanted by {name}", "t", expect("x", min_value=3)) for name in ("one", "two")]
    assert [finding.name for finding in run_checks({"t": TABLE}, checks)] == ["one", "two"]


def test_empty_table_has_nothing_that_fails():
    (finding,) = run_checks(
        {"t": Table(TABLE.frame[:0], "rows")}, [Check("a", "error", "x", "t", expect("x", min_value=3))]
    )
    assert (finding.passed, finding.observed) == (True, "0 rows")


def test_check_that_cannot_be_run_is_told():
    with pytest.raises(ValidationFailed, match=r"lost: could not be checked: .*column \"z\""):
        run_checks({"t": TABLE}, [Check("lost", "warn", "x", "t", expect("z", min_value=1))])


def test_only_failures_that_are_errors_stop():
    finding = Finding("a", "warn", "x", "y", False, 1, [], [])
    assert not has_errors([finding, finding._replace(severity="error", passed=True)])
    assert has_errors([finding, finding._replace(severity="error")])
