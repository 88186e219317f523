import pytest

from relearn.dataset.recognition import find_beginning, match_splits, recognize_source

THREE = {"training": "train", "validation": "val", "evaluation": "test"}


def recognize(files, **tables):
    contents = {f"{name.replace('__', '/')}.csv": text.encode() for name, text in tables.items()}
    found = recognize_source([*files, *contents], contents.__getitem__)
    return None if found is None else {name: value for name, value in found._asdict().items() if value}


def spread(pattern, *choices):
    """Return a path for each word of `choices`, three of each."""
    return [pattern.format(*words, n) for words in choices for n in range(3)]


def test_classes_as_folders():
    assert recognize(spread("{}/{}.jpg", ["cat"], ["dog"])) == {"layout": "class_folders"}
    assert recognize(spread("{}/2020/may/{}.JPG", ["cat"], ["dog"])) == {"layout": "class_folders"}
    # What systems, phones and people leave beside them.
    mess = [".DS_Store", "cat/.hidden.jpg", "__MACOSX/cat/._1.jpg", "notes.pdf", "cover.jpg", "cat/a.mov"]
    assert recognize([*spread("{}/{}.jpg", *([c] for c in "abcdefgh")), *mess]) == {"layout": "class_folders"}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), THREE),
        (("Train", "Valid", "Test"), {"training": "Train", "validation": "Valid", "evaluation": "Test"}),
        (("training", "test"), {"training": "training", "validation": None, "evaluation": "test"}),
        (("train", "val"), {"training": "train", "validation": None, "evaluation": "val"}),
    ],
)
def test_splits_have_many_names(names, splits):
    files = spread("{}/{}/{}.png", *([name, label] for name in names for label in ("cat", "dog")))
    assert recognize(files) == {"layout": "split_class_folders", "splits": splits}


@pytest.mark.parametrize("names", [{"train", "cat"}, {"test"}, {"train"}, {"train", "training", "test"}, set()])
def test_other_folders_are_classes(names):
    assert match_splits(names) is None


def test_folders_around_everything_are_stepped_into():
    inner = spread("{}/{}/{}.png", *([split, label] for split in THREE.values() for label in ("cat", "dog")))
    found = recognize([f"download/my set/{path}" for path in inner])
    assert found == {"layout": "split_class_folders", "subfolder": "download/my set", "splits": THREE}
    assert find_beginning(["a/cat/1.png", "a/dog/1.png"]) == "a"
    assert find_beginning(["cat/1.png"]) is None  # one class, and not a folder around it
    assert find_beginning(["1.png"]) is None


def test_labels_in_names():
    files = spread("{}/{}_{}.jpg", *([split, label] for split in THREE.values() for label in "01"))
    assert recognize(files) == {"layout": "food5k", "splits": THREE, "labels": {"0": "0", "1": "1"}}


def test_tables_are_recognized_by_what_is_in_them():
    files = [f"images/{n}.png" for n in range(4)]
    table = "id,filename,breed,weight\n" + "".join(f"{n},images/{n}.png,{'ab'[n % 2]},{n}.5\n" for n in range(4))
    columns = {"path": "filename", "label": "breed", "split": "split"}
    assert recognize(files, labels=table) == {"layout": "csv", "labels_csv": "labels.csv", "csv_columns": columns}
    # By the fewest values if no name says which, relative to the folder of the table, with splits.
    rows = ["images/0.png,x,7,train", "images/1.png,y,8,val", "images/2.png,x,9,test"]
    found = recognize([f"set/{path}" for path in files], set__list="file,kind,weight,subset\n" + "\n".join(rows))
    assert found == {
        "layout": "csv",
        "subfolder": "set",
        "splits": THREE,
        "labels_csv": "list.csv",
        "csv_columns": {"path": "file", "label": "kind", "split": "subset"},
    }


@pytest.mark.parametrize(
    "table", ["a,b\n1,2\n", "", "path\ncat/0.png\n", "path,label\ncat/0.png,x\n", "\xff\x00", "a,a\n1"]
)
def test_other_tables_are_none(table):
    assert recognize(spread("{}/{}.png", ["cat"], ["dog"]), other=table) == {"layout": "class_folders"}


def test_nothing_to_recognize():
    assert recognize(["a.pdf", ".cat/1.jpg"]) is None
