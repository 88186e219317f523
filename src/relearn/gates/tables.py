"""The tables that the gate looks at, derived from what `restructure` wrote."""

import pandas as pd

from relearn.dataset.manifest import SPLITS, fold_name

NUMBERS = ("bytes", "width_px", "height_px")

# Of each column of the manifest that is not free text, the cells that are of its type.
TYPES = dict.fromkeys(NUMBERS, r"[1-9]\d*") | {"sha256": "[0-9a-f]{64}", "split": "|".join(SPLITS)}


def describe_images(manifest: pd.DataFrame, sightings: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with its numbers as numbers, and what the checks want to know of each image.

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
    images["contrast"] = pd.to_numeric(sightings["contrast"], errors="coerce")
    return images


def _list_columns(marks: pd.DataFrame) -> pd.Series:
    """Return of each row the names of the columns that are true, as text; an empty one where none is."""
    named = pd.Series("", index=marks.index, dtype="str")
    for column in marks:
        rows = marks[column]
        named[rows] = named[rows] + f" {column}"
    return named.str.strip()


def count_images(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count the images of every class in every split, also where there is none.

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
    """Return of each split its largest and smallest class, and how many times as many images the one has.

    A class of no image makes no ratio; another check is about that.
    """
    rows = []
    for split, group in counts[counts["n_images"] > 0].groupby("split", sort=False):
        largest, smallest = group.loc[group["n_images"].idxmax()], group.loc[group["n_images"].idxmin()]
        row = {"split": split, "largest": largest["label"], "n_largest": int(largest["n_images"])}
        row |= {"smallest": smallest["label"], "n_smallest": int(smallest["n_images"])}
        rows.append(row | {"ratio": row["n_largest"] / row["n_smallest"]})
    return pd.DataFrame(rows, columns=["split", "largest", "n_largest", "smallest", "n_smallest", "ratio"])


def compare_classes(classes: dict[str, int], before: dict[str, int] | None) -> pd.DataFrame:
    """Return of each class its images now and before (nothing where there is no before), and the share that is gone.

    Added are `n_of_name`, how many classes have its name but for case, the encoding of accents and spaces around, and
    a last row, whose label is missing, for those classes together that were there before and still are.
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
    return table
