"""What the gate wants of the features: a row for each check. Its rule is the field of that name in the parameters."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.features.shards import IndexRow
from relearn.gates.expectations import Check, Table, expect
from relearn.storage.files import hash_bytes

FEATURE_CHECKS = {
    "rows_of_manifest": Check(
        "order",
        f"the images of {paths.MANIFEST}, in its order",
        expect("ColumnValuesToBeInSet", column="is_same", value_set=[True]),
        "row {row}: wanted {wanted}, got {found}",
    ),
    "finite": Check(
        "rows", "finite numbers alone", expect("ColumnValuesToBeBetween", column="n_not_finite", max_value=0)
    ),
    "constant_rows": Check(
        "rows",
        "features that differ within a row",
        expect("ColumnValuesToBeBetween", column="spread", min_value=0, strict_min=True),
    ),
    "identical_rows": Check(
        "rows",
        "features that no other image of another split has",
        expect("ColumnValuesToBeBetween", column="has_twin", max_value=0),
        "{path} (as {twin})",
    ),
}


def make_feature_tables(
    manifest: list[ManifestRow], index: list[IndexRow], shards: Iterable[tuple[list[IndexRow], np.ndarray]]
) -> dict[str, Table]:
    """Return the tables that the checks are about, by name; the shards are as `iterate_shards` yields them."""
    return {
        "rows": Table(describe_rows(manifest, shards), "rows of features"),
        "order": Table(compare_order(manifest, index), "rows"),
    }


def describe_rows(manifest: list[ManifestRow], shards: Iterable[tuple[list[IndexRow], np.ndarray]]) -> pd.DataFrame:
    """Return the properties of each row of features that the checks are about, with one shard in memory at a time.

    Returns
    -------
    DataFrame
        split, label, sha256 of the image, and its path, with the number of a view; `n_not_finite`, how many of its
        features are not; `spread`, the largest less the smallest; `has_twin`, 0 or 1, whether an image of other bytes
        and another split has these very features, and `twin`, the path of one.
    """
    parts = [pd.DataFrame(columns=["split", "label", "sha256", "view", "n_not_finite", "spread", "content"])]
    for index, values in shards:
        finite = np.isfinite(values)
        part = pd.DataFrame(index, columns=list(IndexRow._fields))[["split", "label", "sha256", "view"]]
        part["n_not_finite"] = values.shape[1] - finite.sum(axis=1)
        part["spread"] = np.where(finite.all(axis=1), np.ptp(np.where(finite, values, 0), axis=1), np.nan)
        part["content"] = [hash_bytes(row.tobytes()) for row in values + 0.0]  # -0.0 is 0.0
        parts.append(part)
    rows = pd.concat(parts[1:] or parts, ignore_index=True)
    names = {(row.split, row.label, row.sha256): row.path for row in manifest}
    keys = zip(rows["split"], rows["label"], rows["sha256"], strict=True)
    rows["path"] = [_name_row(names.get(key, key[2]), view) for key, view in zip(keys, rows.pop("view"), strict=True)]
    rows["twin"] = find_twins(rows)
    rows["has_twin"] = (rows["twin"] != "").astype(int)
    return rows


def find_twins(rows: pd.DataFrame) -> list[str]:
    """Return for each row the path of an image of other bytes and another split with the same content, or nothing."""
    twins = [""] * len(rows)
    for _, group in rows[rows["content"].duplicated(keep=False)].groupby("content"):
        # Of two images of a split, one has other bytes than any given image, so two are enough if all rows are equal.
        candidates = group.drop_duplicates(["split", "sha256"]).groupby("split", sort=False).head(2)
        others = list(candidates[["split", "sha256", "path"]].itertuples(index=False, name=None))
        for row, split, sha256 in group[["split", "sha256"]].itertuples(name=None):
            twins[row] = next((path for s, h, path in others if s != split and h != sha256), "")
    return twins


def compare_order(manifest: list[ManifestRow], index: list[IndexRow]) -> pd.DataFrame:
    """Return for each position what should be there and what the index has there, and whether they agree.

    There should be the images of the manifest, each of training followed by as many views as any image has.
    """
    n_views = max((int(row.view) for row in index if row.view.isdecimal()), default=0)
    wanted = [
        _name_row(f"{row.split}/{row.label} {row.sha256}", str(view))
        for row in manifest
        for view in range(1 + (n_views if row.split == "training" else 0))
    ]
    found = [_name_row(f"{row.split}/{row.label} {row.sha256}", row.view) for row in index]
    n_rows = max(len(wanted), len(found))
    table = pd.DataFrame(
        {
            "wanted": wanted + ["nothing"] * (n_rows - len(wanted)),
            "found": found + ["nothing"] * (n_rows - len(found)),
        }
    )
    return table.assign(is_same=table["wanted"] == table["found"], row=range(n_rows))


def _name_row(image: str, view: str) -> str:
    return image if view == "0" else f"{image} view {view}"
