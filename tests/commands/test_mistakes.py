import re

import pytest
from typer.testing import CliRunner

from conftest import render_markdown, write_images
from relearn import cli, paths
from relearn.commands.mistakes import describe_markdown, find_mistakes, write_mistakes
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


def test_the_page_needs_nothing_but_itself(predictions):
    answer = CliRunner().invoke(cli.app, ["mistakes"])
    assert answer.output == "reports/mistakes.html: 3 mistakes\n"
    page = paths.MISTAKES_PAGE.read_text()
    assert "3 of 4 evaluated images are wrong" in page
    assert page.count('<img src="data:image/jpeg;base64,') == 2  # without features no evidence and no similar images
    assert "cat predicted as dog (2); dog predicted as cat (1)." in page
    assert "&lt;b&gt;.png" in page
    assert "cannot be read" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)|https?:", page)
    paths_in_order = re.findall('class="path">evaluation/(.+?)</span>', page)
    assert paths_in_order == ["cat/&lt;b&gt;.png", "dog/gone.png", "cat/1.png"]  # whatever the label


def test_markdown_has_the_first(predictions):
    text = describe_markdown(find_mistakes(), 2)
    assert text.startswith("3 of 4 evaluated images are wrong; the worst:\n\n![](data:image/jpeg;base64,")
    assert text.count("predicted as") == 2
    assert r"evaluation/dog/gone\.png, predicted as cat (80.0 %)" in text


def test_pictures_stay_out_of_a_terminal(predictions, monkeypatch):
    assert "data:image" in CliRunner().invoke(cli.app, ["mistakes", "--md", "1"]).stdout
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    answer = CliRunner().invoke(cli.app, ["mistakes", "--md", "1"])
    assert answer.stdout.count("predicted as") == 1
    assert "data:image" not in answer.stdout


def test_names_are_not_live_in_markdown(workspace):
    path, label = "evaluation/![](http:host).png", "<img src=x onerror=alert(1)>"
    row = (path, "0" * 64, "cat", label, 0.1, 0.9)
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_cat", f"probability_{label}"), [row])
    shown, tags = render_markdown(describe_markdown(find_mistakes(), 1))
    assert f"{path}, predicted as {label} (90.0 %)" in shown
    assert tags == {"p"}


def test_no_mistakes_and_no_predictions(workspace):
    with pytest.raises(IntegrityError, match=r"predictions.csv: no such file; run `dvc repro`"):
        find_mistakes()
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_a", "probability_b"), [("a/0.png", "0" * 64, "a", "a", 1, 0)])
    write_mistakes(paths.MISTAKES_PAGE, find_mistakes())
    assert "0 of 1 evaluated images are wrong" in paths.MISTAKES_PAGE.read_text()
    assert "0 of 1 evaluated images are wrong" in describe_markdown(find_mistakes(), 5)
