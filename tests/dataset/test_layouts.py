import re
from collections import Counter
from pathlib import Path

import pytest

from conftest import change_params, list_dataset, restructure, write_images
from relearn import paths
from relearn.dataset.assignments import hash_group, read_assignments
from relearn.errors import SourceError


def test_split_class_folders(use_layout):
    use_layout(layout="split_class_folders", splits={"training": "train", "validation": "val", "evaluation": "test"})
    write_images(Path("source"), ["train/cat/1.png", "train/dog/deep/2.png", "val/cat/3.png", "test/cat/4.png"])
    kept, excluded = restructure()
    assert sorted(kept) == list_dataset()
    assert list(kept) == ["training/dog/2.png", "training/cat/1.png", "validation/cat/3.png", "evaluation/cat/4.png"]
    assert excluded == {}


def test_food5k(use_layout):
    use_layout(layout="food5k", labels={"0": "non_food", "1": "food"})
    write_images(Path("source"), ["training/0_1.png", "training/1_1.png", "validation/1_2.png", "evaluation/0_7.png"])
    write_images(Path("source"), ["training/2_1.png", "training/food.png", "loose.png", "other/0_1.png"], 10)
    kept, excluded = restructure()
    assert set(kept) == {
        "training/non_food/0_1.png",
        "training/food/1_1.png",
        "validation/food/1_2.png",
        "evaluation/non_food/0_7.png",
    }
    assert excluded == {
        "training/2_1.png": "label not in restructure.labels: '2'",
        "training/food.png": "does not fit the layout: food5k",
        "loose.png": "does not fit the layout: food5k",
        "other/0_1.png": "not in a folder of a split: training, validation, evaluation",
    }


def test_csv_layout(use_layout):
    use_layout(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), ["x/1.png", "x/2.png", "3.png", "4.png", "unlisted.png"])
    table = "\ufeffpath,label,split,photographer\nx/1.png,cat,training,me\nx/2.png,dog,evaluation,\n3.png,cat,,\n"
    table += "4.png,dog,validation,\n"
    Path("source/labels.csv").write_text(table)
    kept, excluded = restructure()
    assert {"training/cat/1.png", "validation/dog/4.png", "evaluation/dog/2.png"} < set(kept)
    assert len(kept) == 4
    assert set(excluded) == {"labels.csv", "unlisted.png"}
    assert excluded["labels.csv"] == "the table of labels"
    assert excluded["unlisted.png"] == "not listed: labels.csv has no row of this path"


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_may_have_other_separators(use_layout, separator):
    use_layout(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), ["1.png", "2.png"])
    rows = [("path", "label", "split"), ("1.png", "cat, striped", "training"), ("2.png", "dog", "evaluation")]
    Path("source/labels.csv").write_text("".join(f"{separator.join(row)}\n" for row in rows))
    kept, _ = restructure()
    assert {path.partition("/")[2] for path in kept} == {"cat, striped/1.png", "dog/2.png"}


def test_columns_of_a_table_may_have_other_names(use_layout):
    columns = {"path": "file", "label": "species", "split": "subset"}
    splits = {"training": "train", "validation": None, "evaluation": "test"}
    use_layout(layout="csv", labels_csv="labels.csv", csv_columns=columns, splits=splits)
    write_images(Path("source"), ["1.png", "2.png"])
    Path("source/labels.csv").write_text("id,file,species,subset\n7,1.png, cat,train\n8,2.png,dog,test\n")
    kept, _ = restructure()
    splits = {row.label: row.split for row in kept.values()}
    assert splits == {"cat": splits["cat"], "dog": "evaluation"}
    assert splits["cat"] != "evaluation"  # without a folder of its own, validation is cut from training


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,class\n", r"labels\.csv: wanted the columns path, label and maybe split, got \['file', 'class'\]"),
        ("path,label\n1.png\n", "line 2: wanted as many cells as there are columns, got more or fewer"),
        ("path,label\n1.png,a\n1.png,b\n", r"line 3: 1\.png is listed twice"),
        (
            "path,label,split\n1.png,a,train\n",
            r"line 2: wanted a split of training, validation, evaluation, got 'train'",
        ),
        ("path,label\n1.png,a,b\n", "line 2: wanted as many cells as there are columns, got more or fewer"),
        ("path,label\n,a\n", "line 2: wanted a path, got an empty cell"),
        ("path,label\n./1.png,a\n1.png,a\n", r"line 3: 1\.png is listed twice"),
        ("path,label\n1.png," + "a" * 200_000, r"labels\.csv: line \d: wanted CSV, got field larger than field limit"),
        ("path,label\n1.png,a\nno.png,b\n", r"1 of its paths are not in the source: no\.png$"),
    ],
)
def test_csv_errors(use_layout, table, message):
    use_layout(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), ["1.png"])
    Path("source/labels.csv").write_text(table)
    with pytest.raises(SourceError, match=message):
        restructure()


