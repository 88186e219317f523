"""Stage `validate`: the gate between the images and all that is learned from them."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from relearn import paths
from relearn.errors import IntegrityError, ValidationFailed
from relearn.files import hash_file, write_json
from relearn.manifest import SPLITS, ManifestRow
from relearn.params import ValidateParams

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

log = logging.getLogger(__name__)

N_ROWS_NAMED = 20  # in the report; the terminal names fewer
N_ROWS_SHOWN = 3

NUMBERS = ("bytes", "width_px", "height_px")


class Check(NamedTuple):
    """An expectation of a table, and what it wants in words."""

    name: str
    wanted: str
    expectation: "Expectation"


class Finding(NamedTuple):
    """What a check found. `rows` names the first rows that failed, in the order of the table."""

    name: str
    wanted: str
    observed: str
    passed: bool
    n_failed: int
    rows: list[str]


def run(params: ValidateParams) -> None:
    """Write `reports/validation.json`, passed or not.

    Raises
    ------
    ValidationFailed
        At least one expectation is not met; a line for each.
    """
    manifest = read_table(paths.MANIFEST)
    findings = check_manifest(manifest, params)
    failed = [finding for finding in findings if not finding.passed]
    report = {
        "passed": not failed,
        "n_images": len(manifest),
        "manifest_sha256": hash_file(paths.MANIFEST),
        "findings": [finding._asdict() for finding in findings],
    }
    write_json(paths.VALIDATION_REPORT, report)
    if failed:
        lines = "".join(f"\n  {describe_failure(finding)}" for finding in failed)
        raise ValidationFailed(
            f"{paths.MANIFEST}: {len(failed)} of {len(findings)} expectations failed; mend the data or change the "
            f"block validate of params.yaml{lines}"
        )
    log.info("%s: %s images, all %d expectations met", paths.MANIFEST, f"{len(manifest):,}", len(findings))


def describe_failure(finding: Finding) -> str:
    """Say of one failed check in one line: wanted, found, where."""
    more = finding.n_failed - N_ROWS_SHOWN
    rows = ", ".join(finding.rows[:N_ROWS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    return f"{finding.name}: wanted {finding.wanted}, got {finding.observed}" + (f": {rows}" if rows else "")


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, apart from the manifest's numbers; a cell that is empty or no number is missing."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file; run `dvc repro restructure`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise IntegrityError(f"{path}: wanted CSV, got {error}; run `dvc repro restructure`") from None
    for column in NUMBERS:
        if column in table:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    return table


def check_manifest(manifest: pd.DataFrame, params: ValidateParams) -> list[Finding]:
    """Check a manifest; the other checks wait until the columns are right."""
    findings = run_checks(manifest, _plan_schema_checks(), "path")
    if findings[0].passed:
        contents = manifest.groupby("sha256", dropna=False)
        images = manifest.assign(
            n_splits=contents["split"].transform("nunique"), n_labels=contents["label"].transform("nunique")
        )
        findings += run_checks(images, _plan_image_checks(params), "path")
        findings += run_checks(count_images(manifest), _plan_count_checks(params), "class_in_split")
    return findings


def count_images(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count the images of every class in every split, also where there is none: class_in_split, n_images."""
    labels = sorted(manifest["label"].dropna().unique())
    counts = manifest.groupby(["split", "label"]).size()
    counts = counts.reindex(pd.MultiIndex.from_product([SPLITS, labels], names=["split", "label"]), fill_value=0)
    return pd.DataFrame(
        {
            "class_in_split": [f"{split}/{label} ({n})" for (split, label), n in counts.items()],
            "label": [label for _, label in counts.index],
            "n_images": counts.to_numpy(),
        }
    )


def _plan_schema_checks() -> list[Check]:
    import great_expectations.expectations as gxe

    columns = list(ManifestRow._fields)
    wanted = f"the columns {', '.join(columns)}"
    return [Check("columns", wanted, gxe.ExpectTableColumnsToMatchOrderedList(column_list=columns))]


