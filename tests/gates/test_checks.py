import re

import numpy as np
import pytest

from conftest import draw_image
from gate_data import BEFORE, ROWS, change, make_data, make_params, without
from relearn.dataset.manifest import SPLITS
from relearn.errors import IntegrityError
from relearn.gates.checks import CHECKS, check_data, describe_verdict
from relearn.gates.expectations import Finding, describe_failure
from relearn.gates.minimum import advise_more_images
from relearn.gates.reference import Reference
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, compute_fingerprint

# Of each check: data that fails it, the rows that it names, and a part of the message.
FAILURES = {
    "complete": (make_data(change(3, label="")), [f"{ROWS[3].path} (no label)"], "a value in every cell, got 1 of 18"),
    "types": (
        make_data(change(2, width_px="x", sha256="abc")),
        [f"{ROWS[2].path} (width_px sha256)"],
        "wanted whole positive numbers, SHA-256 in hexadecimal, known splits, got 1 of 18 images that fail",
    ),
    "unique_paths": (make_data(change(1, path=ROWS[0].path)), [ROWS[0].path] * 2, "a path once, got 2 of 18"),
    "counts_add_up": (make_data(n_files=20), [], "as many .* as found, got 18 kept and 0 excluded of 20 found"),
    "excluded_share": (
        make_data(excluded=[("a.jpg", "damaged JPEG file: x"), ("b.jpg", "damaged JPEG file: y")]),
        [],
        r"at most 5\.0% .* got 2 of 20 \(10\.0%\): 2 damaged JPEG file, such as a\.jpg$",
    ),
    "classes": (make_data(without(*(f"{split}/dog" for split in SPLITS))), [], "at least 2 classes, got 1"),
    "class_names": (
        make_data([row._replace(label="Cat") if row.label == "dog" else row for row in ROWS]),
        ["Cat", "cat"],
        "names of classes that differ by more than upper and lower case, got 2 of 2 classes that fail: Cat, cat",
    ),
    "empty_classes": (
        make_data()._replace(lost={"owl": 0, "fox": 2}),
        ["owl"],
        "a file in the folder of every class, got 1 of 4 classes that fail: owl",
    ),
    "lost_classes": (
        make_data()._replace(lost={"owl": 0, "fox": 2}),
        ["fox (2 excluded)"],
        "an image of every class that has files, got 1 of 4 classes that fail: fox",
    ),
    "every_class_in_every_split": (
        make_data(without("validation/dog")),
        ["validation/dog (0)"],
        "an image of every class in every split, got 1 of 6 pairs of split and class that fail: validation/dog",
    ),
    "min_images": (make_data(ROWS[:-2]), ["evaluation/dog (1)"], "at least 2 images of every class in every split"),
    "class_balance": (
        make_data([*ROWS, *(ROWS[0]._replace(path=f"x{n}", sha256=f"{n:064}") for n in range(60))]),
        ["training (cat 63, dog 3)"],
        "at most 10 times as many images in a split's largest class as in its smallest, got 1 of 3 splits",
    ),
    "split_balance": (
        make_data(ROWS[:-2]),
        [r"evaluation/cat (75.0%, off by 25.0%)", "evaluation/dog (25.0%, off by 25.0%)"],
        r"a class's share of a split within 0\.1 of its share of training, got 2 of 6",
    ),
    "copies_across_splits": (
        make_data(change(6, sha256=ROWS[0].sha256)),
        [ROWS[0].path, ROWS[6].path],
        "the same bytes in one split only, got 2 of 18",
    ),
    "groups_across_splits": (
        make_data()._replace(groups=["x" if n in (2, 8, 9) else row.sha256 for n, row in enumerate(ROWS)]),
        [ROWS[2].path, ROWS[8].path, ROWS[9].path],
        "all images of a group in one split, got 1 of 1 groups that fail",
    ),
    "copies_across_labels": (
        make_data(change(3, sha256=ROWS[0].sha256)),
        [ROWS[0].path, ROWS[3].path],
        "the same bytes under one label, got 2 of 18",
    ),
    "near_duplicates_across_splits": (
        make_data(hashes={0: 1, 4: 2, 8: 1, 13: 3}),
        [f"{ROWS[0].path} (like {ROWS[8].path}, distance 0)"],
        "no copy in another split, re-encoded, resized, slightly cropped or mirrored, got 1 of 4 images "
        "with one; 14 too small or too uniform to compare: training/cat/0.png",
    ),
    "near_duplicates_across_labels": (
        make_data(hashes={0: 1, 3: 1}),
        [f"{ROWS[0].path} (like {ROWS[3].path}, distance 0)"],
        "no copy in another label, re-encoded, resized, slightly cropped or mirrored, got 1 of 2 images with one",
    ),
    "width_px": (make_data(change(7, width_px=7)), [f"{ROWS[7].path} (7 px)"], "8 to 20,000 px of width, got 1 of"),
    "height_px": (make_data(change(7, height_px=20_001)), [f"{ROWS[7].path} (20001 px)"], "8 to 20,000 px of height"),
    "aspect_ratio": (make_data(change(7, width_px=501)), [f"{ROWS[7].path} (501 x 100 px)"], "sides of at most 5 to 1"),
    "formats": (
        make_data(change(5, format="ICO")),
        [f"{ROWS[5].path} (ICO)"],
        "a format of AVIF, BMP, GIF, HEIC, JPEG, PNG",
    ),
    "modes": (make_data(change(5, mode="CMYK")), [f"{ROWS[5].path} (CMYK)"], "a colour mode of RGB, L, got 1 of 18"),
    "contrast": (make_data(contrast={9: 3.5}), [f"{ROWS[9].path} (3.5)"], "brightness that deviates by at least 4 of"),
    "vanished_classes": (
        make_data(before=Reference("c" * 40, {"cat": 9, "dog": 9, "owl": 2})),
        ["owl"],
        "an image of each class that there was in the last committed data, got 1 of 3 classes that fail: owl",
    ),
    "new_classes": (
        make_data(before=Reference("c" * 40, {"cat": 9})),
        ["dog"],
        "no class that there was not in the last committed data, got 1 of 2 classes that fail: dog",
    ),
    "shrinkage": (
        make_data(before=Reference("c" * 40, {"cat": 9, "dog": 12})),
        ["dog (9, was 12)"],
        r"at most 20\.0% fewer images than in the last committed data, in each class and all of these, got 1 of 3",
    ),
}
# What fails beside a check is what must: a class that is missing is also fewer than the least number.
BESIDE = {
    "complete": {"split_balance"},
    "types": {"width_px", "aspect_ratio"},
    "empty_classes": {"lost_classes"},
    "lost_classes": {"empty_classes"},
    "every_class_in_every_split": {"min_images", "split_balance"},
    "min_images": {"split_balance"},
    "split_balance": {"min_images"},
    "class_balance": {"split_balance"},
    "height_px": {"aspect_ratio"},
    "width_px": {"aspect_ratio"},
}


