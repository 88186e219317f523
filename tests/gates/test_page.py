import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from conftest import write_images
from relearn import paths
from relearn.dataset.corrections import Corrected, count_corrections
from relearn.dataset.manifest import Exclusion
from relearn.gates.page import N_CLASSES, N_EXCLUDED, draw_bars, draw_page

EVIL = "<script>alert(1)</script>\"'&.png"


class Reader(HTMLParser):
    """Collect what a page would load, its text, and its pictures by their alternative text."""

    def __init__(self, page):
        super().__init__()
        self.loaded, self.text, self.pictures, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.pictures.append(attributes["alt"])
        self.loaded += [value for name, value in attributes.items() if name in ("src", "href", "srcset", "data")]
        if tag in ("script", "link", "iframe", "object"):
            self.loaded.append(tag)
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.text.append(" ".join(data.split()))


def make_rows(names):
    """A manifest and details of images below data/dataset/, named SPLIT/CLASS/NAME."""
    write_images(paths.DATASET, names)
    rows = [
        {"path": name, "split": name.split("/")[0], "label": name.split("/")[1], "width_px": "12", "height_px": "10"}
        for name in names
    ]
    details = [{"path": name, "source_path": f"zip/{name}", "contrast": "1.0"} for name in names]
    return pd.DataFrame(rows), pd.DataFrame(details)


def make_finding(name, severity="error", passed=True, rows=(), images=(), n_failed=0):
    return {
        "name": name,
        "severity": severity,
        "wanted": f"wanted of {name}",
        "observed": f"observed of {name}",
        "passed": passed,
        "n_failed": n_failed,
        "rows": list(rows),
        "images": list(images),
    }


def make_report(*findings, passed=True):
    return {
        "passed": passed,
        "source": "data/raw/x.zip",
        "manifest_sha256": "f" * 64,
        "compared_with": None,
        "n_files": 9,
        "n_images": 4,
        "classes": {"cat": 2, "dog": 2},
        "excluded": {},
        "findings": list(findings),
    }


NAMES = [
    "training/cat/1.png",
    "training/dog/2.png",
    "evaluation/cat/3.png",
    f"evaluation/dog/{EVIL}".replace("</", "<"),
]


@pytest.fixture
def tables(workspace):
    return make_rows(NAMES)


def test_page_stands_alone_and_escapes_names(tables):
    failed = make_finding("modes", passed=False, rows=[EVIL], images=[[NAMES[3]]], n_failed=1)
    page = draw_page(make_report(failed, passed=False), *tables, [Exclusion(EVIL, f"reason: {EVIL}")])
    reader = Reader(page)
    assert reader.open == []
    assert [address for address in reader.loaded if not address.startswith("data:image/jpeg;base64,")] == []
    assert "<script" not in page
    assert not re.search(r"https?://|url\(|@import", page)
    assert f"reason: {EVIL}" in reader.text
    assert NAMES[3] in reader.pictures


def test_verdict_and_failures_come_first(tables):
    findings = [
        make_finding("modes"),
        make_finding("contrast", "warn", False, ["a"], n_failed=30),
        make_finding("formats", "error", False, ["b"], n_failed=1),
        make_finding("types", "off"),
    ]
    text = Reader(draw_page(make_report(*findings, passed=False), *tables, [])).text
    assert "4 images of 2 classes: 1 of 3 checks failed, 1 warned." in text
    assert text.index("The pipeline stops here: 1 check failed") < text.index("formats") < text.index("contrast")
    assert text.index("contrast") < text.index("Class balance") < text.index("All checks")
    assert "and 29 more" in text
    assert "None: every file of the source is in the data set." in text
    passed = Reader(draw_page(make_report(findings[0]), *tables, [])).text
    assert "The data passed" in passed
    assert "4 images of 2 classes: 0 of 1 checks failed." in passed