@pytest.mark.parametrize(
    ("written", "there", "hint"),
    [
        ("cafe\u0301.png", "caf\u00e9.png", "its accents are in Unicode NFC, here in NFD"),
        ("caf\u00e9.png", "cafe\u0301.png", "its accents are in Unicode NFD, here in NFC"),
        ("A.PNG", "a.png", r"\(a\.png is there: upper and lower case and spaces count\)$"),
        ("x\\1.png", "x/1.png", r"\(x/1\.png is there: write / between folders\)$"),
    ],
)
@pytest.mark.parametrize("subfolder", [None, "in/side"])
def test_path_that_only_looks_like_one_of_the_table_is_explained(use_layout, written, there, hint, subfolder):
    use_layout(layout="csv", labels_csv="labels.csv", subfolder=subfolder)
    folder = Path("source", subfolder or "")
    write_images(folder, [there])
    (folder / "labels.csv").write_text(f"path,label\n{written},a\n")
    with pytest.raises(SourceError, match=r"labels\.csv: 1 of its paths are not in the source: .*" + hint):
        restructure()


def test_parameters_that_only_look_like_names_of_the_source_are_explained(use_layout):
    hint = "(what looks the same is there with other bytes: its accents are in Unicode NFC, here in NFD)"
    write_images(Path("source"), ["e\u0301/cat/1.png", "e\u0301/dog/2.png"])
    use_layout(layout="class_folders", subfolder="\u00e9")
    with pytest.raises(SourceError, match=re.escape(f"outside the subfolder: \u00e9 {hint}")):
        restructure()
    use_layout(layout="class_folders", subfolder=None, labels={"\u00e9": "x"})
    with pytest.raises(SourceError, match=re.escape(f"label not in restructure.labels: 'e\u0301' {hint}")):
        restructure()
    splits = {"training": "\u00e9", "validation": None, "evaluation": "x"}
    use_layout(layout="split_class_folders", splits=splits, labels={})
    with pytest.raises(SourceError, match=re.escape(f"not in a folder of a split: \u00e9, x {hint}")):
        restructure()
    use_layout(layout="csv", labels_csv="\u00e9/cat/1.png")
    with pytest.raises(SourceError, match=r"got no such file .what looks the same is there with other bytes"):
        restructure()


def test_labels_that_are_no_folder_names_are_refused(use_layout):
    use_layout(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), [f"{n}.png" for n in range(1, 7)])
    labels = "1.png,../up\n2.png,\n3.png,..\n4.png,good one\n5.png,lost+found\n6.png,.cat\n"
    Path("source/labels.csv").write_text(f"path,label\n{labels}")
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["good one"]
    assert excluded["5.png"] == "label cannot be the name of a folder: 'lost+found'"
    assert excluded["6.png"] == "label cannot be the name of a folder: '.cat'"
    assert excluded["1.png"] == "label cannot be the name of a folder: '../up'"
    assert excluded["2.png"] == "label cannot be the name of a folder: ''"


def test_csv_cells_are_taken_as_they_are_meant(use_layout):
    use_layout(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), ["x/1.png", "2.png"])
    Path("source/labels.csv").write_text("path,label,split\n./x/1.png, cat ,training\n2.png,cat, validation\n")
    kept, excluded = restructure()
    assert set(kept) == {"training/cat/1.png", "validation/cat/2.png"}
    assert set(excluded) == {"labels.csv"}


def test_subfolder(use_layout):
    use_layout(layout="class_folders", subfolder="images/all")
    write_images(Path("source"), ["images/all/cat/1.png", "thumbnails/cat/1.png"])
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["cat"]
    assert excluded == {"thumbnails/cat/1.png": "outside the subfolder: images/all"}


def test_splits_taken_for_classes_are_refused(use_layout):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["train/cat/1.png", "val/cat/2.png", "test/dog/3.png"])
    with pytest.raises(
        SourceError, match="class_folders makes the classes test, train, val, which are names of splits"
    ):
        restructure()


def test_classes_may_be_called_like_splits_where_the_layout_names_both(use_layout):
    use_layout(layout="split_class_folders")
    write_images(Path("source"), ["training/train/1.png", "training/test/2.png", "validation/train/3.png"])
    kept, _ = restructure()
    assert {row.label for row in kept.values()} == {"train", "test"}


def test_one_class_alone_is_warned_of(use_layout, caplog):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["shapes/cat/1.png", "shapes/dog/2.png"])
    restructure()
    assert "one class only, 'shapes': does restructure.subfolder name the folder above the classes?" in caplog.text


def test_csv_column_of_groups(use_layout):
    use_layout(
        layout="csv", labels_csv="labels.csv", stratify=True, group_by="column", group_column="patient", subfolder="in"
    )
    write_images(Path("source/in"), [f"{n}.png" for n in range(12)])
    rows = [f"{n}.png,{'ab'[n % 2]},{'' if n == 11 else f' p{n // 4} '}" for n in range(12)]
    Path("source/in/labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    kept, _ = restructure()
    split_of = {row.path.rsplit("/")[-1]: row.split for row in kept.values()}
    assert [len({split_of[f"{n}.png"] for n in group}) for group in (range(4), range(4, 8), range(8, 11))] == [1, 1, 1]
    groups = Counter(row.group for row in read_assignments(paths.SPLITS).values())
    assert groups == {hash_group("p0"): 4, hash_group("p1"): 4, hash_group("p2"): 3, "": 1}
    change_params({"restructure.group_column": "person"})
    with pytest.raises(SourceError, match=r"wanted the columns path, label, person and maybe split, got \['path'"):
        restructure()
