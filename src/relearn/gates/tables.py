"""The tables that the checks of the images are about, derived from what `restructure` wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset.corrections import Corrected
from relearn.dataset.manifest import EMPTY_FOLDER, SPLITS, Exclusion, SourceDetails, find_form, fold_name
from relearn.errors import IntegrityError
from relearn.gates.expectations import Table
from relearn.gates.near_duplicates import mark_near_duplicates
from relearn.gates.reference import Reference
from relearn.params.data import ValidateParams

NUMBERS = ("bytes", "width_px", "height_px")

# Of each column of the manifest that is not free text, the cells that are of its type.
TYPES = dict.fromkeys(NUMBERS, r"[1-9]\d*") | {"sha256": "[0-9a-f]{64}", "split": "|".join(SPLITS)}


class Data(NamedTuple):
    """All that the gate looks at: two tables of text with one row per image, and what is known of their source.

    groups : of each image, or its own hash; None without groups
    lost : the number of files of each class that has files or a folder in the source, but no image
    corrected : the files that a correction concerns
    """

    manifest: pd.DataFrame
    details: pd.DataFrame
    hashes: np.ndarray
    excluded: list[Exclusion]
    source: str
    n_files: int
    before: Reference | None
    is_accepted: bool
    groups: list[str] | None = None
    lost: Mapping[str, int] = MappingProxyType({})
    corrected: Sequence[Corrected] = ()


def check_tables(manifest: pd.DataFrame, details: pd.DataFrame, hashes: np.ndarray) -> None:
    """Check that three files of `restructure` are about the same images.

    Raises
    ------
    IntegrityError
        They are not, or a contrast is no number that can be one.
    """
    again = "run `dvc repro --force restructure`"
    listed = manifest["path"] if "path" in manifest else details.get("path")
    if list(details.columns) != list(SourceDetails._fields) or not details["path"].equals(listed):
        wanted = f"a row for each of {paths.MANIFEST} with the columns {','.join(SourceDetails._fields)}"
        raise IntegrityError(where=paths.SIGHTINGS, wanted=wanted, advice=again)
    wrong = ~pd.to_numeric(details["contrast"], errors="coerce").between(0, 127.5)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        where = f"{paths.SIGHTINGS}: row {row + 2}"
        raise IntegrityError(where=where, wanted="a contrast of 0 to 127.5", got=details["contrast"][row], advice=again)
    if len(hashes) != len(manifest):
        raise IntegrityError(where=paths.HASHES, wanted=f"{len(manifest)} rows", got=len(hashes), advice=again)


def make_tables(data: Data, params: ValidateParams) -> dict[str, Table]:
    """Return the tables that the checks are about, by name."""
    counts = count_images(data.manifest)
    classes = compare_classes(count_labels(data.manifest), data.before.classes if data.before else None)
    before = classes[classes["n_before"] > 0]
    note = "" if data.before else f"no commit here has other data of {data.source} that passed"
    images = mark_groups(describe_images(data.manifest, data.details), data.groups)
    near = {"split": params.near_duplicates_across_splits, "label": params.near_duplicates_across_labels}
    for group, rule in near.items():
        if rule.severity != "off":
            images = mark_near_duplicates(images, data.hashes, rule, group)
    return {
        "images": Table(images, "images"),
        "files": count_files(data),
        "class_counts": Table(counts, "pairs of split and class"),
        "splits": Table(compare_splits(counts), "splits"),
        "source_classes": Table(list_source_classes(data), "classes"),
        "classes": Table(classes[(classes["n_images"] > 0) & classes["label"].notna()], "classes", note),
        "classes_before": Table(before[before["label"].notna()], "classes", note),
        "class_sizes": Table(before[before["n_images"] > 0], "counts", note),
    }


def count_files(data: Data) -> Table:
    """Return a table of one row that counts the files; its note describes those that were lost.

    Returns
    -------
    Table
        `n_found`, `n_kept`, `n_excluded`, `n_unaccounted` (found, but neither kept nor excluded), and `excluded_share`,
        the share that was lost of the files that were meant to be images.
    """
    lost = [exclusion for exclusion in data.excluded if exclusion.is_lost]
    n_kept, n_excluded = len(data.manifest), sum(exclusion.kind != EMPTY_FOLDER for exclusion in data.excluded)
    n_meant = data.n_files - n_excluded + len(lost)
    share = len(lost) / max(n_meant, 1)
    counts = {"n_found": data.n_files, "n_kept": n_kept, "n_excluded": n_excluded}
    counts["n_unaccounted"] = data.n_files - n_kept - n_excluded
    examples = {exclusion.kind: exclusion.path for exclusion in reversed(lost)}
    kinds = Counter(exclusion.kind for exclusion in lost).most_common(3)
    shown = "; ".join(f"{n:,} {kind}, such as {examples[kind]}" for kind, n in kinds)
    note = f"{len(lost):,} of {n_meant:,} ({share:.1%})" + (f": {shown}" if shown else "")
    return Table(pd.DataFrame([counts]).assign(excluded_share=round(share, 6)), "sets of files", note)


def count_labels(manifest: pd.DataFrame) -> dict[str, int]:
    """Count the images of each class, ordered by name."""
    labels = manifest["label"].dropna() if "label" in manifest else pd.Series(dtype="str")
    return {str(label): int(n) for label, n in sorted(labels.value_counts().items())}


def list_source_classes(data: Data) -> pd.DataFrame:
    """Return `label`, `n_files` and `state` of each class of the source: kept, lost (all files excluded) or empty."""
    rows = [(label, n, "kept") for label, n in count_labels(data.manifest).items()]
    rows += [(label, n_files, "lost" if n_files else "empty") for label, n_files in data.lost.items()]
    return pd.DataFrame(rows, columns=["label", "n_files", "state"])


def describe_images(manifest: pd.DataFrame, details: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with its numbers as numbers, and the properties of each image that the checks are about.

    Added are: `missing` and `mistyped` (the columns that are, as text), `n_of_path`, `n_splits` and `n_labels` of the
    same bytes, `aspect_ratio` (the longer side over the shorter one), and `contrast`.
    """
    images = manifest.copy()
    for column in NUMBERS:
        images[column] = pd.to_numeric(manifest[column], errors="coerce")
    images["missing"] = _list_columns(manifest.isna())
    wrong = {
        name: manifest[name].notna() & ~manifest[name].str.fullmatch(pattern, na=False)
        for name, pattern in TYPES.items()
    }
    images["mistyped"] = _list_columns(pd.DataFrame(wrong))
    images["n_of_path"] = manifest.groupby("path")["path"].transform("size")
    contents = manifest.groupby("sha256")
    images["n_splits"] = contents["split"].transform("nunique")
    images["n_labels"] = contents["label"].transform("nunique")
    sides = images[["width_px", "height_px"]]
    images["aspect_ratio"] = (sides.max(axis=1) / sides.min(axis=1)).round(3)
    images["contrast"] = pd.to_numeric(details["contrast"], errors="coerce")
    return images