def find_failed(data, params=None):
    return {finding.name: finding for finding in check_data(data, params or make_params()) if not finding.passed}


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, BEFORE])
def test_good_data_passes_every_check(before):
    data = make_data(before=before, hashes={0: 1, 1: 1, 8: 2}, excluded=[(".x", "hidden file")] * 9)
    findings = check_data(data, make_params())
    assert [finding.name for finding in findings] == list(make_params().rules)
    assert [describe_failure(finding) for finding in findings if not finding.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_each_check_fails_on_what_it_is_for(name):
    data, rows, message = FAILURES[name]
    failed = find_failed(data)
    assert failed[name].rows == rows
    assert re.search(message, describe_failure(failed[name]))
    assert failed.keys() - {name} <= BESIDE.get(name, set())


@pytest.mark.slow
def test_classes_that_look_the_same_are_distinguished():
    names = {"cat": "\u00e9", "dog": "e\u0301"}
    data = make_data([row._replace(label=names[row.label]) for row in ROWS])
    assert sorted(find_failed(data)["class_names"].rows) == [
        "e\u0301 (accents in Unicode NFD)",
        "\u00e9 (accents in Unicode NFC)",
    ]


def test_a_check_is_a_row_of_the_table_and_a_field_of_the_parameters():
    assert list(CHECKS) == list(make_params().rules)


def test_every_check_has_a_failing_case():
    assert FAILURES.keys() == CHECKS.keys() - {"columns"}


@pytest.mark.slow
def test_wrong_columns_are_all_that_is_said():
    data = make_data()
    data = data._replace(manifest=data.manifest.rename(columns={"mode": "colour"}))
    (finding,) = check_data(data, make_params())
    assert not finding.passed
    assert describe_failure(finding).startswith("columns: wanted the columns path, split, label,")
    assert ", colour, format" in describe_failure(finding)


@pytest.mark.slow
def test_hidden_files_are_no_loss():
    excluded = [
        (f"{n}.jpg", reason)
        for n, reason in enumerate(["hidden file", "system file: Thumbs.db", "outside the subfolder: x"] * 30)
    ]
    assert find_failed(make_data(excluded=excluded)) == {}


@pytest.mark.slow
def test_mirrored_copies_count_where_they_shall():
    data = make_data()
    rgb = draw_image(1, (64, 64)).resize((200, 160))
    for row, image in ((0, rgb), (8, rgb.transpose(0))):
        data.hashes[row] = np.frombuffer(compute_fingerprint(image).hashes, np.uint8).reshape(N_HASHES, HASH_BYTES)
    assert find_failed(data).keys() == {"near_duplicates_across_splits"}
    assert find_failed(data, make_params(near_duplicates_across_splits={"mirrored": False})) == {}


@pytest.mark.slow
def test_only_so_many_rows_are_named():
    rows = [ROWS[0]._replace(path=f"{n}", sha256=f"{n:064}", mode="P") for n in range(50)]
    finding = find_failed(make_data(rows))["modes"]
    assert (finding.n_failed, len(finding.rows), len(finding.images)) == (50, 20, 20)


@pytest.mark.slow
def test_copies_are_shown_side_by_side():
    finding = find_failed(make_data(change(6, sha256=ROWS[0].sha256)))["copies_across_splits"]
    assert finding.images == [[ROWS[0].path, ROWS[6].path]]
    finding = find_failed(make_data(hashes={0: 1, 8: 1}))["near_duplicates_across_splits"]
    assert finding.images == [[ROWS[0].path, ROWS[8].path]]


def make_finding(number, severity="error", passed=False):
    rows = ["a", "b", "c", "d", "e"]
    return Finding(f"check{number}", severity, "x", "5 of 9 rows that fail", passed, 0 if passed else 5, rows, [])


def test_failure_is_one_line():
    finding = make_finding(1)
    assert describe_failure(finding) == "check1: wanted x, got 5 of 9 rows that fail: a, b, c and 2 more"
    assert describe_failure(finding._replace(n_failed=1, rows=["a"])).endswith("that fail: a")
    assert describe_failure(finding._replace(rows=["a"])).endswith("that fail: a and 4 more")


def test_error_says_how_many_images_a_class_lacks_and_which_minimum_it_meets():
    data = make_data(ROWS[:-1])
    few = make_finding(1)._replace(name="min_images")
    line = describe_verdict([few], data.manifest, make_params(min_images={"min": 4}))[1]
    assert line.endswith(
        "and 2 more; add about 7 images of dog, of which 2 go to evaluation, or set validate.min_images.min to 2: with "
        "as few for evaluation the recall of a class is known to within 41 points, unless evaluate.by: folds judges "
        "all 8 of dog"
    )
    warned = describe_verdict([few._replace(severity="warn")], data.manifest, make_params())[1]
    assert warned.endswith("and 2 more")


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        (without("validation/dog"), "add about 10 images of dog, of which 2 go to validation"),
        (without("validation/dog", "validation/cat"), "add images to validation, or raise restructure.fractions"),
        ([], "add images"),
    ],
)
def test_advice_for_a_class_without_images(rows, advice):
    assert advise_more_images(make_data(rows).manifest, make_params().min_images) == advice


