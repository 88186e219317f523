"""`relearn suite`: the checks of the gate as files of Great Expectations."""

from pathlib import Path

from relearn.gates.checks import CHECKS
from relearn.gates.expectations import Table
from relearn.gates.reading import read_data
from relearn.gates.suites import write_suites
from relearn.gates.tables import make_tables
from relearn.params.data import ValidateParams


def export_suites(folder: Path, params: ValidateParams) -> list[str]:
    """Write each table of the gate as CSV, and its checks as a suite; return a line for each suite.

    Raises
    ------
    IntegrityError
        What `restructure` wrote is missing or damaged.
    """
    data = read_data()
    tables = {"manifest": Table(data.manifest, "images")} | make_tables(data, params)
    written = write_suites(folder, tables, CHECKS, params.rules)
    return [f"{path}: the checks of {path.with_suffix('.csv').name}" for path in written]
