import errno
import hashlib
import io
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from conftest import ROOT, draw_image, encode_image, write_images
from relearn import paths
from relearn.dataset import inspections, placing, reading, sources
from relearn.dataset.inspections import Inspection
from relearn.dataset.manifest import hash_tables, read_manifest
from relearn.dataset.placing import name_images
from relearn.dataset.splitting import SourceImage, choose_split, split_images
from relearn.errors import SourceError
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import compute_fingerprint, read_hashes
from relearn.params import read_params
from relearn.stages.restructure import run
from relearn.storage.files import hash_file, read_csv, read_json


def restructure():
    run(read_params(Path("params.yaml")).restructure)
    return {row.path: row for row in read_manifest(paths.MANIFEST)}, dict(read_csv(paths.EXCLUDED, ("path", "reason")))


@pytest.fixture
def use(workspace, set_params):
    """Set the block restructure: `use(layout="csv")`."""

    def use(**changes):
        set_params({"restructure.source": "source"} | {f"restructure.{key}": value for key, value in changes.items()})

    return use


def list_dataset():
    return sorted(path.relative_to(paths.DATASET).as_posix() for path in paths.DATASET.rglob("*") if path.is_file())


def test_split_class_folders(use):
    use(layout="split_class_folders", splits={"training": "train", "validation": "val", "evaluation": "test"})
    write_images(Path("source"), ["train/cat/1.png", "train/dog/deep/2.png", "val/cat/3.png", "test/cat/4.png"])
    kept, excluded = restructure()
    assert sorted(kept) == list_dataset()
    assert list(kept) == ["training/dog/2.png", "training/cat/1.png", "validation/cat/3.png", "evaluation/cat/4.png"]
    assert excluded == {}


def test_manifest_says_what_the_files_are(use):
    use(layout="split_class_folders")
    Path("source/training/cat").mkdir(parents=True)
    content = encode_image(draw_image(0, (9, 7), "L"), "BMP")
    Path("source/training/cat/wrong-name.png").write_bytes(content)
    Path("source/validation/cat").mkdir(parents=True)
    Path("source/validation/cat/x.jpg").write_bytes(encode_image(draw_image(1), "JPEG"))
    kept, _ = restructure()
    row = kept["training/cat/wrong-name.png"]
    assert row.sha256 == hashlib.sha256(content).hexdigest()
    assert row[4:] == (len(content), 9, 7, "L", "BMP")
    assert (paths.DATASET / row.path).read_bytes() == content


def test_food5k(use):
    use(layout="food5k", labels={"0": "non_food", "1": "food"})
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


def test_class_folders_are_split_by_content(use):
    use(layout="class_folders", fractions={"validation": 0.3, "evaluation": 0.3})
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(40)])
    before, _ = restructure()
    counts = Counter(row.split for row in before.values())
    assert min(counts["training"], counts["validation"], counts["evaluation"]) > 10
    write_images(Path("source"), [f"a/new{n}.png" for n in range(40)], 1000)
    Path("source/b/copy.png").write_bytes(Path("source/b/3.png").read_bytes())
    Path("source/b/4.png").unlink()
    after, _ = restructure()
    (gone,) = before.keys() - after.keys()
    assert gone.endswith("b/4.png")
    (original,) = (row for row in after.values() if row.path.endswith("/b/3.png"))
    (copy,) = (row for row in after.values() if row.path.endswith("copy.png"))
    assert copy.split == original.split


