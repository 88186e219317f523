"""Stage `validate`: the gate between the images and all that is learned from them."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from relearn import paths
from relearn.errors import IntegrityError, ValidationFailed
from relearn.expectations import Check, Finding, Row, Table, describe_failure, has_errors, name_path, run_checks
from relearn.files import hash_file, read_csv, read_json, write_file, write_json
from relearn.fingerprints import read_hashes
from relearn.history import iterate_committed
from relearn.manifest import Exclusion, ManifestRow, Sighting
from relearn.near_duplicates import mark_near_duplicates
from relearn.page import draw_page
from relearn.params import ValidateParams
from relearn.tables import compare_classes, compare_splits, count_images, describe_images

log = logging.getLogger(__name__)

N_LINES = 16  # of failed checks on the terminal; with the verdict and what to do they are at most 20

# What a person has left out, by a name or a parameter, is not what went wrong with the files that were meant.
NOT_MEANT = {"hidden file", "outside the subfolder", "not listed"}


class Reference(NamedTuple):
    """The data of a commit: the manifest's hash, and how many images each class had."""

    manifest_sha256: str
    classes: dict[str, int]


class Data(NamedTuple):
    """All that the gate looks at: two tables with a row an image, as text, and what is known of their source."""

    manifest: pd.DataFrame
    sightings: pd.DataFrame
    hashes: np.ndarray
    excluded: list[Exclusion]
    source: str
    n_files: int
    before: Reference | None


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
    summary = "\n".join(describe_findings(findings, len(data.manifest)))
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
    if list(sightings.columns) != list(Sighting._fields) or not sightings["path"].equals(about):
        raise IntegrityError(
            f"{paths.SIGHTINGS}: wanted a row for each of {paths.MANIFEST} with the columns "
            f"{','.join(Sighting._fields)}; run `dvc repro --force restructure`"
        )
    hashes = read_hashes(paths.HASHES)
    if len(hashes) != len(manifest):
        raise IntegrityError(
            f"{paths.HASHES}: wanted {len(manifest)} rows, got {len(hashes)}; run `dvc repro -f restructure`"
        )
    record = read_json(paths.SOURCE, ("source", "n_files"))
    source = str(record["source"])
    before = find_reference(iterate_committed(paths.VALIDATION_REPORT), hash_file(paths.MANIFEST), source)
    excluded = [Exclusion(*row) for row in read_csv(paths.EXCLUDED, Exclusion._fields)]
    return Data(manifest, sightings, hashes, excluded, source, int(record["n_files"]), before)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, every cell as it stands; an empty one is missing."""
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file; run `dvc repro restructure`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise IntegrityError(f"{path}: wanted CSV, got {error}; run `dvc repro restructure`") from None


def find_reference(reports: Iterable[bytes], manifest_sha256: str, source: str) -> Reference | None:
    """Return the newest data that passed the gate, came from this source, and is not what there is now.

    A source of another name is another data set, which a person has chosen. The report of a commit's own data is
    skipped, so that the gate finds the same before and after that commit.

    Parameters
    ----------
    reports
        The committed versions of `reports/validation.json`, the newest first.
    """
    for content in reports:
        try:
            report = json.loads(content)
            found = Reference(report["manifest_sha256"], dict(report["classes"]))
            if report["passed"] is True and report["source"] == source and found.manifest_sha256 != manifest_sha256:
                return found
        except (ValueError, KeyError, TypeError):  # the report of another version of this stage
            continue
    return None


def describe_data(data: Data) -> dict[str, Any]:
    """Return what the report says of the data itself."""
    return {
        "passed": False,
        "source": data.source,
        "manifest_sha256": hash_file(paths.MANIFEST),
        "compared_with": data.before.manifest_sha256 if data.before else None,
        "n_files": data.n_files,
        "n_images": len(data.manifest),
        "classes": count_labels(data.manifest),
        "excluded": dict(sorted(Counter(exclusion.kind for exclusion in data.excluded).items())),
    }


def count_labels(manifest: pd.DataFrame) -> dict[str, int]:
    """Count the images of each class, ordered by name."""
    labels = manifest["label"].dropna() if "label" in manifest else pd.Series(dtype="str")
    return {str(label): int(n) for label, n in sorted(labels.value_counts().items())}


def describe_findings(findings: list[Finding], n_images: int) -> list[str]:
    """Return the verdict, the checks that failed, errors first, and where to read on: at most 20 lines."""
    failed = sorted((finding for finding in findings if not finding.passed), key=lambda finding: finding.severity)
    n_errors = sum(finding.severity == "error" for finding in failed)
    n_off = sum(finding.severity == "off" for finding in findings)
    verdict = f"{n_errors} failed, {len(failed) - n_errors} warned" if failed else "all passed"
    off = f", {n_off} off" if n_off else ""
    lines = [f"{paths.MANIFEST}: {n_images:,} images, {len(findings) - n_off} checks: {verdict}{off}"]
    lines += [f"  {finding.severity:5}  {describe_failure(finding)}" for finding in failed[:N_LINES]]
    if len(failed) > N_LINES:
        lines.append(f"  and {len(failed) - N_LINES} more")
    if n_errors:
        lines.append("  mend the data, or change the block validate of params.yaml")
    return [*lines, f"  {paths.VALIDATION_PAGE} shows it all"]


def check_data(data: Data, params: ValidateParams) -> list[Finding]:
    """Run every check, in the order of `params`."""
    return run_checks(*plan_validation(data, params))


def plan_validation(data: Data, params: ValidateParams) -> tuple[dict[str, Table], list[Check]]:
    """Return the tables and their checks; where the columns are wrong, there is nothing else to look at."""
    tables = {"manifest": Table(data.manifest, "images")}
    checks = [_plan_column_check(params)]
    if list(data.manifest.columns) == list(ManifestRow._fields):
        tables |= make_tables(data, params)
        checks += _plan_image_checks(tables["images"].frame, params) + _plan_file_checks(data, params)
        checks += _plan_class_checks(data, params)
    order = list(ValidateParams.model_fields)
    return tables, sorted(checks, key=lambda check: order.index(check.name))


def make_tables(data: Data, params: ValidateParams) -> dict[str, Table]:
    """Return the tables that the checks are about."""
    counts = count_images(data.manifest)
    classes = compare_classes(count_labels(data.manifest), data.before.classes if data.before else None)
    before = classes[classes["n_before"] > 0]
    n_meant = data.n_files - sum(exclusion.kind in NOT_MEANT for exclusion in data.excluded)
    n_lost = sum(exclusion.kind not in NOT_MEANT for exclusion in data.excluded)
    files = pd.DataFrame(
        {
            "n_unaccounted": [data.n_files - len(data.manifest) - len(data.excluded)],
            "excluded_share": [round(n_lost / max(n_meant, 1), 6)],
        }
    )
    images = describe_images(data.manifest, data.sightings)
    if params.near_duplicates.severity != "off":
        images = mark_near_duplicates(images, data.hashes, params.near_duplicates)
    return {
        "images": Table(images, "images"),
        "files": Table(files, "sets of files"),
        "counts": Table(counts, "classes in splits"),
        "splits": Table(compare_splits(counts), "splits"),
        "classes": Table(classes[(classes["n_images"] > 0) & classes["label"].notna()], "classes"),
        "before": Table(before[before["label"].notna()], "classes"),
        "sizes": Table(before, "classes and their sum"),
    }


def _plan_column_check(params: ValidateParams) -> Check:
    import great_expectations.expectations as gxe

    columns = list(ManifestRow._fields)
    expectation = gxe.ExpectTableColumnsToMatchOrderedList(column_list=columns)
    return Check("columns", params.columns.severity, f"the columns {', '.join(columns)}", "manifest", expectation)


def _plan_file_checks(data: Data, params: ValidateParams) -> list[Check]:
    import great_expectations.expectations as gxe

    n_kept, n_excluded = len(data.manifest), len(data.excluded)
    most = params.excluded_share.max
    return [
        Check(
            "counts_add_up",
            params.counts_add_up.severity,
            "as many files kept and excluded as found",
            "files",
            gxe.ExpectColumnMaxToBeBetween(column="n_unaccounted", min_value=0, max_value=0),
            observed=f"{n_kept:,} kept and {n_excluded:,} excluded of {data.n_files:,} found",
        ),
        Check(
            "excluded_share",
            params.excluded_share.severity,
            f"at most {most:.1%} of the files excluded, apart from those left out by name",
            "files",
            gxe.ExpectColumnMaxToBeBetween(column="excluded_share", max_value=most),
            observed=_describe_excluded(data.excluded),
        ),
    ]


def _plan_class_checks(data: Data, params: ValidateParams) -> list[Check]:
    """Plan the checks of classes in their splits, and against the last committed data."""
    import great_expectations.expectations as gxe

    def expect_between(column: str, least: float | None = None, most: float | None = None) -> gxe.Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most)

    def name_count(row: Row) -> str:
        return f"{row['split']}/{row['label']} ({row['n_images']:,})"

    def name_class(row: Row) -> str:
        return str(row["label"])

    n_classes, n_images = params.classes.min, params.min_images.min
    ratio, gap, loss = params.class_balance.max, params.split_balance.max, params.shrinkage.max
    unknown = "" if data.before else "no commit has other data of this source that passed"
    return [
        Check(
            "classes",
            params.classes.severity,
            f"at least {n_classes} classes",
            "classes",
            gxe.ExpectColumnUniqueValueCountToBeBetween(column="label", min_value=n_classes),
        ),
        Check(
            "class_names",
            params.class_names.severity,
            "names of classes that differ by more than upper and lower case",
            "classes",
            expect_between("n_of_name", most=1),
            name_class,
        ),
        Check(
            "every_class_in_every_split",
            params.every_class_in_every_split.severity,
            "an image of every class in every split",
            "counts",
            expect_between("n_images", 1),
            name_count,
        ),
        Check(
            "min_images",
            params.min_images.severity,
            f"at least {n_images:,} images of every class in every split",
            "counts",
            expect_between("n_images", n_images),
            name_count,
        ),
        Check(
            "class_balance",
            params.class_balance.severity,
            f"at most {ratio:g} times as many images in a split's largest class as in its smallest",
            "splits",
            expect_between("ratio", most=ratio),
            "{split} ({largest} {n_largest:,}, {smallest} {n_smallest:,})".format_map,
        ),
        Check(
            "split_balance",
            params.split_balance.severity,
            f"a class's share of a split within {gap:g} of its share of training",
            "counts",
            expect_between("share_gap", most=gap),
            "{split}/{label} ({share:.1%}, off by {share_gap:.1%})".format_map,
        ),
        Check(
            "vanished_classes",
            params.vanished_classes.severity,
            "an image of each class that there was in the last committed data",
            "before",
            expect_between("n_images", 1),
            name_class,
            observed=unknown,
        ),
        Check(
            "new_classes",
            params.new_classes.severity,
            "no class that there was not in the last committed data",
            "classes",
            expect_between("n_before", 1),
            name_class,
            observed=unknown,
        ),
        Check(
            "shrinkage",
            params.shrinkage.severity,
            f"at most {loss:.1%} fewer images than in the last committed data, in each class and in all",
            "sizes",
            expect_between("share_gone", most=loss),
            lambda row: "{} ({:,}, was {:,.0f})".format(row["label"] or "all", row["n_images"], row["n_before"]),
            observed=unknown,
        ),
    ]


def _describe_excluded(excluded: list[Exclusion]) -> str:
    kinds = Counter(exclusion.kind for exclusion in excluded)
    return ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common(3)) or "none"


def _describe_twins(images: pd.DataFrame) -> str:
    n_compared, n_left = int(images["is_compared"].sum()), int((~images["is_compared"]).sum())
    observed = f"{int((images['n_twins'] > 0).sum()):,} of {n_compared:,} images with one"
    return observed + (f"; {n_left:,} too small or too uniform to compare" if n_left else "")


def _plan_image_checks(images: pd.DataFrame, params: ValidateParams) -> list[Check]:
    """Plan the checks of single images, and of images against each other."""
    import great_expectations.expectations as gxe

    def expect_between(column: str, least: float | None = None, most: float | None = None) -> gxe.Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most)

    def expect_in(column: str, values: Sequence[str]) -> gxe.Expectation:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values))

    def plan(name: str, wanted: str, expectation: gxe.Expectation, detail: str = "", **options: Any) -> Check:
        """Plan a check that names a row by its path and `detail`, a format of the row's cells."""
        name_row = (lambda row: f"{row['path']} ({detail.format_map(row)})") if detail else name_path
        return Check(name, getattr(params, name).severity, wanted, "images", expectation, name_row, **options)

    def list_image(row: Row) -> list[str]:
        return [row["path"]]

    def list_copies(row: Row) -> list[str]:
        return list(images.loc[images["sha256"] == row["sha256"], "path"].head(4))

    width, height, ratio, near = params.width_px, params.height_px, params.aspect_ratio.max, params.near_duplicates
    formats, modes, contrast = params.formats.allowed, params.modes.allowed, params.contrast.min
    none = "^$"
    return [
        plan(
            "complete",
            "a value in every cell",
            gxe.ExpectColumnValuesToMatchRegex(column="missing", regex=none),
            "no {missing}",
        ),
        plan(
            "types",
            "whole positive numbers, SHA-256 in hexadecimal, known splits",
            gxe.ExpectColumnValuesToMatchRegex(column="mistyped", regex=none),
            "{mistyped}",
        ),
        plan("unique_paths", "a path once", expect_between("n_of_path", most=1)),
        plan(
            "copies_across_splits",
            "the same bytes in one split only",
            expect_between("n_splits", most=1),
            list_images=list_copies,
        ),
        plan(
            "copies_across_labels",
            "the same bytes under one label",
            expect_between("n_labels", most=1),
            list_images=list_copies,
        ),
        plan(
            "near_duplicates",
            "no copy of an image in a later split, re-encoded, resized, slightly cropped"
            + " or mirrored" * near.mirrored,
            expect_between("n_twins", most=0),
            "like {twin}, distance {distance:.0f}",
            list_images=lambda row: [row["path"], row["twin"]],
            observed=_describe_twins(images) if near.severity != "off" else "",
        ),
        plan(
            "width_px",
            f"{width.min:,} to {width.max:,} px of width",
            expect_between("width_px", width.min, width.max),
            "{width_px} px",
            list_images=list_image,
        ),
        plan(
            "height_px",
            f"{height.min:,} to {height.max:,} px of height",
            expect_between("height_px", height.min, height.max),
            "{height_px} px",
            list_images=list_image,
        ),
        plan(
            "aspect_ratio",
            f"sides of at most {ratio:g} to 1",
            expect_between("aspect_ratio", most=ratio),
            "{width_px} x {height_px} px",
            list_images=list_image,
        ),
        plan(
            "formats",
            f"a format of {', '.join(formats)}",
            expect_in("format", formats),
            "{format}",
            list_images=list_image,
        ),
        plan(
            "modes", f"a colour mode of {', '.join(modes)}", expect_in("mode", modes), "{mode}", list_images=list_image
        ),
        plan(
            "contrast",
            f"brightness that deviates by at least {contrast:g} of 255",
            expect_between("contrast", contrast),
            "{contrast:g}",
            list_images=list_image,
        ),
    ]