def _plan_image_checks(params: ValidateParams) -> list[Check]:
    import great_expectations.expectations as gxe

    checks = [
        Check(f"complete_{column}", f"a {column} in every row", gxe.ExpectColumnValuesToNotBeNull(column=column))
        for column in ManifestRow._fields
    ]
    checks += [
        Check("unique_paths", "a path once", gxe.ExpectColumnValuesToBeUnique(column="path")),
        Check(
            "known_splits",
            f"a split of {', '.join(SPLITS)}",
            gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS)),
        ),
        Check(
            "hashes",
            "64 hexadecimal digits of a SHA-256",
            gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
        ),
        Check(
            "one_label_an_image",
            "the same bytes under one label",
            gxe.ExpectColumnValuesToBeBetween(column="n_labels", max_value=1),
        ),
        Check(
            "modes",
            f"a colour mode of {', '.join(params.modes)}",
            gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=params.modes),
        ),
        Check(
            "width",
            f"at least {params.min_width_px} px of width",
            gxe.ExpectColumnValuesToBeBetween(column="width_px", min_value=params.min_width_px),
        ),
        Check(
            "height",
            f"at least {params.min_height_px} px of height",
            gxe.ExpectColumnValuesToBeBetween(column="height_px", min_value=params.min_height_px),
        ),
    ]
    if params.duplicates == "fail":
        wanted = "the same bytes in one split only"
        expectation = gxe.ExpectColumnValuesToBeBetween(column="n_splits", max_value=1)
        checks.append(Check("one_split_an_image", wanted, expectation))
    return checks


def _plan_count_checks(params: ValidateParams) -> list[Check]:
    import great_expectations.expectations as gxe

    checks = [
        Check(
            "classes",
            "at least 2 classes",
            gxe.ExpectColumnUniqueValueCountToBeBetween(column="label", min_value=2),
        ),
        Check(
            "every_class_in_every_split",
            "an image of every class in every split",
            gxe.ExpectColumnValuesToBeBetween(column="n_images", min_value=1),
        ),
    ]
    if params.min_images > 1:  # with 1 it would be the expectation above, and Great Expectations merges equal ones
        wanted = f"at least {params.min_images} images of every class in every split"
        expectation = gxe.ExpectColumnValuesToBeBetween(column="n_images", min_value=params.min_images)
        checks.append(Check("min_images", wanted, expectation))
    return checks


def run_checks(table: pd.DataFrame, checks: list[Check], key: str) -> list[Finding]:
    """Run expectations over a table with Great Expectations, in memory; the findings come in the order of the checks.

    Parameters
    ----------
    key : str
        The column whose values name a row to a person.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = context.data_sources.add_pandas("manifest").add_dataframe_asset("table")
    suite = gx.ExpectationSuite(name="gate")
    for check in checks:
        check.expectation.meta = {"check": check.name}  # results come in an order of their own
        suite.add_expectation(check.expectation)
    validation = gx.ValidationDefinition(
        name="gate", data=batch.add_batch_definition_whole_dataframe("whole"), suite=context.suites.add(suite)
    )
    checkpoint = gx.Checkpoint(
        name="gate",
        validation_definitions=[context.validation_definitions.add(validation)],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [key]},
    )
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
    (run_result,) = outcome.run_results.values()
    results: dict[str, Any] = {}
    for result in run_result.results:
        assert result.expectation_config is not None
        results[result.expectation_config.meta["check"]] = result
    return [_read_result(check, results[check.name], key) for check in checks]


def _read_result(check: Check, result: Any, key: str) -> Finding:
    if result.exception_info.get("raised_exception"):
        raise ValidationFailed(f"{check.name}: could not be checked: {result.exception_info['exception_message']}")
    found = result.result
    if "element_count" not in found:  # an expectation of the table or of a column as a whole
        value = found["observed_value"]
        observed = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return Finding(check.name, check.wanted, observed, bool(result.success), int(not result.success), [])
    rows = [str(row[key]) for row in found.get("unexpected_index_list") or []]
    n_failed, n_rows = int(found["unexpected_count"]), int(found["element_count"])
    observed = f"{n_failed:,} of {n_rows:,} rows without" if n_failed else f"{n_rows:,} rows"
    return Finding(check.name, check.wanted, observed, bool(result.success), n_failed, rows[:N_ROWS_NAMED])