def test_fractions_are_met():
    fractions = read_params(ROOT / "params.yaml").restructure.fractions
    splits = Counter(choose_split(hashlib.sha256(str(n).encode()).hexdigest(), fractions) for n in range(20_000))
    assert splits["validation"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert splits["evaluation"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_validation_is_cut_from_training_where_there_is_none(use):
    splits = {"training": "training", "validation": None, "evaluation": "evaluation"}
    use(layout="split_class_folders", splits=splits, fractions={"validation": 0.5, "evaluation": 0.2})
    write_images(Path("source"), [f"training/a/{n}.png" for n in range(60)])
    write_images(Path("source"), [f"evaluation/a/{n}.png" for n in range(5)], 1000)
    kept, _ = restructure()
    counts = Counter(row.split for row in kept.values())
    assert counts["evaluation"] == 5
    assert counts["training"] + counts["validation"] == 60
    assert 20 < counts["validation"] < 45


def test_csv_layout(use):
    use(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), ["x/1.png", "x/2.png", "3.png", "4.png", "unlisted.png"])
    table = "\ufeffpath,label,split,photographer\nx/1.png,cat,training,me\nx/2.png,dog,evaluation,\n3.png,cat,,\n"
    table += "4.png,dog,validation,\n"
    Path("source/labels.csv").write_text(table)
    kept, excluded = restructure()
    assert {"training/cat/1.png", "validation/dog/4.png", "evaluation/dog/2.png"} < set(kept)
    assert len(kept) == 4
    assert set(excluded) == {"labels.csv", "unlisted.png"}
    assert excluded["unlisted.png"] == "not listed: labels.csv has no row of this path"


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
def test_csv_errors(use, table, message):
    use(layout="csv", labels_csv="labels.csv")
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
def test_path_that_only_looks_like_one_of_the_table_is_said(use, written, there, hint, subfolder):
    use(layout="csv", labels_csv="labels.csv", subfolder=subfolder)
    folder = Path("source", subfolder or "")
    write_images(folder, [there])
    (folder / "labels.csv").write_text(f"path,label\n{written},a\n")
    with pytest.raises(SourceError, match=r"labels\.csv: 1 of its paths are not in the source: .*" + hint):
        restructure()


def test_parameters_that_only_look_like_what_is_in_the_source_are_said(use):
    hint = "(what looks the same is there with other bytes: its accents are in Unicode NFC, here in NFD)"
    write_images(Path("source"), ["e\u0301/cat/1.png", "e\u0301/dog/2.png"])
    use(layout="class_folders", subfolder="\u00e9")
    with pytest.raises(SourceError, match=re.escape(f"outside the subfolder: \u00e9 {hint}")):
        restructure()
    use(layout="class_folders", subfolder=None, labels={"\u00e9": "x"})
    with pytest.raises(SourceError, match=re.escape(f"label not in restructure.labels: 'e\u0301' {hint}")):
        restructure()
    splits = {"training": "\u00e9", "validation": None, "evaluation": "x"}
    use(layout="split_class_folders", splits=splits, labels={})
    with pytest.raises(SourceError, match=re.escape(f"not in a folder of a split: \u00e9, x {hint}")):
        restructure()
    use(layout="csv", labels_csv="\u00e9/cat/1.png")
    with pytest.raises(SourceError, match=r"got no such file .what looks the same is there with other bytes"):
        restructure()


def test_labels_that_are_no_folder_names_are_refused(use):
    use(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), [f"{n}.png" for n in range(1, 7)])
    labels = "1.png,../up\n2.png,\n3.png,..\n4.png,good one\n5.png,lost+found\n6.png,.cat\n"
    Path("source/labels.csv").write_text(f"path,label\n{labels}")
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["good one"]
    assert excluded["5.png"] == "label cannot be the name of a folder: 'lost+found'"
    assert excluded["6.png"] == "label cannot be the name of a folder: '.cat'"
    assert excluded["1.png"] == "label cannot be the name of a folder: '../up'"
    assert excluded["2.png"] == "label cannot be the name of a folder: ''"


def test_csv_cells_are_taken_as_they_are_meant(use):
    use(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), ["x/1.png", "2.png"])
    Path("source/labels.csv").write_text("path,label,split\n./x/1.png, cat ,training\n2.png,cat, validation\n")
    kept, excluded = restructure()
    assert set(kept) == {"training/cat/1.png", "validation/cat/2.png"}
    assert set(excluded) == {"labels.csv"}


@pytest.mark.parametrize("source", [".", "data", "data/dataset", "data/dataset/training"])
def test_source_must_stand_apart_from_what_is_written(use, source):
    write_images(Path("data/dataset/training"), ["cat/1.png"])
    use(layout="class_folders", source=source)
    with pytest.raises(SourceError, match=r"wanted a source apart from data/dataset, which this stage writes, got"):
        restructure()
    assert Path("data/dataset/training/cat/1.png").exists()


def test_unreadable_file_is_excluded_without_its_whole_path(use, monkeypatch):
    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied", "/home/me/source/a/1.png")

    use(layout="class_folders")
    write_images(Path("source"), ["a/1.png", "a/2.png"])
    original = reading.iterate_source
    monkeypatch.setattr(
        reading,
        "iterate_source",
        lambda *args: [file._replace(read=refuse) if file.path == "a/1.png" else file for file in original(*args)],
    )
    _, excluded = restructure()
    assert excluded == {"a/1.png": "cannot be read: Permission denied"}


