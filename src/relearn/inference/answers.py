"""Predictions for files, by whatever computes them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from relearn.dataset.source_files import SourceFile
from relearn.errors import ImageError, RelearnError
from relearn.inference.inputs import ImageLike, find_all_files, read_content
from relearn.runtime.threads import map_ahead


class Answer(NamedTuple):
    """The prediction for one image; probabilities in the order of the classifier's classes."""

    path: str
    label: str
    probabilities: list[float]


class Answers(NamedTuple):
    """All predictions, and the files that have none, each with the reason."""

    classes: list[str]
    answers: list[Answer]
    failures: list[tuple[str, str]]


def predict_each_file(
    inputs: Sequence[str],
    classes: Sequence[str],
    prepare: Callable[[bytes], np.ndarray],
    classify: Callable[[Iterator[np.ndarray]], Iterable[np.ndarray]],
    n_ahead: int,
    *,
    is_online: bool,
) -> Answers:
    """Predict the images of files, folders (all files in them that are not hidden, at any depth) and glob patterns.

    What cannot be read does not stop the rest; it is returned with the reason.

    Parameters
    ----------
    inputs
        Paths, patterns, `file://` addresses, and `-` for standard input.
    prepare
        Decodes the bytes of a file, in threads up to `n_ahead` files in advance; raises `ImageError` with the reason.
    classify
        Takes what `prepare` returned, and yields the probabilities (classes,) of each, in order.
    is_online
        Whether `https://` addresses are read as well.
    """
    files, failures = find_all_files(inputs, is_online=is_online)
    readable: deque[str] = deque()

    def _prepare(file: SourceFile) -> np.ndarray | ImageError:
        try:
            return prepare(read_content(file))
        except ImageError as error:
            return error

    def _keep_readable() -> Iterator[np.ndarray]:
        for file, image in zip(files, map_ahead(_prepare, files, n_ahead), strict=True):
            if isinstance(image, ImageError):
                failures.append((file.path, str(image)))
            else:
                readable.append(file.path)
                yield image

    answers = [
        Answer(readable.popleft(), choose_label(classes, row), [round(float(p), 6) for p in row])
        for row in classify(_keep_readable())
    ]
    return Answers(list(classes), answers, failures)


def tabulate_answers(images: Sequence[ImageLike], classes: Sequence[str], rows: Iterable[np.ndarray]) -> Any:
    """Return the probabilities (classes,) of each image as a data frame: path, label, and a column for each class.

    Raises
    ------
    RelearnError
        pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ModuleNotFoundError:
        advice = "`pip install pandas`, or use `predict_files`"
        raise RelearnError(where="predict", wanted="pandas for a data frame", got="none", advice=advice) from None
    probabilities = np.array(list(rows)).reshape(-1, len(classes))
    table = DataFrame(probabilities, columns=list(classes))
    names = [os.fspath(image) if isinstance(image, str | os.PathLike) else None for image in images]
    labels = [choose_label(classes, row) for row in probabilities]
    table.insert(0, "label", labels, allow_duplicates=True)
    table.insert(0, "path", names, allow_duplicates=True)
    return table


def choose_label(classes: Sequence[str], probabilities: np.ndarray) -> str:
    """Return the most probable class of one image's probabilities (classes,), the first of them in a tie."""
    return classes[int(probabilities.argmax())]