def test_members_of_a_pair_stand_side_by_side(tables):
    pair = [NAMES[0], NAMES[2]]
    finding = make_finding("near_duplicates", "warn", False, ["x"], [pair], 1)
    reader = Reader(draw_page(make_report(finding), *tables, []))
    assert reader.pictures[:2] == pair
    for expected in ("training / cat", "evaluation / cat", "12 x 10 px", NAMES[0], f"from zip/{NAMES[0]}"):
        assert expected in reader.text


def test_picture_of_what_cannot_be_read_is_left_out(tables):
    (paths.DATASET / NAMES[0]).unlink()
    (paths.DATASET / NAMES[2]).write_bytes(b"text")
    finding = make_finding("modes", "warn", False, ["x"], [[NAMES[0]], [NAMES[2]]], 2)
    reader = Reader(draw_page(make_report(finding), *tables, []))
    assert reader.text.count("no picture") == 2


def test_bars_are_as_long_as_the_classes_are_large(workspace):
    names = [f"{split}/{label}/{n}.png" for split, label, count in SIZES for n in range(count)]
    large, small = draw_bars(make_rows(names)[0].assign(source_path=names))
    assert (large.label, small.label) == ("dog", "cat")
    assert large.counts == [("training", 8, 100.0), ("validation", 0, 0.0), ("evaluation", 2, 25.0)]
    assert small.counts == [("training", 4, 50.0), ("validation", 1, 12.5), ("evaluation", 0, 0.0)]
    assert len(large.samples) == 4
    assert large.samples[0].uri.startswith("data:image/jpeg;base64,")


SIZES = [("training", "cat", 4), ("training", "dog", 8), ("validation", "cat", 1), ("evaluation", "dog", 2)]


def test_very_many_classes_and_exclusions_are_cut_and_said(workspace):
    manifest, details = make_rows([f"training/{n:03}/1.png" for n in range(N_CLASSES + 40)])
    report = make_report() | {"classes": dict.fromkeys(manifest["label"], 1)}
    excluded = [Exclusion(f"{n}.jpg", "empty file") for n in range(N_EXCLUDED + 7)]
    text = Reader(draw_page(report, manifest, details, excluded)).text
    assert f"The largest and the smallest of {N_CLASSES + 40} classes; reports/validation.json has all." in text
    assert "000" in text
    assert f"{N_CLASSES + 39:03}" in text
    assert f"{N_CLASSES - 10:03}" not in text
    assert "and 7 more in data/excluded.csv" in text
    assert f"{N_EXCLUDED + 7} empty file" in text


def test_excluded_copy_is_shown_by_the_one_that_was_kept(tables):
    excluded = [
        Exclusion("zip/a.jpg", f"same bytes in a later split: zip/{NAMES[2]}, kept in evaluation"),
        Exclusion("zip/b.jpg", "empty file"),
    ]
    reader = Reader(draw_page(make_report(), *tables, excluded))
    assert reader.pictures[-1] == NAMES[2]


def test_page_of_a_manifest_without_its_columns(workspace):
    page = draw_page(make_report(), pd.DataFrame({"x": []}), pd.DataFrame({"source_path": []}), [])
    assert "Class balance" in page


def test_corrections_are_shown_with_their_pictures(workspace):
    tables = make_rows(["training/dog/1.png"])
    rows = [
        Corrected("", "a" * 64, "keep", "", "", "", ""),
        Corrected("zip/training/dog/1.png", "b" * 64, "relabel", EVIL, "dog", EVIL, "me"),
    ]
    report = make_report() | {"corrections": count_corrections(rows)}
    page = draw_page(report, *tables, [], rows)
    assert EVIL not in page
    reader = Reader(page)
    text = " ".join(reader.text)
    assert "Corrections 1 relabel, 1 without image" in text
    assert f"no image has sha256 {'a' * 64}" in text
    assert f"relabel {EVIL} \N{RIGHTWARDS ARROW} dog" in text
    assert reader.pictures.count("training/dog/1.png") == 2  # in the balance, too
    assert "Corrections" not in Reader(draw_page(make_report(), *tables, [])).text