def test_subfolder(use):
    use(layout="class_folders", subfolder="images/all")
    write_images(Path("source"), ["images/all/cat/1.png", "thumbnails/cat/1.png"])
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["cat"]
    assert excluded == {"thumbnails/cat/1.png": "outside the subfolder: images/all"}


def test_what_is_no_image_is_excluded_with_the_reason(use):
    use(layout="class_folders")
    write_images(Path("source"), ["cat/good.png"])
    for name, content in {
        "cat/empty.png": b"",
        "cat/notes.txt": b"text",
        "cat/.hidden.png": encode_image(draw_image(1)),
        ".cache/cat/x.png": encode_image(draw_image(1)),
        "__MACOSX/cat/._x.png": encode_image(draw_image(1)),
        "@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg": encode_image(draw_image(1)),
        "cat/@eaDir/x.png": encode_image(draw_image(1)),
        "$Recycle.Bin/S-1-5/x.png": encode_image(draw_image(1)),
        "System Volume Information/x.png": encode_image(draw_image(1)),
        "lost+found/x.png": encode_image(draw_image(1)),
        "#recycle/x.png": encode_image(draw_image(1)),
        "cat/Thumbs.db": b"x",
        "cat/desktop.ini": b"x",
        "cat/.DS_Store": b"x",
        "cat/cut.jpg": encode_image(draw_image(1), "JPEG")[:-20],
    }.items():
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        Path("source", name).write_bytes(content)
    kept, excluded = restructure()
    assert len(kept) == 1
    assert excluded.pop("cat/cut.jpg").startswith("damaged JPEG file: ")
    assert excluded == {
        "cat/empty.png": "empty file",
        "cat/notes.txt": "not an image (BMP, GIF, JPEG, PNG, TIFF, WEBP are read)",
        "cat/.hidden.png": "hidden file",
        ".cache/cat/x.png": "hidden file",
        "__MACOSX/cat/._x.png": "system file: __MACOSX",
        "@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg": "system file: @eaDir",
        "cat/@eaDir/x.png": "system file: @eaDir",
        "$Recycle.Bin/S-1-5/x.png": "system file: $Recycle.Bin",
        "System Volume Information/x.png": "system file: System Volume Information",
        "lost+found/x.png": "system file: lost+found",
        "#recycle/x.png": "system file: #recycle",
        "cat/Thumbs.db": "system file: Thumbs.db",
        "cat/desktop.ini": "system file: desktop.ini",
        "cat/.DS_Store": "hidden file",
    }


def copy(source, target):
    Path("source", target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path("source", source), Path("source", target))


def test_copies_in_two_splits_stay_in_the_later_one(use):
    use(layout="split_class_folders")
    write_images(Path("source"), ["training/a/1.png", "validation/a/2.png", "evaluation/a/3.png"])
    copy("training/a/1.png", "validation/a/1.png")
    copy("training/a/1.png", "evaluation/a/1.png")
    copy("training/a/1.png", "training/a/again.png")
    copy("validation/a/2.png", "training/a/2.png")
    kept, excluded = restructure()
    assert set(kept) == {"validation/a/2.png", "evaluation/a/3.png", "evaluation/a/1.png"}
    assert excluded == {
        "training/a/1.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "training/a/again.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "validation/a/1.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "training/a/2.png": "same bytes in a later split: validation/a/2.png, kept in validation",
    }


def test_copies_are_kept_on_request(use):
    use(layout="split_class_folders", duplicates="keep")
    write_images(Path("source"), ["training/a/1.png", "validation/a/2.png"])
    copy("training/a/1.png", "evaluation/a/1.png")
    kept, excluded = restructure()
    assert set(kept) == {"training/a/1.png", "validation/a/2.png", "evaluation/a/1.png"}
    assert excluded == {}


@pytest.mark.parametrize("duplicates", ["exclude", "keep"])
def test_copies_under_two_labels_are_excluded(use, duplicates):
    use(layout="split_class_folders", duplicates=duplicates)
    write_images(Path("source"), ["training/cat/1.png", "training/cat/2.png"])
    copy("training/cat/1.png", "evaluation/dog/1.png")
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["cat"]
    reason = "same bytes under different labels: dog (evaluation/dog/1.png), cat (training/cat/1.png)"
    assert excluded == {"training/cat/1.png": reason, "evaluation/dog/1.png": reason}


def test_reason_does_not_grow_with_the_copies(use):
    use(layout="class_folders")
    write_images(Path("source"), ["a/0.png", "c/1.png"])
    for n in range(40):
        copy("a/0.png", f"{'ab'[n % 2]}/x{n}.png")
    _, excluded = restructure()
    assert len(excluded) == 41
    assert set(excluded.values()) == {"same bytes under different labels: a (a/0.png), b (b/x1.png)"}


