import shutil
from pathlib import Path

import pytest

from conftest import restructure, write_images
from relearn import paths
from relearn.dataset.corrections import Corrected, count_corrections, read_corrections
from relearn.errors import SourceError
from relearn.storage.files import hash_file, read_csv, read_json, write_csv

CORRECTIONS = Path("data/corrections.csv")
HEADER = "sha256,action,label,reason,who\n"
A, B = "a" * 64, "b" * 64


def correct(*rows):
    """Write corrections: the path of an image or a hash, then action, label, reason, who."""
    write_csv(
        CORRECTIONS,
        HEADER.strip().split(","),
        [(hash_file(Path("source", name)) if "/" in name else name, *rest) for name, *rest in rows],
    )


def read_corrected():
    return [Corrected(*row) for row in read_csv(paths.CORRECTED, Corrected._fields)]


@pytest.mark.parametrize("stratify", [False, True])
def test_what_a_person_decided_is_applied_and_counted_and_moves_no_image(forty, set_params, caplog, stratify):
    caplog.set_level("INFO")
    set_params({"restructure.stratify": stratify, "restructure.group_by": "none"})
    before, _ = restructure()
    assert "corrections.csv" not in caplog.text
    correct(("a/1.png", "relabel", "b", "a b, surely", "me"), ("a/2.png", "drop", "", "blurred", "me"))
    with CORRECTIONS.open("a") as file:
        file.write(f"{hash_file(Path('source/c/3.png'))},keep,,,\n{A},drop,,,\n")
    after, excluded = restructure()
    splits = [{row.sha256: row.split for row in rows.values()} for rows in (before, after)]
    assert splits[0].items() - splits[1].items() == {
        (hash_file(Path("source/a/2.png")), splits[0][hash_file(Path("source/a/2.png"))])
    }
    labels = {row.sha256: row.label for row in after.values()}
    assert labels[hash_file(Path("source/a/1.png"))] == "b"
    assert excluded == {"a/2.png": "dropped by a correction: blurred"}
    assert [(row.path, row.action, row.source_label, row.label) for row in read_corrected()] == [
        ("", "drop", "", ""),
        ("a/1.png", "relabel", "a", "b"),
        ("a/2.png", "drop", "a", "a"),
        ("c/3.png", "keep", "c", "c"),
    ]
    assert "data/corrections.csv: 3 images corrected (keep 1, relabel 1, drop 1)" in caplog.text
    assert "data/corrections.csv: the source has no image for 1 correction; remove what" in caplog.text
    assert count_corrections(read_corrected()) == {"keep": 1, "relabel": 1, "drop": 1, "without_image": 1}


def test_correction_holds_for_all_files_of_the_same_bytes(forty):
    shutil.copy("source/a/1.png", "source/b/copy.png")
    kept, excluded = restructure()
    assert [reason.split(":")[0] for reason in excluded.values()] == ["same bytes under different labels"] * 2
    correct(("a/1.png", "relabel", "b", "", ""))
    kept, excluded = restructure()
    assert excluded == {}
    twins = [row for row in kept.values() if row.sha256 == hash_file(Path("source/a/1.png"))]
    assert [row.label for row in twins] == ["b", "b"]
    correct(("a/1.png", "drop", "", "", ""))
    assert restructure()[1] == dict.fromkeys(("a/1.png", "b/copy.png"), "dropped by a correction")
    # To keep them does not say which of the two labels is right.
    correct(("a/1.png", "keep", "", "", ""))
    assert len(restructure()[1]) == 2


def test_dropped_image_leaves_its_near_duplicates_in_their_split(use_layout):
    use_layout(layout="class_folders", group_by="pattern", group_pattern="(?P<group>g[0-9])")
    write_images(Path("source"), [f"a/g{n}-{m}.png" for n in range(8) for m in range(3)])
    before, _ = restructure()
    correct(*((f"a/g{n}-0.png", "drop", "", "", "") for n in range(8)))
    after, excluded = restructure()
    assert len(excluded) == 8
    assert after.items() <= before.items()


