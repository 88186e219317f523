"""What the gate wants of the images: a row for each check. Its rule is the field of that name in the parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.errors import IntegrityError
from relearn.gates import suites
from relearn.gates.expectations import Check, Finding, Row, Table, describe_findings, expect, has_errors, run_checks
from relearn.gates.minimum import advise_more_images
from relearn.gates.tables import Data, make_tables
from relearn.params.data import Rule, ValidateParams

N_COPIES_SHOWN = 6

COLUMNS = list(ManifestRow._fields)


def _expect_values(column: str, **options: Any) -> Callable[[Rule], Any]:
    """Expect the values of a column between the thresholds of the rule, or those given."""
    return expect("ColumnValuesToBeBetween", column=column, **options)


def _expect_one_of(column: str, **options: Any) -> Callable[[Rule], Any]:
    """Expect the values of a column to be those that the rule allows, or those given."""
    return expect("ColumnValuesToBeInSet", column=column, **options)


def _list_image(row: Row, _: pd.DataFrame) -> list[str]:
    return [row["path"]]


def _list_alike(column: str) -> Callable[[Row, pd.DataFrame], list[str]]:
    """Return what lists the images that share a row's value in a column, one of each split and label first."""

    def _list(row: Row, images: pd.DataFrame) -> list[str]:
        alike = images[images[column] == row[column]]
        firsts = ~alike.duplicated(["split", "label"])
        return list(pd.concat([alike[firsts], alike[~firsts]])["path"].head(N_COPIES_SHOWN))

    return _list


def _read_note(table: Table) -> str:
    return table.note


def _count_files(table: Table) -> str:
    (counts,) = table.frame.to_dict("records")
    return "{n_kept:,} kept and {n_excluded:,} excluded of {n_found:,} found".format_map(counts)


def _count_twins(images: pd.DataFrame, group: str) -> str:
    n_left = int((~images["is_compared"]).sum())
    counted = f"{int(images[f'has_twin_{group}'].sum()):,} of {len(images) - n_left:,} images with one"
    return counted + (f"; {n_left:,} too small or too uniform to compare" if n_left else "")


def _count_groups(table: Table) -> str:
    images = table.frame
    n_groups, n_failed = (rows["group"].nunique() for rows in (images, images[images["n_group_splits"] > 1]))
    return f"{n_failed:,} of {n_groups:,} groups that fail" if n_failed else f"{n_groups:,} groups"


def _plan_near_duplicates(group: str) -> Check:
    return Check(
        "images",
        lambda rule: (
            f"no copy in another {group}, re-encoded, resized, slightly cropped" + " or mirrored" * rule.mirrored
        ),
        _expect_values(f"has_twin_{group}", max_value=0),
        f"{{path}} (like {{twin_{group}}}, {{nearness_{group}}})",
        lambda row, _: [row["path"], row[f"twin_{group}"]],
        lambda table: _count_twins(table.frame, group),
    )