def test_names_that_a_file_system_may_take_for_one_keep_apart(use):
    use(layout="split_class_folders")
    names = ["training/a/x/caf\u00e9.png", "training/a/y/cafe\u0301.png", "training/a/z/CAF\u00c9.png"]
    write_images(Path("source"), names)
    kept, _ = restructure()
    assert len({path.split("/")[-1][-12:-4] for path in kept}) == 3
    assert all("~" in path for path in kept)


def test_files_of_one_name_keep_apart(use):
    use(layout="split_class_folders")
    write_images(Path("source"), ["training/a/x/1.png", "training/a/y/1.png", "training/a/z/1.PNG", "training/a/2.png"])
    write_images(Path("source"), ["validation/a/3.png"], 50)
    kept, _ = restructure()
    assert len(list_dataset()) == len(kept) == 5
    assert "training/a/2.png" in kept
    assert sum("~" in path for path in kept) == 3
    for path, row in kept.items():
        assert hashlib.sha256((paths.DATASET / path).read_bytes()).hexdigest() == row.sha256


def test_names_do_not_depend_on_order_and_fit_a_file_system():
    name = "é" * 120 + ".png"
    images = [SourceImage(f"training/a/{folder}/{name}", "training", "a", Inspection("0" * 64, 1)) for folder in "xyz"]
    rows = name_images(images)
    assert {row.path for row, _ in rows} == {row.path for row, _ in name_images(images[::-1])}
    assert max(len(Path(row.path).name.encode()) for row, _ in rows) <= 255
    ((row, _),) = name_images([images[0]._replace(path=f"training/a/{'x' * 300}.png")])
    assert len(Path(row.path).name) < 100


def test_names_that_imitate_unique_ones_overwrite_nothing(use):
    """The last name is the one that `training/a/x/1.png` gets, for it shares its own with `training/a/y/1.png`."""
    use(layout="split_class_folders")
    made = f"1~{hashlib.sha256(b'training/a/x/1.png').hexdigest()[:8]}.png"
    names = ["x/1.png", "y/1.png", f"z/{made}", f"z/{made.upper()}"]
    write_images(Path("source"), [f"training/a/{name}" for name in names])
    kept, excluded = restructure()
    assert excluded == {}
    assert len(kept) == len({path.casefold() for path in kept}) == len(list_dataset()) == 4
    for path, row in kept.items():
        assert hashlib.sha256((paths.DATASET / path).read_bytes()).hexdigest() == row.sha256


COLLIDING = "a/3604/x.png", "a/51430/x.png"


def test_names_are_unique_where_the_digits_of_a_hash_are_the_same():
    """These two paths were found by search: the first eight digits of their hashes are the same."""
    first, second = COLLIDING
    assert hashlib.sha256(first.encode()).hexdigest()[:8] == hashlib.sha256(second.encode()).hexdigest()[:8]
    images = [SourceImage(path, "training", "a", Inspection("0" * 64, 1)) for path in (first, second, "a/x.png")]
    rows = {row.path for row, _ in name_images(images)}
    assert rows == {row.path for row, _ in name_images(images[::-1])}
    assert len({path.casefold() for path in rows}) == 3
    long_name = "\U0001f600" * 60 + "." + "\U0001f600" * 9
    images = [image._replace(path=str(Path(image.path).with_name(long_name))) for image in images]
    assert max(len(Path(row.path).name.encode()) for row, _ in name_images(images)) <= 255


def test_path_that_is_there_twice_is_refused():
    images = [SourceImage("a/1.png", "training", "a", Inspection("0" * 64, 1))] * 2
    with pytest.raises(SourceError, match=r"^a/1\.png: found twice in the source, under names that look the same"):
        name_images(images)


def test_plan_does_not_depend_on_the_order(root):
    params = read_params(root / "params.yaml").restructure
    shuffler = random.Random(0)
    images = []
    for number in range(200):
        sha256 = hashlib.sha256(str(number % 60).encode()).hexdigest()
        split = shuffler.choice(["training", "evaluation"])
        label = "a" if number % 7 else "b"
        images.append(SourceImage(f"{number}/x.png", split, label, Inspection(sha256, 1)))
    first = split_images(images, params)
    for _ in range(5):
        shuffler.shuffle(images)
        kept, excluded = split_images(images, params)
        assert (sorted(kept), sorted(excluded)) == (sorted(first[0]), sorted(first[1]))
        assert len(kept) + len(excluded) == len(images)


