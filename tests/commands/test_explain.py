import os
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import draw_image, encode_image, write_images
from relearn import cli
from relearn.commands.explain import explain_files
from relearn.errors import ParamsError
from relearn.explanation.maps import Explanation
from relearn.images.decoding import decode_image, resize_image
from relearn.inference.inputs import find_all_files


class FakeExplainer:
    """Finds an exact map for the first image and an estimate for the others, without a network."""

    classes = ("<b>", "dog")
    batch_size = 8

    def __init__(self, folder, weights=None, *, is_lazy=True):
        if str(folder) != "models/classifier":
            raise ParamsError(where=folder)

    def prepare(self, image):
        return resize_image(decode_image(image).rgb, 32, "bilinear")

    def explain(self, images, labels):
        grid = np.array([[2.0, 0.0], [0.0, -0.5]])
        exact = Explanation("<b>", 1.25, -0.25, grid, True, "most of the evidence for <b> is in the upper left", 0.75)
        estimate = Explanation("dog", -0.5, -2.0, grid, False, "no place speaks for dog (an estimate)", 0.606)
        found = [exact if number == 0 else estimate for number in range(len(images))]
        return [f._replace(label=label or f.label) for f, label in zip(found, labels, strict=True)]


@pytest.fixture
def relearn(workspace, monkeypatch):
    monkeypatch.setattr("relearn.explanation.explainer.Explainer", FakeExplainer)
    write_images(workspace, ["a/0.png", "a/1.png", "b.png"])

    def relearn(*arguments):
        answer = CliRunner().invoke(cli.app, ["explain", *arguments])
        if answer.exception and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        return answer

    return relearn


def test_a_line_says_what_the_image_is_and_where_the_evidence_is(relearn):
    assert relearn("a", "b.png").stdout.splitlines() == [
        "a/0.png  <b>   75.0%  most of the evidence for <b> is in the upper left",
        "a/1.png  dog   60.6%  no place speaks for dog (an estimate)",
        "b.png    dog   60.6%  no place speaks for dog (an estimate)",
    ]


def test_the_page_needs_nothing_but_itself(relearn, workspace):
    answer = relearn("a", "-o", "page.html")
    assert answer.stdout.splitlines()[-1] == "page.html: 2 maps"
    page = (workspace / "page.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 4
    assert 'alt="most of the evidence for &lt;b&gt; is in the upper left"' in page
    assert page.count('alt="the image as the network sees it"') == 2
    assert "score 1.25 = base -0.25 + places 1.50" in page
    assert "log probability -0.50" in page
    assert "This is an estimate" in page
    assert "the average training image" in page
    assert '<svg role="img"' in page
    assert "<b>" not in page
    assert not re.search(r"https?:", page)
    before = (workspace / "page.html").read_bytes()
    relearn("a", "-o", "page.html")
    assert (workspace / "page.html").read_bytes() == before


def test_a_page_of_exact_maps_speaks_of_no_estimate(relearn, workspace):
    relearn("b.png", "-o", "page.html")
    page = (workspace / "page.html").read_text()
    assert "This is an estimate" not in page
    assert "What 1 image was judged by" in page


def test_a_page_of_estimates_compares_with_no_average(relearn, workspace, monkeypatch):
    found = FakeExplainer.explain
    monkeypatch.setattr(FakeExplainer, "explain", lambda *asked: [e._replace(is_exact=False) for e in found(*asked)])
    relearn("b.png", "-o", "page.html")
    page = (workspace / "page.html").read_text()
    assert "This is an estimate" in page
    assert "average" not in page


def test_one_batch_of_pixels_is_held_at_a_time(relearn, workspace, monkeypatch):
    write_images(workspace, [f"many/{n}.png" for n in range(5)])
    (workspace / "many" / "1.png").write_text("text")
    prepare, read = FakeExplainer.prepare, []
    monkeypatch.setattr(FakeExplainer, "batch_size", 2)
    monkeypatch.setattr(FakeExplainer, "prepare", lambda self, image: read.append(1) or prepare(self, image))
    files, failures = find_all_files(["many"])
    found = explain_files(FakeExplainer("models/classifier"), files, None, failures)
    assert [(next(found).path, len(read)) for _ in range(4)] == [
        *[("many/0.png", 3), ("many/2.png", 3)],  # the first batch waits for an image that can be read
        *[("many/3.png", 5), ("many/4.png", 5)],
    ]
    assert next(found, None) is None
    assert [path for path, _ in failures] == ["many/1.png"]


def test_what_is_named_twice_is_explained_once_as_by_predict(relearn):
    lines = relearn("b.png", "a", "b.png", "a/1.png").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["b.png", "a/0.png", "a/1.png"]


def test_a_name_is_one_line_on_the_terminal_and_text_on_the_page(relearn, workspace):
    forged = "a.png  dog    99.9%  forged\nb.png"
    content = encode_image(draw_image(1))
    (workspace / forged).write_bytes(content)
    bad = b"\xff.png"
    with open(os.path.join(os.fsencode(workspace), bad), "wb") as file:
        file.write(content)
    answer = relearn(forged, os.fsdecode(bad), "-o", "page.html")
    lines = answer.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(r"a.png  dog    99.9%  forged\nb.png  <b>   75.0%")
    assert lines[1].startswith(r"\udcff.png".ljust(lines[0].index("  <b>")) + "  dog   60.6%")
    assert r"\udcff.png" in (workspace / "page.html").read_text()


def test_neither_lines_nor_page_show_the_secrets_of_an_address(relearn, workspace, monkeypatch):
    content = encode_image(draw_image(1))
    monkeypatch.setattr("relearn.inference.inputs.read_address", lambda name: content)
    answer = relearn("https://me:hidden@host/x.png?token=hidden", "-o", "page.html")
    page = (workspace / "page.html").read_text()
    assert answer.stdout.startswith("https://host/x.png?...  <b>")
    assert "https://host/x.png?..." in page
    assert "hidden" not in answer.output + page


def test_the_label_may_be_another(relearn):
    assert relearn("b.png", "--label", "dog").stdout.split()[1] == "dog"
    with pytest.raises(ParamsError, match="--label: wanted one of <b>, dog, got bird"):
        relearn("b.png", "--label", "bird")


def test_what_cannot_be_read_comes_last(relearn, workspace, caplog):
    (workspace / "text.png").write_text("text")
    (workspace / "cut.jpg").write_bytes(encode_image(draw_image(1), "JPEG")[:-30])
    answer = relearn("text.png", "gone.png", "b.png", "cut.jpg")
    assert answer.exit_code == 1
    assert [line.split()[0] for line in answer.stdout.splitlines()] == ["b.png"]
    assert "text.png: not an image" in caplog.text
    assert "gone.png: no such file" in caplog.text
    assert "cut.jpg: damaged JPEG file" in caplog.text