CHECKS = {
    "columns": Check(
        "manifest", f"the columns {', '.join(COLUMNS)}", expect("TableColumnsToMatchOrderedList", column_list=COLUMNS)
    ),
    "complete": Check(
        "images", "a value in every cell", _expect_one_of("missing", value_set=[""]), "{path} (no {missing})"
    ),
    "types": Check(
        "images",
        "whole positive numbers, SHA-256 in hexadecimal, known splits",
        _expect_one_of("mistyped", value_set=[""]),
        "{path} ({mistyped})",
    ),
    "unique_paths": Check("images", "a path once", _expect_values("n_of_path", max_value=1)),
    "counts_add_up": Check(
        "files",
        "as many files kept and excluded as found",
        expect("ColumnMaxToBeBetween", column="n_unaccounted", min_value=0, max_value=0),
        observe=_count_files,
    ),
    "excluded_share": Check(
        "files",
        lambda rule: f"at most {rule.max:.1%} of the files excluded, apart from hidden and unlisted ones",
        expect("ColumnMaxToBeBetween", column="excluded_share"),
        observe=_read_note,
    ),
    "classes": Check(
        "classes",
        lambda rule: f"at least {rule.min} classes",
        expect("ColumnUniqueValueCountToBeBetween", column="label"),
    ),
    "class_names": Check(
        "classes",
        "names of classes that differ by more than upper and lower case",
        _expect_values("n_of_name", max_value=1),
        "{spelled}",
    ),
    "empty_classes": Check(
        "source_classes",
        "a file in the folder of every class",
        _expect_one_of("state", value_set=["kept", "lost"]),
        "{label}",
    ),
    "lost_classes": Check(
        "source_classes",
        "an image of every class that has files",
        _expect_one_of("state", value_set=["kept", "empty"]),
        "{label} ({n_files:,} excluded)",
    ),
    "every_class_in_every_split": Check(
        "class_counts",
        "an image of every class in every split",
        _expect_values("n_images", min_value=1),
        "{split}/{label} ({n_images:,})",
    ),
    "min_images": Check(
        "class_counts",
        lambda rule: f"at least {rule.min:,} images of every class in every split",
        _expect_values("n_images"),
        "{split}/{label} ({n_images:,})",
    ),
    "class_balance": Check(
        "splits",
        lambda rule: f"at most {rule.max:g} times as many images in a split's largest class as in its smallest",
        _expect_values("ratio"),
        "{split} ({largest} {n_largest:,}, {smallest} {n_smallest:,})",
    ),
    "split_balance": Check(
        "class_counts",
        lambda rule: f"a class's share of a split within {rule.max:g} of its share of training",
        _expect_values("share_gap"),
        "{split}/{label} ({share:.1%}, off by {share_gap:.1%})",
    ),
    "copies_across_splits": Check(
        "images",
        "the same bytes in one split only",
        _expect_values("n_splits", max_value=1),
        list_images=_list_alike("sha256"),
    ),
    "copies_across_labels": Check(
        "images",
        "the same bytes under one label",
        _expect_values("n_labels", max_value=1),
        list_images=_list_alike("sha256"),
    ),
    "groups_across_splits": Check(
        "images",
        "all images of a group in one split",
        _expect_values("n_group_splits", max_value=1),
        list_images=_list_alike("group"),
        observe=_count_groups,
    ),
    "near_duplicates_across_splits": _plan_near_duplicates("split"),
    "near_duplicates_across_labels": _plan_near_duplicates("label"),
    "width_px": Check(
        "images",
        lambda rule: f"{rule.min:,} to {rule.max:,} px of width",
        _expect_values("width_px"),
        "{path} ({width_px} px)",
        _list_image,
    ),
    "height_px": Check(
        "images",
        lambda rule: f"{rule.min:,} to {rule.max:,} px of height",
        _expect_values("height_px"),
        "{path} ({height_px} px)",
        _list_image,
    ),
    "aspect_ratio": Check(
        "images",
        lambda rule: f"sides of at most {rule.max:g} to 1",
        _expect_values("aspect_ratio"),
        "{path} ({width_px} x {height_px} px)",
        _list_image,
    ),
    "formats": Check(
        "images",
        lambda rule: f"a format of {', '.join(rule.allowed)}",
        _expect_one_of("format"),
        "{path} ({format})",
        _list_image,
    ),
    "modes": Check(
        "images",
        lambda rule: f"a colour mode of {', '.join(rule.allowed)}",
        _expect_one_of("mode"),
        "{path} ({mode})",
        _list_image,
    ),
    "contrast": Check(
        "images",
        lambda rule: f"brightness that deviates by at least {rule.min:g} of 255",
        _expect_values("contrast"),
        "{path} ({contrast:g})",
        _list_image,
    ),
    "vanished_classes": Check(
        "classes_before",
        "an image of each class that there was in the last committed data",
        _expect_values("n_images", min_value=1),
        "{name}",
        observe=_read_note,
        compares_commits=True,
    ),
    "new_classes": Check(
        "classes",
        "no class that there was not in the last committed data",
        _expect_values("n_before", min_value=1),
        "{name}",
        observe=_read_note,
        compares_commits=True,
    ),
    "shrinkage": Check(
        "class_sizes",
        lambda rule: (
            f"at most {rule.max:.1%} fewer images than in the last committed data, in each class and all of these"
        ),
        _expect_values("share_gone"),
        "{name} ({n_images:,}, was {n_before:,.0f})",
        observe=_read_note,
        compares_commits=True,
    ),
}


# What to do about errors that most people meet first.
ADVICE = {
    "empty_classes": "put images there, or remove the folders",
    "lost_classes": f"{paths.EXCLUDED} has the reasons: convert these files, or take the classes out of the source",
    "every_class_in_every_split": "add images of these classes, or take the classes out of the source",
    "groups_across_splits": "bring each group into one split of the source; or, if the images were cut before "
    f"restructure.group_by was set, delete {paths.SPLITS}, so that all are cut again",
    "excluded_share": f"{paths.EXCLUDED} has the reasons: convert or remove these files, or raise "
    "validate.excluded_share.max",
}

HISTORY = {name for name, check in CHECKS.items() if check.compares_commits}


def check_data(data: Data, params: ValidateParams) -> list[Finding]:
    """Run every check, in the order of `params`. If the columns are wrong, no other check can be run.

    What differs from the last committed data is no error once a commit holds it.

    Raises
    ------
    IntegrityError
        The columns are wrong, and their check is no error; or there is no suite of own checks.
    ParamsError
        The suite of own checks is none.
    """
    tables, checks, rules = {"manifest": Table(data.manifest, "images")}, dict(CHECKS), params.rules
    if list(data.manifest.columns) == COLUMNS:
        tables |= make_tables(data, params)
        tables["own"] = Table(tables["images"].frame[list(suites.COLUMNS)], "images")
        own_checks, own_rules = suites.read_own_checks(Path(params.suite))
        checks, rules = checks | own_checks, rules | own_rules
    elif params.columns.severity == "error":
        rules = {"columns": params.columns}
    else:
        raise IntegrityError(
            where=paths.MANIFEST,
            wanted=f"the columns {', '.join(COLUMNS)}",
            got=", ".join(data.manifest.columns),
            advice="run `dvc repro --force restructure`",
        )
    findings = run_checks(tables, checks, rules)
    if not data.is_accepted:
        return findings
    return [
        finding._replace(severity="warn") if finding.name in HISTORY and has_errors([finding]) else finding
        for finding in findings
    ]


def describe_verdict(findings: list[Finding], manifest: pd.DataFrame, params: ValidateParams) -> list[str]:
    """Return the verdict, what failed, and what to do about it: at most 20 lines."""
    advice = dict(ADVICE)
    if any(finding.name == "min_images" and not finding.passed for finding in findings):
        advice["min_images"] = advise_more_images(manifest, params.min_images)
    lines = describe_findings(findings, f"{paths.MANIFEST}: {len(manifest):,} images", "validate", advice)
    if changed := [finding.name for finding in findings if finding.name in HISTORY and has_errors([finding])]:
        overrides = " ".join(f"-S validate.{name}.severity=warn" for name in changed)
        lines.append(f"  if that is meant: dvc exp run {overrides}; then commit, and set it back to error")
    return [*lines, f"  {paths.VALIDATION_PAGE} shows it all"]