def test_terminal_gets_at_most_20_lines_the_errors_first():
    findings = [make_finding(n, "warn") for n in range(30)] + [make_finding(99)]
    manifest = make_data().manifest
    lines = describe_verdict(findings, manifest, make_params())
    assert len(lines) <= 20
    assert lines[0] == "data/manifest.csv: 18 images, 31 checks: 1 failed, 30 warned"
    assert lines[1].startswith("  error  check99: wanted x")
    assert lines[2].startswith("  warn   check0: ")
    assert lines[-3:] == [
        "  and 16 more",
        "  fix the data, or change the block validate of params.yaml",
        "  reports/validation.html shows it all",
    ]
    assert describe_verdict([make_finding(1, "off", True)], manifest, make_params())[0].endswith(
        "0 checks: passed, 1 off"
    )


def test_wrong_columns_cannot_be_let_pass(workspace):
    data = make_data()
    data = data._replace(manifest=data.manifest.drop(columns="mode"))
    for severity in ("warn", "off"):
        with pytest.raises(IntegrityError, match=r"data/manifest\.csv: wanted the columns path, .*, got path, .*; run"):
            check_data(data, make_params(columns={"severity": severity}))


@pytest.mark.slow
def test_both_splits_of_many_copies_are_shown():
    rows = [row._replace(sha256=ROWS[0].sha256) if row.label == "cat" else row for row in ROWS]
    rows = [ROWS[0]._replace(path=f"training/cat/x{n}.png") for n in range(9)] + rows
    (group,) = find_failed(make_data(rows))["copies_across_splits"].images
    assert {name.split("/")[0] for name in group} == set(SPLITS)