def mark_groups(images: pd.DataFrame, groups: list[str] | None) -> pd.DataFrame:
    """Return images with two more columns: `group`, missing where there is none, and in how many splits it is."""
    named = pd.Series(groups, images.index, dtype="str") if groups else pd.Series(pd.NA, images.index, dtype="str")
    images = images.assign(group=named.where(named != images["sha256"]))
    n_splits = images.groupby("group")["split"].transform("nunique")
    return images.assign(n_group_splits=n_splits.fillna(0).astype("int64"))


def _list_columns(marks: pd.DataFrame) -> pd.Series:
    """Return for each row the names of the columns that are true, as text; empty if none is."""
    named = pd.Series("", index=marks.index, dtype="str")
    for column in marks:
        rows = marks[column]
        named[rows] = named[rows] + f" {column}"
    return named.str.strip()


def count_images(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count the images of every class in every split, including counts of 0.

    Returns
    -------
    DataFrame
        split, label, n_images; `share`, the class's share of its split; `share_gap`, how far that is from the class's
        share of training.
    """
    labels = sorted(manifest["label"].dropna().unique())
    counts = manifest.groupby(["split", "label"]).size()
    every = pd.MultiIndex.from_product([SPLITS, labels], names=["split", "label"])
    table = counts.reindex(every, fill_value=0).rename("n_images").reset_index()
    table["share"] = table["n_images"] / table.groupby("split")["n_images"].transform("sum")
    of_training = table[table["split"] == "training"].set_index("label")["share"]
    table["share_gap"] = (table["share"] - table["label"].map(of_training)).abs().round(6)
    return table


def compare_splits(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the largest and the smallest class of each split, and the ratio of their numbers of images.

    A class without images is left out; another check is about that.
    """
    rows = []
    for split, group in counts[counts["n_images"] > 0].groupby("split", sort=False):
        largest, smallest = group.loc[group["n_images"].idxmax()], group.loc[group["n_images"].idxmin()]
        row = {"split": split, "largest": largest["label"], "n_largest": int(largest["n_images"])}
        row |= {"smallest": smallest["label"], "n_smallest": int(smallest["n_images"])}
        rows.append(row | {"ratio": row["n_largest"] / row["n_smallest"]})
    return pd.DataFrame(rows, columns=["split", "largest", "n_largest", "smallest", "n_smallest", "ratio"])


def compare_classes(classes: dict[str, int], before: dict[str, int] | None) -> pd.DataFrame:
    """Return for each class its images now and before (missing if there is no before), and the share that is gone.

    Added are `name` and `spelled` (the name with the Unicode form of its accents), and `n_of_name`, how many classes
    have its name apart from case, the encoding of accents, and spaces around. A last row, whose label is missing, is
    for all the classes together that were there before and still are.
    """
    names = sorted(classes.keys() | (before or {}).keys())
    n_alike = pd.Series([fold_name(name) for name in names if name in classes]).value_counts()
    rows: list[tuple[str | None, int, int | None, int]] = [
        (name, classes.get(name, 0), before.get(name, 0) if before else None, int(n_alike.get(fold_name(name), 0)))
        for name in names
    ]
    stayed = [name for name in before or {} if name in classes]
    now, then = (sum(counts[name] for name in stayed) for counts in (classes, before or {}))
    rows.append((None, now, then if before else None, 1))
    table = pd.DataFrame(rows, columns=["label", "n_images", "n_before", "n_of_name"])
    table["share_gone"] = (1 - table["n_images"] / table["n_before"].astype("float64")).round(6)
    table["name"] = [*names, "all of these classes"]
    table["spelled"] = [spell_name(name) for name in table["name"]]
    return table


def spell_name(name: str) -> str:
    """Return a name with the Unicode form of its accents, by which names that look the same can differ."""
    return name if name.isascii() else f"{name} (accents in Unicode {find_form(name)})"
