import os
import re

import pandas as pd
import pytest

from relearn import paths
from relearn.gates.data_docs import write_data_docs
from relearn.gates.expectations import Check, Table

pytestmark = pytest.mark.slow

EVIL = "<img src=http://x.example/>"


def expect(column, **limits):
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column=column, **limits)


@pytest.fixture
def site(workspace):
    frame = pd.DataFrame({"path": [EVIL, "b", "c"], "x": [1, 5, 9]}, index=[7, 7, 7])
    checks = [
        Check("large", "error", "3 or more & no less", "images", expect("x", min_value=3)),
        Check("small", "off", "nothing", "images", expect("x", max_value=0)),
        Check("few", "warn", "9 at most", "counts", expect("x", max_value=9)),
    ]
    tables = {"images": Table(frame, "photos"), "counts": Table(frame, "rows"), "unused": Table(frame, "rows")}
    return write_data_docs(paths.DATA_DOCS, tables, checks), (tables, checks)


def read_pages(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.html"))}


def test_pages_load_nothing_and_their_links_lead_somewhere(site):
    index, _ = site
    assert index == paths.DATA_DOCS / "index.html"
    pages = read_pages(paths.DATA_DOCS)
    assert set(pages) == {"index.html"} | {f"{kind}/{name}.html" for kind in KINDS for name in ("images", "counts")}
    for name, page in pages.items():
        assert not re.search(r"<(script|link|img|iframe)\b|url\(|@import", page), name
        assert "default-src 'none'" in page
        for link in re.findall(r'href="([^"#]+)', page):
            assert not link.startswith("http")
            assert (paths.DATA_DOCS / name).parent.joinpath(link).is_file(), f"{name}: {link}"


KINDS = ("validations", "expectations")


def test_pages_say_what_was_wanted_and_found(site):
    pages = read_pages(paths.DATA_DOCS)
    found = pages["validations/images.html"]
    assert "large (error): 3 or more &amp; no less" in found
    assert "&lt;img src=http" in found
    assert "small" not in re.sub(r"<style>.*?</style>", "", found, flags=re.DOTALL)
    assert "images, 3 photos" in found
    assert "few (warn): 9 at most" in pages["expectations/counts.html"]


def test_same_bytes_each_time(site):
    first = read_pages(paths.DATA_DOCS)
    os.remove(paths.DATA_DOCS / "index.html")
    write_data_docs(paths.DATA_DOCS, *site[1])
    assert read_pages(paths.DATA_DOCS) == first
