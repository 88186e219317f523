import pandas as pd
import pytest

from gate_data import make_data, make_params
from relearn.dataset.manifest import SPLITS, ManifestRow
from relearn.errors import IntegrityError
from relearn.gates.tables import (
    check_tables,
    compare_classes,
    compare_splits,
    count_files,
    count_images,
    describe_images,
    make_tables,
)


def make_manifest(*rows):
    """Rows of split, label, and as many images."""
    listed = [
        ManifestRow(f"{split}/{label}/{n}", split, label, f"{len(split)}{label}{n}".rjust(64, "0"), 9, 8, 4, "L", "PNG")
        for split, label, count in rows
        for n in range(count)
    ]
    return pd.DataFrame(listed, columns=list(ManifestRow._fields)).astype("str")


MANIFEST = make_manifest(("training", "a", 6), ("training", "b", 2), ("validation", "a", 1), ("evaluation", "b", 3))
DETAILS = pd.DataFrame({"contrast": ["1.5"] * len(MANIFEST)})


def test_images_are_described():
    images = describe_images(MANIFEST, DETAILS)
    assert set(images["aspect_ratio"]) == {2.0}
    assert set(images["contrast"]) == {1.5}
    assert images["width_px"].dtype == "int64"
    assert not images["missing"].any()
    assert set(images["n_of_path"]) == set(images["n_labels"]) == {1}


def test_cells_of_the_wrong_kind_are_named():
    manifest = MANIFEST.copy()
    manifest.loc[0, ["bytes", "split"]] = ["0", "test"]
    manifest.loc[1, ["sha256", "width_px"]] = ["A" * 64, "8.5"]
    manifest.loc[2, ["sha256", "label"]] = None
    images = describe_images(manifest, DETAILS)
    assert list(images["mistyped"][:4]) == ["bytes split", "width_px sha256", "", ""]
    assert list(images["missing"][:3]) == ["", "", "label sha256"]


def test_counts_hold_every_class_in_every_split():
    counts = count_images(MANIFEST)
    assert list(zip(counts["split"], counts["label"], strict=True)) == [(s, label) for s in SPLITS for label in "ab"]
    assert list(counts["n_images"]) == [6, 2, 1, 0, 0, 3]
    assert list(counts["share"]) == [0.75, 0.25, 1, 0, 0, 1]
    assert list(counts["share_gap"]) == [0, 0, 0.25, 0.25, 0.75, 0.75]


def test_ratio_of_a_split_leaves_out_what_is_empty():
    splits = compare_splits(count_images(MANIFEST)).set_index("split")
    assert tuple(splits.loc["training"]) == ("a", 6, "b", 2, 3.0)
    assert splits.loc["validation", "ratio"] == 1


def test_classes_now_and_before():
    table = compare_classes({"a": 6, "A": 1, "b": 4}, {"a": 8, "b": 4, "c": 1})
    assert list(table["label"][:-1]) == ["A", "a", "b", "c"]
    assert list(table["n_images"]) == [1, 6, 4, 0, 10]
    assert list(table["n_before"]) == [0, 8, 4, 1, 12]
    assert list(table["n_of_name"]) == [2, 2, 1, 0, 1]
    assert list(table["name"]) == list(table["spelled"]) == ["A", "a", "b", "c", "all of these classes"]
    assert list(table["share_gone"][1:]) == [0.25, 0, 1, 0.166667]


def test_no_before():
    table = compare_classes({"a": 6}, None)
    assert table["n_before"].isna().all()
    assert table["share_gone"].isna().all()


def test_files_that_were_left_out_on_purpose_are_not_lost():
    excluded = [("a.jpg", "hidden file"), ("b.jpg", "damaged JPEG file: x"), ("c.jpg", "damaged JPEG file: y")]
    excluded.append(("owl/", "empty folder: owl has no file"))
    table = count_files(make_data(n_files=22, excluded=excluded))
    (counts,) = table.frame.to_dict("records")
    assert counts == {"n_found": 22, "n_kept": 18, "n_excluded": 3, "n_unaccounted": 1, "excluded_share": 0.095238}
    assert table.note == "2 of 21 (9.5%): 2 damaged JPEG file, such as b.jpg"


def test_near_duplicates_are_searched_only_for_checks_that_are_on():
    off = {"severity": "off"}
    images = make_tables(make_data(), make_params(near_duplicates_across_labels=off))["images"].frame
    assert "has_twin_split" in images
    assert "has_twin_label" not in images


def test_tables_of_other_images_are_refused():
    data = make_data()
    check_tables(data.manifest, data.details, data.hashes)
    with pytest.raises(IntegrityError, match=r"hashes\.npy: wanted 18 rows, got 17; run `dvc repro --force"):
        check_tables(data.manifest, data.details, data.hashes[1:])
    with pytest.raises(IntegrityError, match=r"sightings\.csv: wanted a row for each of data/manifest\.csv with"):
        check_tables(data.manifest, data.details[::-1].reset_index(drop=True), data.hashes)
    with pytest.raises(IntegrityError, match=r"sightings\.csv: row 5: wanted a contrast of 0 to 127\.5, got 200"):
        check_tables(data.manifest, make_data(contrast={3: 200}).details, data.hashes)
