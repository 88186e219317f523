"""Suites of Great Expectations in files: a person's own checks, and the built-in ones to be read and run elsewhere."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relearn.dataset.manifest import ManifestRow
from relearn.errors import ParamsError
from relearn.gates.expectations import Check, Row, Table, choose_rules, make_suite, start_quietly
from relearn.params.data import Rule
from relearn.storage.files import read_json, write_csv, write_json

if TYPE_CHECKING:
    import pandas as pd

# What an own check may be about, one row per image.
COLUMNS = (*ManifestRow._fields, "aspect_ratio", "contrast")
ADVICE = "docs/gates.md shows how one is made"


def read_own_checks(path: Path) -> tuple[dict[str, Check], dict[str, Rule]]:
    """Read a suite as Great Expectations writes it: a check of the table `own`, and its rule, for each expectation.

    The severity `critical` stops the pipeline; `warning` and `info` are reported.

    Raises
    ------
    ParamsError
        The file is no suite, or one of its expectations does not exist or lacks an option.
    """
    gx = start_quietly()
    content = read_json(path, ("name", "expectations"))
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        # `ExpectationSuite` itself would only log one that does not exist, and leave it out.
        expectations = [ExpectationConfiguration(**entry).to_domain_obj() for entry in content["expectations"]]
    except (TypeError, ValueError, AttributeError, gx.exceptions.GreatExpectationsError) as error:
        got = "; ".join(line.strip() for line in str(find_first_cause(error)).splitlines()[:3]) or type(error).__name__
        raise ParamsError(where=path, wanted="a suite of Great Expectations", got=got, advice=ADVICE) from None
    checks, rules = {}, {}
    for number, expectation in enumerate(expectations, start=1):
        name = f"own_{number}"
        checks[name] = Check("own", describe_expectation(expectation), _return_it(expectation), list_images=_list_image)
        rules[name] = Rule(severity="error" if expectation.severity == "critical" else "warn")
    return checks, rules


def find_first_cause(error: BaseException) -> BaseException:
    """Return the error that led to the others: Great Expectations puts whole tracebacks into its texts."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def describe_expectation(expectation: Any) -> str:
    """Return what a person wrote of an expectation, or its name and options as in Great Expectations' gallery."""
    config = expectation.configuration
    options = ", ".join(f"{key}={value!r}" for key, value in config.kwargs.items())
    return expectation.description or f"{config.type}({options})"


def _return_it(expectation: Any) -> Callable[[Rule], Any]:
    return lambda _: expectation


def _list_image(row: Row, _: "pd.DataFrame") -> list[str]:
    return [row["path"]]


def write_suites(
    folder: Path, tables: Mapping[str, Table], checks: Mapping[str, Check], rules: Mapping[str, Rule]
) -> list[Path]:
    """Write for each table that has checks `TABLE.csv` and `TABLE.json`, its suite; return the paths of the suites."""
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    start_quietly().get_context(mode="ephemeral")  # without one no suite can be made
    for name, table in tables.items():
        if asked := choose_rules(name, checks, rules):
            write_csv(folder / f"{name}.csv", list(table.frame.columns), table.frame.itertuples(index=False))
            written.append(folder / f"{name}.json")
            write_json(written[-1], make_suite(name, checks, asked).to_json_dict())
    return written