def test_folder_zip_and_tar_give_the_same_bytes(use, set_params):
    use(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(20)])
    Path("source/a/notes.txt").write_text("text")
    files = sorted(path for path in Path("source").rglob("*") if path.is_file())
    with zipfile.ZipFile("source.zip", "w") as archive, tarfile.open("source.tar.gz", "w:gz") as tar:
        for path in files[::-1]:
            archive.write(path, path.relative_to("source"))
        random.Random(1).shuffle(files)
        for path in files:
            tar.add(path, path.relative_to("source"))
    results = set()
    for source in ("source", "source.zip", "source.tar.gz"):
        set_params({"restructure.source": source})
        restructure()
        results.add((paths.MANIFEST.read_bytes(), paths.EXCLUDED.read_bytes(), tuple(list_dataset())))
    assert len(results) == 1


def test_truncated_archive_leaves_the_old_data_set(use, set_params):
    use(layout="class_folders")
    write_images(Path("source"), [f"a/{n}.png" for n in range(5)])
    restructure()
    before = list_dataset()
    with tarfile.open("half.tar", "w") as tar:
        tar.add("source", ".")
    content = Path("half.tar").read_bytes()
    Path("half.tar").write_bytes(content[: len(content) // 2 - 700])
    set_params({"restructure.source": "half.tar"})
    with pytest.raises(SourceError, match=r"half\.tar: damaged archive"):
        restructure()
    assert list_dataset() == before
    assert not list(Path("data").glob(".*"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "source: wanted images, got no file at all; put images there, or set restructure.source"),
        (["1.png"], "got none in 1 file .1 does not fit the layout., for example 1.png: does not fit the layout"),
        ([".x/a/1.png"], "got none in 1 file .1 hidden file."),
        ([".x", "1.png", "2.png"], "got none in 3 files .*for example 1.png: does not fit the layout"),
    ],
)
def test_no_image_left(use, names, message):
    use(layout="class_folders")
    Path("source").mkdir()
    write_images(Path("source"), names)
    with pytest.raises(SourceError, match=message):
        restructure()
    assert not paths.DATASET.exists()


def test_splits_taken_for_classes_are_told(use):
    use(layout="class_folders")
    write_images(Path("source"), ["train/cat/1.png", "val/cat/2.png", "test/dog/3.png"])
    with pytest.raises(
        SourceError, match="class_folders makes the classes test, train, val, which are names of splits"
    ):
        restructure()


def test_classes_may_be_called_like_splits_where_the_layout_names_both(use):
    use(layout="split_class_folders")
    write_images(Path("source"), ["training/train/1.png", "training/test/2.png", "validation/train/3.png"])
    kept, _ = restructure()
    assert {row.label for row in kept.values()} == {"train", "test"}


def test_one_class_alone_is_said(use, caplog):
    use(layout="class_folders")
    write_images(Path("source"), ["shapes/cat/1.png", "shapes/dog/2.png"])
    restructure()
    assert "one class only, 'shapes': does restructure.subfolder name the folder above the classes?" in caplog.text


def test_summary_counts_what_was_found(use, caplog):
    use(layout="class_folders")
    write_images(Path("source"), ["a/1.png", "a/2.png", "b/3.png"])
    Path("source/b/x.txt").write_text("text")
    Path("source/b/y.txt").write_text("")
    with caplog.at_level(logging.INFO, "relearn"):
        restructure()
    assert "source: 3 images kept" in caplog.text
    assert "of 2 classes" in caplog.text
    assert "2 files excluded, listed in data/excluded.csv: 1 empty file, 1 not an image" in caplog.text


def test_zip_members_are_decoded_like_files(use, set_params):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/1.png", encode_image(draw_image(1)))
        archive.writestr("../a/2.png", encode_image(draw_image(2)))
    Path("a.zip").write_bytes(buffer.getvalue())
    use(layout="class_folders", source="a.zip")
    kept, excluded = restructure()
    assert len(kept) == 1
    assert excluded == {"../a/2.png": "name points outside the archive"}
    assert not Path("a").exists()


# --- nothing twice ---------------------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch):
    """Take every file for one that was changed long ago, so that it may be remembered."""
    monkeypatch.setattr(inspections, "SETTLED_SECONDS", -3600.0)


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the contents that are decoded from now on."""
    sizes = []

    def decode(content):
        sizes.append(len(content))
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    return sizes


@pytest.fixture
def read(monkeypatch):
    """The paths of the files that are read from now on."""
    names = []
    original = reading.iterate_source

    def iterate(*args):
        for file in original(*args):
            yield file._replace(read=lambda file=file: names.append(file.path) or file.read())

    monkeypatch.setattr(reading, "iterate_source", iterate)
    return names


def read_results():
    files = [path for path in Path("data").rglob("*") if path.is_file()]
    return {path.as_posix(): path.read_bytes() for path in sorted(files)}


def test_unchanged_files_are_not_read_again(use, settled, decoded, read):
    use(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(5)])
    Path("source/a/broken.png").write_bytes(b"text")
    shutil.copy("source/a/1.png", "source/a/copy.png")
    restructure()
    results = read_results()
    assert (len(read), len(decoded)) == (12, 11)

    read.clear(), decoded.clear()
    restructure()
    assert (read, decoded) == ([], [])
    assert read_results() == results

    write_images(Path("source"), ["b/2.png", "b/new.png"], 100)
    restructure()
    assert sorted(read) == ["b/2.png", "b/new.png"]
    assert len(decoded) == 2
    fresh = read_results()
    shutil.rmtree(paths.find_cache())
    restructure()
    assert read_results() == fresh != results


def test_bytes_are_not_decoded_again_wherever_they_stand(use, decoded):
    use(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(5)])
    restructure()
    results = read_results()
    decoded.clear()
    with zipfile.ZipFile("source.zip", "w") as archive:
        for path in Path("source").rglob("*.png"):
            archive.write(path, path.relative_to("source"))
    use(layout="class_folders", source="source.zip")
    restructure()
    assert decoded == []
    record = "data/source.json"
    assert {name: content for name, content in read_results().items() if name != record} == {
        name: content for name, content in results.items() if name != record
    }


def test_file_that_changes_while_it_is_copied_is_told(use, settled, monkeypatch):
    use(layout="class_folders")
    write_images(Path("source"), ["a/1.png", "b/2.png"])
    restructure()
    copyfile = shutil.copyfile

    def copy_and_change(source, target):
        copyfile(source, target)
        Path(source).write_bytes(encode_image(draw_image(9)))

    monkeypatch.setattr(placing.shutil, "copyfile", copy_and_change)
    before = read_results()
    with pytest.raises(SourceError, match=r"source/[ab]/[12]\.png: changed while it was copied; run `dvc repro` when"):
        restructure()
    assert read_results() == before


def test_sightings_and_hashes_are_in_the_order_of_the_manifest(use):
    use(layout="split_class_folders")
    names = [f"{split}/{label}/{n}.png" for split in ("training", "evaluation") for label in "ab" for n in range(4)]
    for seed, name in enumerate(names):
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        Path("source", name).write_bytes(encode_image(draw_image(seed, (40, 30))))
    Path("source/training/a/flat.png").write_bytes(encode_image(Image.new("RGB", (40, 30), "red")))
    kept, _ = restructure()
    sightings = read_csv(paths.SIGHTINGS, ("path", "source_path", "contrast"))
    assert [row[0] for row in sightings] == list(kept)
    hashes = read_hashes(paths.HASHES)
    for (_, source_path, contrast), row in zip(sightings, hashes, strict=True):
        found = compute_fingerprint(decode_image(Path("source", source_path).read_bytes()).rgb)
        assert (float(contrast), row.tobytes()) == (found.contrast, found.hashes or bytes(row.size))
    assert read_json(paths.SOURCE) == {"source": "source", "n_files": 17, **hash_tables()}
    assert read_json(paths.SOURCE)["hashes_sha256"] == hash_file(paths.HASHES)


# --- a source that is not known as a whole ----------------------------------------------------------------------------


def list_source():
    return sorted(path for path in Path("source").rglob("*") if path.is_file())


@pytest.fixture
def forty(use):
    """Forty images in four classes."""
    use(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "abcd" for n in range(10)])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["scandir", "is_dir"])
def test_folder_that_cannot_be_listed_is_an_error(forty, monkeypatch, number, call):
    restructure()
    before = read_results()
    scandir = os.scandir

    class Entry:  # as one of a file system that does not say of what kind an entry is
        def __init__(self, entry):
            self.entry = entry

        def __getattr__(self, name):
            return getattr(self.entry, name)

        def is_dir(self, **options):
            if self.entry.path == "source/b":
                raise OSError(number, os.strerror(number))
            return self.entry.is_dir(**options)

    @contextmanager
    def scan(path):
        if call == "scandir" and str(path) == "source/b":
            raise OSError(number, os.strerror(number), path)
        with scandir(path) as entries:
            yield list(entries) if call == "scandir" else [Entry(entry) for entry in entries]

    where = "source/b" if call == "scandir" else "source"
    with (
        monkeypatch.context() as patch,
        pytest.raises(SourceError, match=rf"^{where}: folder cannot be listed: {os.strerror(number)}; allow it to be"),
    ):
        patch.setattr(sources.os, "scandir", scan)
        restructure()
    assert read_results() == before


def rename_away():
    Path("source/d").rename("elsewhere")


def rename_within():
    Path("source/d").rename("source/e")


def replace_file():
    Path("source/c/new").write_bytes(encode_image(draw_image(99)))
    Path("source/c/new").replace("source/c/3.png")


CHANGES = {
    "folder renamed away": (rename_away, "10 files gone|folder cannot be listed|no such file"),
    "folder renamed within": (rename_within, "10 files gone .*, 10 files new|folder cannot be listed"),
    "folder deleted": (lambda: shutil.rmtree("source/d"), "10 files gone|folder cannot be listed"),
    "source renamed": (lambda: Path("source").rename("other"), "source.*: no such file or folder"),
    "file deleted": (lambda: Path("source/c/3.png").unlink(), r"1 file gone \(c/3\.png\); run `dvc repro` when nobody"),
    "file added": (lambda: write_images(Path("source"), ["c/new.png"], 500), r"1 file new \(c/new\.png\)"),
    "file replaced": (replace_file, r"1 file changed \(c/3\.png\)"),
    "folder added": (lambda: write_images(Path("source"), ["x/1.png", "x/2.png"], 600), "2 files new"),
}


# What happens to a file before its folder is listed is no change.
@pytest.mark.parametrize(
    ("name", "when"),
    [
        (name, when)
        for name in CHANGES
        for when in ("first file", "last file")
        if "folder" in name or when != "first file"
    ],
)
def test_source_that_changes_while_it_is_read_is_an_error(forty, monkeypatch, name, when):
    """Another thread changes it for good once the first, or the last, image is decoded."""
    change, message = CHANGES[name]
    n_decoded = []
    lock = threading.Lock()

    def decode(content):
        with lock:
            n_decoded.append(1)
            if len(n_decoded) == (1 if when == "first file" else 40):
                change()
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    with pytest.raises(SourceError, match=message):
        restructure()
    assert not paths.DATASET.exists()


def test_source_that_other_processes_rename_is_read_as_it_was_at_one_time(forty):
    """A folder of ten that is away half of the time: an error, or all or none of them, and never a part."""
    renaming = "import os, sys, time\nwhile True:\n"
    renaming += " os.rename('source/c', 'away'); time.sleep(0.004); os.rename('away', 'source/c'); time.sleep(0.004)\n"
    process = subprocess.Popen([sys.executable, "-c", renaming])
    counts = Counter()
    try:
        for _ in range(40):
            try:
                kept, excluded = restructure()
            except SourceError:
                counts["error"] += 1
            else:
                counts[len(kept), len(excluded)] += 1
    finally:
        process.kill()
        process.wait()
    assert counts.keys() <= {"error", (40, 0), (30, 0)}
    assert counts["error"] > 3


@pytest.mark.parametrize("call", ["stat", "open"])
def test_file_that_is_away_only_when_it_is_read_is_an_error(forty, monkeypatch, call):
    real = getattr(Path, call)
    is_away = [True]

    def fail_once(path, *arguments, **options):
        if path.as_posix() == "source/c/3.png" and is_away:
            is_away.clear()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, call, fail_once)
    with pytest.raises(SourceError, match=r"^source: changed while it was read: 1 file changed \(c/3\.png\)"):
        restructure()


def test_files_that_are_away_at_each_look_are_an_error(forty, monkeypatch):
    """Their folder is there whenever it is listed, and away whenever one of its files is looked at."""
    real = Path.stat

    def fail(path, *arguments, **options):
        if path.as_posix().startswith("source/c/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(SourceError, match=r"^source: changed while it was read: 10 files changed \(c/0\.png"):
        restructure()


def test_known_files_that_vanish_while_they_are_copied_are_an_error(forty, settled, monkeypatch):
    restructure()
    before = read_results()
    copyfile = shutil.copyfile

    def copy_and_rename(source, target):
        if Path("source/d").exists():
            Path("source/d").rename("elsewhere")
        return copyfile(source, target)

    monkeypatch.setattr(placing.shutil, "copyfile", copy_and_rename)
    with pytest.raises(
        SourceError, match=r"source/d/\d\.png: changed while it was copied|source: changed while it was"
    ):
        restructure()
    assert read_results() == before


@pytest.mark.parametrize("name", ["source.zip", "source.tar.gz"])
def test_archive_that_is_replaced_while_it_is_read_is_an_error(forty, set_params, monkeypatch, name):
    shutil.make_archive("source", "zip", "source")
    shutil.make_archive("source", "gztar", "source")
    set_params({"restructure.source": name})
    restructure()
    shutil.rmtree(paths.find_cache())
    before = read_results()

    lock = threading.Lock()

    def decode(content):
        with lock:
            shutil.copy(name, "new")
            Path("new").replace(name)
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    with pytest.raises(SourceError, match=rf"^{name}: changed while it was read: 1 file changed \({name}\); run"):
        restructure()
    assert read_results() == before


def test_source_that_changes_after_its_table_was_read_is_an_error(use, monkeypatch):
    use(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), [f"{n}.png" for n in range(9)])
    Path("source/labels.csv").write_text("path,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(9)))
    layout = reading.Layout
    for change in (Path("source/3.png").unlink, lambda: Path("source/labels.csv").write_text("path,label\n")):

        def choose(params, change=change):
            places = layout(params)
            change()
            return places

        with (
            monkeypatch.context() as patch,
            pytest.raises(SourceError, match=r"^source: changed while it was read: 1 file (gone|changed) \("),
        ):
            patch.setattr(reading, "Layout", choose)
            restructure()
        write_images(Path("source"), [f"{n}.png" for n in range(9)])


def test_hidden_files_may_come_and_go(forty, monkeypatch):
    def decode(content):
        for name in ("source/.DS_Store", "source/a/Thumbs.db", "source/@eaDir"):
            Path(name).write_bytes(content)
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    kept, _ = restructure()
    assert len(kept) == 40


def test_classes_without_an_image_are_warned_of(use, caplog, set_params):
    """An empty folder, one that is full of copies of another class, one that is a link, and one without any image."""
    use(layout="class_folders")
    write_images(Path("source"), ["cat/1.png", "dog/2.png", "dog/3.png", "landscape/4.png", ".hidden/5.png"])
    copy("landscape/4.png", "dog/4.png")
    Path("source/notes").mkdir()
    Path("source/notes/a.txt").write_text("text")
    for folder in ("empty", "nested/empty", "@eaDir/empty"):
        Path("source", folder).mkdir(parents=True)
    Path("source/linked").symlink_to("cat")
    warning = "source: classes of which no image was kept: empty (0 files), landscape (1 file), linked (0 files), "
    warning += "nested (0 files), notes (1 file); data/excluded.csv has the reasons"
    restructure()
    assert warning in caplog.messages
    caplog.clear()
    shutil.make_archive("source", "zip", "source")
    with tarfile.open("source.tar", "w") as archive:
        archive.add("source", ".")
    for name in ("source.zip", "source.tar"):
        set_params({"restructure.source": name})
        restructure()
        (told,) = [message for message in caplog.messages if "no image was kept" in message]
        assert "empty (0 files), landscape (1 file)" in told
        assert "nested (0 files), notes (1 file)" in told
        caplog.clear()


def test_classes_that_all_have_images_are_not_warned_of(forty, caplog):
    restructure()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("layout", ["split_class_folders", "csv"])
def test_classes_of_other_layouts_without_an_image_are_warned_of(use, caplog, layout):
    use(layout=layout, labels_csv="labels.csv", labels={"a": "cat", "b": "dog", "c": "owl"})
    write_images(Path("source"), ["training/a/1.png", "evaluation/a/2.png"])
    for folder in ("training/b", "training/c", "evaluation/x"):
        Path("source", folder).mkdir(parents=True)
    Path("source/training/b/3.png").write_bytes(b"")
    rows = "".join(f"{path.relative_to('source')},{path.parent.name}\n" for path in list_source())
    Path("source/labels.csv").write_text(f"path,label\n{rows}")
    restructure()
    (told,) = [message for message in caplog.messages if "no image was kept" in message]
    owl = ", owl (0 files)" if layout == "split_class_folders" else ""
    assert told == f"source: classes of which no image was kept: dog (1 file){owl}; data/excluded.csv has the reasons"
