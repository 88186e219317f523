"""What the gate wants of the images: each check an expectation, with its severity and threshold from the parameters."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset.manifest import Exclusion, ManifestRow, find_form
from relearn.errors import IntegrityError
from relearn.gates.expectations import Check, Row, Table, name_path
from relearn.gates.near_duplicates import mark_near_duplicates
from relearn.gates.tables import compare_classes, compare_splits, count_images, describe_images
from relearn.params import NearDuplicates, ValidateParams

N_COPIES_SHOWN = 6

# What a person has left out, by a name or a parameter, is not what went wrong with the files that were meant.
NOT_MEANT = {"hidden file", "system file", "outside the subfolder", "not listed"}


# The checks against the last committed data.
HISTORY = ("vanished_classes", "new_classes", "shrinkage")


# The column of groups that near duplicates must not be in two of.
NEAR = {"split": "near_duplicates_across_splits", "label": "near_duplicates_across_labels"}


class Reference(NamedTuple):
    """The data of a commit: which one, and how many images each class had."""

    commit: str
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
    is_accepted: bool


def plan_validation(data: Data, params: ValidateParams) -> tuple[dict[str, Table], list[Check]]:
    """Return the tables and their checks; where the columns are wrong, there is nothing else to look at.

    Raises
    ------
    IntegrityError
        The columns are wrong, and their check would let that pass.
    """
    tables = {"manifest": Table(data.manifest, "images")}
    checks = [_plan_column_check(params)]
    if list(data.manifest.columns) == list(ManifestRow._fields):
        tables |= make_tables(data, params)
        checks += _plan_image_checks(tables["images"].frame, params) + _plan_file_checks(data, params)
        checks += _plan_class_checks(data, params)
        checks += [_plan_near_check(tables["images"].frame, group, getattr(params, NEAR[group])) for group in NEAR]
    elif params.columns.severity != "error":
        raise IntegrityError(
            f"{paths.MANIFEST}: {checks[0].wanted} are missing, got {', '.join(data.manifest.columns)}; nothing can be "
            "checked; run `dvc repro --force restructure`"
        )
    order = list(ValidateParams.model_fields)
    return tables, sorted(checks, key=lambda check: order.index(check.name))


def make_tables(data: Data, params: ValidateParams) -> dict[str, Table]:
    """Return the tables that the checks are about."""
    counts = count_images(data.manifest)
    classes = compare_classes(count_labels(data.manifest), data.before.classes if data.before else None)
    before = classes[classes["n_before"] > 0]
    lost, n_meant = _list_lost(data)
    files = pd.DataFrame(
        {
            "n_unaccounted": [data.n_files - len(data.manifest) - len(data.excluded)],
            "excluded_share": [round(len(lost) / max(n_meant, 1), 6)],
        }
    )
    images = describe_images(data.manifest, data.sightings)
    for group, name in NEAR.items():
        rule = getattr(params, name)
        if rule.severity != "off":
            images = mark_near_duplicates(images, data.hashes, rule, group)
    return {
        "images": Table(images, "images"),
        "files": Table(files, "sets of files"),
        "class_counts": Table(counts, "pairs of split and class"),
        "splits": Table(compare_splits(counts), "splits"),
        "classes": Table(classes[(classes["n_images"] > 0) & classes["label"].notna()], "classes"),
        "classes_before": Table(before[before["label"].notna()], "classes"),
        "class_sizes": Table(before[before["n_images"] > 0], "counts"),
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
            f"at most {most:.1%} of the files excluded, apart from hidden and unlisted ones",
            "files",
            gxe.ExpectColumnMaxToBeBetween(column="excluded_share", max_value=most),
            observed=_describe_excluded(data),
        ),
    ]


def _plan_class_checks(data: Data, params: ValidateParams) -> list[Check]:
    """Plan the checks of classes in their splits, and against the last committed data."""
    import great_expectations.expectations as gxe

    def expect_between(column: str, least: float | None = None, most: float | None = None) -> gxe.Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most)

    def name_count(row: Row) -> str:
        return f"{row['split']}/{row['label']} ({row['n_images']:,})"

    n_classes, n_images = params.classes.min, params.min_images.min
    ratio, gap, loss = params.class_balance.max, params.split_balance.max, params.shrinkage.max
    unknown = "" if data.before else f"no commit here has other data of {data.source} that passed"
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
            _spell_class,
        ),
        Check(
            "every_class_in_every_split",
            params.every_class_in_every_split.severity,
            "an image of every class in every split",
            "class_counts",
            expect_between("n_images", 1),
            name_count,
        ),
        Check(
            "min_images",
            params.min_images.severity,
            f"at least {n_images:,} images of every class in every split",
            "class_counts",
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
            "class_counts",
            expect_between("share_gap", most=gap),
            "{split}/{label} ({share:.1%}, off by {share_gap:.1%})".format_map,
        ),
        Check(
            "vanished_classes",
            params.vanished_classes.severity,
            "an image of each class that there was in the last committed data",
            "classes_before",
            expect_between("n_images", 1),
            _name_class,
            observed=unknown,
        ),
        Check(
            "new_classes",
            params.new_classes.severity,
            "no class that there was not in the last committed data",
            "classes",
            expect_between("n_before", 1),
            _name_class,
            observed=unknown,
        ),
        Check(
            "shrinkage",
            params.shrinkage.severity,
            f"at most {loss:.1%} fewer images than in the last committed data, in each class and all of these",
            "class_sizes",
            expect_between("share_gone", most=loss),
            lambda row: f"{_name_class(row)} ({row['n_images']:,}, was {row['n_before']:,.0f})",
            observed=unknown,
        ),
    ]


def _name_class(row: Row) -> str:
    return "all of these classes" if pd.isna(row["label"]) else str(row["label"])


def _spell_class(row: Row) -> str:
    """Return a class with the normal form of its accents, which two names that look the same may differ in."""
    name = _name_class(row)
    return name if name.isascii() else f"{name} (accents in Unicode {find_form(name)})"


def _list_lost(data: Data) -> tuple[list[Exclusion], int]:
    """Return the excluded files that were meant to be images, and of how many that were meant."""
    lost = [exclusion for exclusion in data.excluded if exclusion.kind not in NOT_MEANT]
    return lost, data.n_files - len(data.excluded) + len(lost)


def _describe_excluded(data: Data) -> str:
    """Say how many files were excluded that were meant, and of the most frequent kinds an example."""
    lost, n_meant = _list_lost(data)
    kinds = Counter(exclusion.kind for exclusion in lost).most_common(3)
    examples = {exclusion.kind: exclusion for exclusion in reversed(lost)}
    told = [f"{n:,} {kind}, such as {examples[kind].path}" for kind, n in kinds]
    return f"{len(lost):,} of {n_meant:,} ({len(lost) / max(n_meant, 1):.1%})" + (
        f": {'; '.join(told)}" if told else ""
    )


def _plan_near_check(images: pd.DataFrame, group: str, rule: NearDuplicates) -> Check:
    import great_expectations.expectations as gxe

    has_twin, twin, distance = (f"{name}_{group}" for name in ("has_twin", "twin", "distance"))
    observed = ""
    if has_twin in images:
        n_left = int((~images["is_compared"]).sum())
        observed = f"{int(images[has_twin].sum()):,} of {len(images) - n_left:,} images with one"
        observed += f"; {n_left:,} too small or too uniform to compare" if n_left else ""
    return Check(
        NEAR[group],
        rule.severity,
        f"no copy in another {group}, re-encoded, resized, slightly cropped" + " or mirrored" * rule.mirrored,
        "images",
        gxe.ExpectColumnValuesToBeBetween(column=has_twin, max_value=0),
        lambda row: f"{row['path']} (like {row[twin]}, distance {row[distance]:.0f})",
        lambda row: [row["path"], row[twin]],
        observed,
    )


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
        copies = images[images["sha256"] == row["sha256"]]
        firsts = ~copies.duplicated(["split", "label"])
        return list(pd.concat([copies[firsts], copies[~firsts]])["path"].head(N_COPIES_SHOWN))

    width, height, ratio = params.width_px, params.height_px, params.aspect_ratio.max
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


def count_labels(manifest: pd.DataFrame) -> dict[str, int]:
    """Count the images of each class, ordered by name."""
    labels = manifest["label"].dropna() if "label" in manifest else pd.Series(dtype="str")
    return {str(label): int(n) for label, n in sorted(labels.value_counts().items())}
