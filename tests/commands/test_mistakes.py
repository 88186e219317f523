import re

import pytest
from typer.testing import CliRunner

from conftest import render_markdown, write_images
from relearn import cli, paths
from relearn.commands.mistakes import TEMPLATE, describe_markdown, find_mistakes, write_mistakes
from relearn.errors import IntegrityError
from relearn.evaluation.predictions import HEADER
from relearn.storage.files import write_csv

ROWS = [
    ("evaluation/cat/0.png", "cat", "cat", 0.9),
    ("evaluation/cat/1.png", "cat", "dog", 0.4),
    ("evaluation/cat/<b>.png", "cat", "dog", 0.1),
    ("evaluation/dog/gone.png", "dog", "cat", 0.8),
]


@pytest.fixture
def predictions(workspace):
    rows = [(path, f"{n:064x}", label, predicted, p, 1 - p) for n, (path, label, predicted, p) in enumerate(ROWS)]
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_cat", "probability_dog"), rows)
    write_images(paths.DATASET, [path for path, *_ in ROWS[:3]])
    return workspace


def test_the_most_confident_mistakes_come_first(predictions):
    shown, n_mistakes, n_images = find_mistakes()
    assert [(mistake.path, mistake.confidence) for mistake in shown] == [
        ("evaluation/cat/<b>.png", 0.9),
        ("evaluation/dog/gone.png", 0.8),
        ("evaluation/cat/1.png", 0.6),
    ]
    assert (n_mistakes, n_images) == (3, 4)
    assert shown[0].uri.startswith("data:image/jpeg;base64,")
    assert shown[1].uri == ""


def test_the_page_needs_nothing_but_itself(predictions):
    answer = CliRunner().invoke(cli.app, ["mistakes"])
    assert answer.output == "reports/mistakes.html: 3 mistakes\n"
    page = paths.MISTAKES_PAGE.read_text()
    assert "3 of 4 evaluation images are wrong" in page
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert "cat predicted as dog (2); dog predicted as cat (1)." in page
    assert "&lt;b&gt;.png" in page
    assert "cannot be read" in page
    assert "http" not in page
    paths_in_order = re.findall('class="path">evaluation/(.+?)</span>', page)
    assert paths_in_order == ["cat/&lt;b&gt;.png", "dog/gone.png", "cat/1.png"]  # whatever the label


def test_a_phone_has_two_columns():
    """390 px wide; a rem has 16 px."""
    style = TEMPLATE.read_text()
    (padding,) = re.findall(r"body {[^}]* padding: ([\d.]+)rem;", style)
    ((min_width, gap),) = re.findall(r"repeat\(auto-fill, minmax\(([\d.]+)rem, 1fr\)\); gap: ([\d.]+)rem;", style)
    for width_px, n_columns in ((360, 2), (390, 2), (1280, 6)):
        room = min(width_px / 16, 68) - 2 * float(padding)
        assert (room + float(gap)) // (float(min_width) + float(gap)) == n_columns


def test_markdown_has_the_first(predictions):
    text = describe_markdown(2)
    assert text.startswith("3 of 4 evaluation images are wrong; the most confident:\n\n![](data:image/jpeg;base64,")
    assert text.count("predicted as") == 2
    assert r"evaluation/dog/gone\.png, predicted as cat (80.0 %)" in text


def test_names_are_not_live_in_markdown(workspace):
    path, label = "evaluation/![](http:host).png", "<img src=x onerror=alert(1)>"
    row = (path, "0" * 64, "cat", label, 0.1, 0.9)
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_cat", f"probability_{label}"), [row])
    shown, tags = render_markdown(describe_markdown(1))
    assert f"{path}, predicted as {label} (90.0 %)" in shown
    assert tags == {"p"}


def test_no_mistakes_and_no_predictions(workspace):
    with pytest.raises(IntegrityError, match=r"predictions.csv: no such file; run `dvc repro`"):
        write_mistakes(paths.MISTAKES_PAGE)
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_a", "probability_b"), [("a/0.png", "0" * 64, "a", "a", 1, 0)])
    assert write_mistakes(paths.MISTAKES_PAGE) == 0
    assert "0 of 1 evaluation images are wrong" in describe_markdown(5)