def test_class_of_another_image_that_is_gone_is_no_error(forty, caplog):
    correct((A, "relabel", "no such class", "", ""))
    kept, _ = restructure()
    assert len(kept) == 40
    assert "no image for 1 correction;" in caplog.text


def test_class_whose_images_were_all_corrected_is_not_lost(forty, caplog):
    """Not even if some were dropped; but to keep them says nothing of a class whose images are excluded."""
    write_images(Path("source"), ["dgo/1.png", "dgo/2.png", "blurred/1.png", "twin/1.png"], first_seed=100)
    shutil.copy("source/twin/1.png", "source/a/twin.png")
    correct(
        ("dgo/1.png", "relabel", "d", "", ""),
        ("dgo/2.png", "relabel", "d", "", ""),
        ("blurred/1.png", "drop", "", "", ""),
        ("twin/1.png", "keep", "", "", ""),
    )
    restructure()
    assert read_json(paths.SOURCE)["lost_classes"] == {"twin": 1}
    (warning,) = [message for message in caplog.messages if "no image was kept" in message]
    assert warning == "source: no image was kept of twin (all of its files are excluded)"


def test_file_from_excel_is_read(workspace):
    CORRECTIONS.write_text(f"\ufeff{HEADER}{A},drop,,,\n\n", encoding="utf-8")
    assert list(read_corrections(CORRECTIONS)) == [A]


def test_unknown_class_is_named_and_nothing_is_written(forty):
    correct((A, "keep", "", "", ""), ("a/1.png", "relabel", "A", "", ""))
    message = r"data/corrections\.csv: row 3: wanted a class of the source \(a, b, c, d\), got 'A'; write one"
    with pytest.raises(SourceError, match=message):
        restructure()
    assert not paths.MANIFEST.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            f"corrections.csv: wanted a file that begins with the line {HEADER.strip()}, got no such file; set rest",
        ),
        (
            "sha256,action\n",
            "corrections.csv: wanted the columns sha256,action,label,reason,who, got sha256,action; save it as CSV",
        ),
        ("", "corrections.csv: wanted the columns sha256,action,label,reason,who, got ; save it as CSV in UTF-8, with"),
        (f"{HEADER}{A},keep\n", "corrections.csv: row 2: wanted 5 cells, got 2; write 5 cells, and quote those that"),
        (
            f"{HEADER}{A},keep,,a, b,me\n",
            "corrections.csv: row 2: wanted 5 cells, got 6; write 5 cells, and quote those",
        ),
        (f"{HEADER}\n{A},keep,,,\n", "corrections.csv: row 2: wanted 5 cells, got 0; remove the empty line"),
        (f"{HEADER}{A},remove,,,\n", "row 2: wanted one of the actions keep, relabel, drop, got 'remove'; write one"),
        (
            f"{HEADER}{A[:9]},keep,,,\n",
            "row 2: wanted the SHA-256 of an image, 64 hexadecimal digits in lower case, got",
        ),
        (f"{HEADER}{A.upper()},keep,,,\n", "row 2: wanted the SHA-256 of an image"),
        (f"{HEADER}{A},drop,cat,,\n", "row 2: wanted no label for drop, got 'cat'; remove it, or relabel"),
        (f"{HEADER}{A},keep,cat,,\n", "row 2: wanted no label for keep, got 'cat'; remove it, or relabel"),
        (f"{HEADER}{A},relabel,,,\n", "row 2: wanted a label for relabel, got none; name the class"),
        (f'{HEADER}{A},keep,,"x\ny",\n', "row 2: a cell holds a control character; write it in one line"),
        (
            f"{HEADER}{A},keep,,,\n{B},keep,,,\n{A},drop,,,\n",
            "row 4: wanted one row per image, got a{16} again, as in row 2",
        ),
    ],
)
def test_error_says_file_row_and_what_to_do(workspace, content, message):
    CORRECTIONS.unlink() if content is None else CORRECTIONS.write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_corrections(CORRECTIONS)
    assert "\n" not in str(caught.value)
