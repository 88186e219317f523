from pathlib import Path

import numpy as np
import pytest

from relearn.errors import IntegrityError
from relearn.evaluation.predictions import Predictions, parse_predictions, read_predictions, write_predictions

HEADER = "path,sha256,label,predicted,probability_a,probability_b"


def make_predictions():
    """A name that needs quotes, a label that is no class, and float32."""
    names, labels = ["x/1.png", 'x/"2",\n.png', "x/3.png"], ["a", "b", "c"]
    probabilities = np.array([[0.9, 0.1], [0.25, 0.75], [2 / 3, 1 / 3]], np.float32)
    return Predictions(["a", "b"], names, [f"{n:064x}" for n in range(3)], labels, ["a", "b", "a"], probabilities)


def test_what_was_written_is_read(tmp_path):
    written = make_predictions()
    write_predictions(tmp_path / "p.csv", written)
    found = read_predictions(tmp_path / "p.csv")
    assert found[:5] == written[:5]
    np.testing.assert_allclose(found.probabilities, written.probabilities, rtol=0, atol=5e-7)
    lines = (tmp_path / "p.csv").read_bytes().split(b"\n")
    assert lines[:2] == [HEADER.encode(), f"x/1.png,{0:064x},a,a,0.900000,0.100000".encode()]
    write_predictions(tmp_path / "again.csv", found)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_some_of_the_rows():
    predictions = make_predictions()
    assert predictions.right.tolist() == [True, True, False]
    chosen = predictions.select([2, 0])
    assert (chosen.classes, chosen.paths, chosen.labels) == (["a", "b"], ["x/3.png", "x/1.png"], ["c", "a"])
    np.testing.assert_array_equal(chosen.probabilities, predictions.probabilities[[2, 0]])
    assert predictions.select([]).probabilities.shape == (0, 2)


def test_no_rows(tmp_path):
    write_predictions(tmp_path / "p.csv", make_predictions().select([]))
    assert read_predictions(tmp_path / "p.csv").probabilities.shape == (0, 2)


@pytest.mark.parametrize(
    "cells", ["a,-1,2", "a,nan,1", "a,inf,-inf", "a,0.5,0.4", "a,x,1", "a,,1", "a,0,0", "c,0.5,0.5"]
)
def test_probabilities_that_are_none(cells):
    text = f"{HEADER}\n0.png,{0:064x},a,a,0.5,0.5\n1.png,{1:064x},a,{cells}\n"
    with pytest.raises(
        IntegrityError, match=r"^p: 1\.png: wanted one of a, b and probabilities that sum to 1, got "
    ) as e:
        parse_predictions(text.encode(), "p")
    assert cells.replace(",", ", ") in str(e.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wanted the columns path, sha256, label, predicted and probability_CLASS .*, got none; run `dvc repro`"),
        (b"a,b\n1,2\n", "wanted the columns .*, got a, b; "),
        (b"path,sha256,label,predicted,probability_a\n", "wanted .* of at least two classes, got path, "),
        (HEADER.encode() + b"\n1,2\n", "row 2: wanted 6 cells, got 2; "),
        (HEADER.replace("probability_b", "b").encode(), "wanted the columns .*"),
        (b"\xff\xfe", "wanted CSV in UTF-8, got "),
    ],
)
def test_files_that_are_damaged(content, message):
    with pytest.raises(IntegrityError, match=f"^p: (.*: )?{message}"):
        parse_predictions(content, "p")


def test_no_file(tmp_path):
    with pytest.raises(IntegrityError, match=r"p\.csv: no such file; run `dvc repro`, which writes it"):
        read_predictions(tmp_path / Path("p.csv"))
