"""`reports/predictions.csv`: what a classifier predicted for labeled images, one row per image."""

import csv
import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from relearn.errors import IntegrityError
from relearn.storage.files import write_csv

HEADER = ("path", "sha256", "label", "predicted")
COLUMNS = ("paths", "sha256", "labels", "predicted")
PREFIX = "probability_"
SUM_TOLERANCE = 1e-3  # six decimals, one number for each class
ADVICE = "run `dvc repro`, which writes it"


class Predictions(NamedTuple):
    """What a classifier predicted for labeled images.

    classes : the columns of `probabilities`
    paths, sha256, labels, predicted : (images,); a label may be a class that the classifier does not know
    probabilities : (images, classes) float
    """

    classes: list[str]
    paths: list[str]
    sha256: list[str]
    labels: list[str]
    predicted: list[str]
    probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each image was predicted right, (images,) bool."""
        return np.array([a == b for a, b in zip(self.labels, self.predicted, strict=True)], bool)

    @property
    def are_out_of_fold(self) -> bool:
        """Whether all images were predicted, in folds (`evaluate.by`): then those of training are there too."""
        return any(path.startswith("training/") for path in self.paths)

    def select(self, rows: Iterable[int]) -> Self:
        """Return the predictions for some of the images, by their numbers."""
        rows = list(rows)
        columns = {name: [getattr(self, name)[row] for row in rows] for name in COLUMNS}
        return self._replace(**columns, probabilities=self.probabilities[rows])


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions; probabilities have six decimals."""
    header = (*HEADER, *(f"{PREFIX}{name}" for name in predictions.classes))
    texts = ([f"{value:.6f}" for value in row] for row in predictions.probabilities)
    columns = zip(*(getattr(predictions, name) for name in COLUMNS), strict=True)
    write_csv(path, header, ((*cells, *text) for cells, text in zip(columns, texts, strict=True)))


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises
    ------
    IntegrityError
        The file is missing or damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError("no such file", where=path, advice=ADVICE) from None
    return parse_predictions(content, str(path))


def parse_predictions(content: bytes, where: str) -> Predictions:
    """Return the predictions that `read_predictions` would read from a file of these bytes; errors call it `where`."""
    try:
        header, *rows = list(csv.reader(io.StringIO(content.decode(), newline=""))) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise IntegrityError(where=where, wanted="CSV in UTF-8", got=error, advice=ADVICE) from None
    classes = [name.removeprefix(PREFIX) for name in header[len(HEADER) :]]
    if header != [*HEADER, *(f"{PREFIX}{name}" for name in classes)] or len(classes) < 2:
        wanted = f"the columns {', '.join(HEADER)} and {PREFIX}CLASS of at least two classes"
        raise IntegrityError(where=where, wanted=wanted, got=", ".join(header)[:300] or "none", advice=ADVICE)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            place = f"{where}: row {number}"
            raise IntegrityError(where=place, wanted=f"{len(header)} cells", got=len(row), advice=ADVICE)
    probabilities = np.full((len(rows), len(classes)), np.nan)
    for values, row in zip(probabilities, rows, strict=True):
        with suppress(ValueError):
            values[:] = [float(cell) for cell in row[len(HEADER) :]]
    with np.errstate(invalid="ignore"):
        sums_to_one = abs(probabilities.sum(axis=1) - 1) < SUM_TOLERANCE
    valid = ((probabilities >= 0) & (probabilities <= 1)).all(axis=1) & sums_to_one
    for row, is_valid in zip(rows, valid, strict=True):
        if not is_valid or row[3] not in classes:
            wanted = f"one of {', '.join(classes)} and probabilities that sum to 1"
            raise IntegrityError(where=f"{where}: {row[0]}", wanted=wanted, got=", ".join(row[3:]), advice=ADVICE)
    names, sha256, labels, predicted = ([row[column] for row in rows] for column in range(len(HEADER)))
    return Predictions(classes, names, sha256, labels, predicted, probabilities)
