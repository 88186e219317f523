"""`relearn predict`: the class of images that were never in the set."""

import csv
import glob
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from relearn.dataset.source_files import SourceFile, explain_hidden, open_source_file, refuse_file
from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError, IntegrityError, NetworkError
from relearn.inference.classifier import RECORD, read_classifier
from relearn.networks.extractor import Extractor, ExtractorRecord
from relearn.runtime.text import escape_controls, format_json
from relearn.runtime.threads import map_ahead

log = logging.getLogger(__name__)

N_CLASSES_SHOWN = 3


class Prediction(NamedTuple):
    """The answer for one image; probabilities in the order of the classifier's classes."""

    path: str
    label: str
    probabilities: list[float]


class Predictions(NamedTuple):
    """All answers, and the files that have none, with the reason."""

    classes: list[str]
    answers: list[Prediction]
    failures: list[tuple[str, str]]


def predict_files(inputs: list[str], folder: Path, weights: Path | None = None) -> Predictions:
    """Predict images with the classifier in `folder`; nothing else of the pipeline is read.

    Parameters
    ----------
    inputs : list of str
        Files, folders (all files in them that are not hidden, at any depth) and glob patterns.
    weights : Path, optional
        The network's weights file, where it is not at the path that the classifier records.

    Raises
    ------
    RelearnError
        The classifier is damaged, or its network cannot be had again as it was.
    """
    failures: list[tuple[str, str]] = []
    files: dict[str, SourceFile] = {}
    for name in inputs:
        found = find_files(name)
        files.update((file.path, file) for file in found)
        if not found:
            failures.append((name, "no such file, or none in that folder"))
    classifier = read_classifier(folder)
    extractor = build_extractor(read_extractor_record(folder, classifier.record["extractor"]), weights)
    readable: deque[str] = deque()

    def prepare(file: SourceFile) -> np.ndarray | ImageError:
        try:
            return extractor.read_image(read_content(file))
        except ImageError as error:
            return error

    def keep_readable() -> Iterator[np.ndarray]:
        for path, image in zip(files, map_ahead(prepare, files.values(), 2 * extractor.batch_size), strict=True):
            if isinstance(image, ImageError):
                failures.append((path, str(image)))
            else:
                readable.append(path)
                yield image

    answers = []
    for features in extractor.compute_rows(keep_readable()):
        probabilities = classifier.predict_probabilities(features[np.newaxis])
        (label,) = classifier.predict_labels(probabilities)
        answers.append(Prediction(readable.popleft(), label, [round(float(p), 6) for p in probabilities[0]]))
    return Predictions(classifier.classes, answers, failures)


def find_files(name: str) -> list[SourceFile]:
    """Return the files that an argument stands for, in the order of their names; none if it stands for nothing."""
    if os.path.isdir(name):
        inside = [file for file in iterate_source(Path(name), is_strict=False) if explain_hidden(file.path) is None]
        found = [file._replace(path=os.path.join(name, file.path) if file.path != "." else name) for file in inside]
    elif os.path.lexists(name):
        found = [open_source_file(Path(name), name)]
    else:
        matching = [path for path in glob.glob(name, recursive=True) if not os.path.isdir(path)]
        found = [open_source_file(Path(path), path) for path in matching]
        found += list_closed_folders(name)
    return sorted(found, key=lambda file: file.path)


def list_closed_folders(pattern: str) -> list[SourceFile]:
    """Return, as refused files, the folders that a glob pattern looks into and cannot list: glob passes them over."""
    parts = Path(pattern).parts
    closed = {}
    for n, part in enumerate(parts):
        if not glob.has_magic(part):
            continue
        head = os.path.join(*parts[:n], "**" if part == "**" else "", "")
        for folder in glob.glob(head, recursive=True) if n or part == "**" else [os.curdir]:
            try:
                os.scandir(folder or os.curdir).close()
            except NotADirectoryError:
                continue
            except OSError as error:
                path = os.path.normpath(folder)
                if explain_hidden(os.path.basename(path)):
                    continue
                closed[path] = refuse_file(path, f"folder cannot be listed: {error.strerror}")
    return list(closed.values())


def read_content(file: SourceFile) -> bytes:
    """Return the bytes of a file, or raise `ImageError` with the reason why it has none."""
    if file.refusal is not None:
        raise ImageError(file.refusal)
    try:
        return file.read()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def build_extractor(record: ExtractorRecord, weights: Path | None) -> Extractor:
    """Build the extractor that a record describes, and prove that it is the same.

    Raises
    ------
    IntegrityError
        The network that keras builds here has other weights than the recorded one.
    NetworkError
        The network cannot be built, or `weights` is given though it needs no file.
    """
    if weights is not None and not record.weights_are_file:
        raise NetworkError(f"--weights: the classifier was trained with weights {record.weights}, which need no file")
    if record.weights_are_file and not (weights or Path(record.weights)).is_file():
        raise NetworkError(
            f"{weights or record.weights}: no such file from here; name with --weights the one that the classifier "
            f"was trained with (sha256 {record.weights_sha256})"
        )
    moved = {} if weights is None else {"weights": str(weights)}
    extractor = Extractor(record.model_copy(update=moved))
    if extractor.record.network_sha256 != record.network_sha256:
        raise IntegrityError(
            f"{record.network}: wanted network_sha256 {record.network_sha256} (classifier.json), got "
            f"{extractor.record.network_sha256}; the network on this machine is not the one that was trained with"
        )
    if extractor.n_features != record.n_features:
        raise IntegrityError(
            f"{record.network}: wanted {record.n_features:,} features (classifier.json), got {extractor.n_features:,}; "
            "use a classifier that `relearn train` wrote"
        )
    for name, here, there in (
        ("keras", extractor.record.keras, record.keras),
        ("the backend", extractor.record.backend, record.backend),
        ("pillow", extractor.record.pillow, record.pillow),
    ):
        if here != there:
            log.warning("trained with %s %s, here is %s: last digits may differ", name, there, here)
    return extractor


def read_extractor_record(folder: Path, record: Any) -> ExtractorRecord:
    """Check the extractor's record in a `classifier.json`.

    Raises
    ------
    IntegrityError
        A key is missing, unknown or out of range.
    """
    try:
        return ExtractorRecord.model_validate(record)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in ("extractor", *problem["loc"]))
        raise IntegrityError(
            f"{folder / RECORD}: {key}: {problem['msg']}; an earlier relearn may have made it: run "
            f"`dvc repro --force train`, or `make retrain` for one in release/"
        ) from None


def print_predictions(predictions: Predictions, form: str) -> None:
    """Print the answers on stdout as `table`, `json` or `csv`, and the failures on stderr."""
    match form:
        case "json":
            rows = [
                {
                    "path": a.path,
                    "label": a.label,
                    "probabilities": dict(zip(predictions.classes, a.probabilities, strict=True)),
                }
                for a in predictions.answers
            ]
            print(format_json(rows))
        case "csv":  # exact for programs, safe on a terminal
            show = escape_controls if sys.stdout.isatty() else str
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(("path", "label", *(show(f"probability_{name}") for name in predictions.classes)))
            writer.writerows(
                (show(a.path), show(a.label), *(f"{p:.6f}" for p in a.probabilities)) for a in predictions.answers
            )
        case _:
            _print_table(predictions)
    for path, reason in predictions.failures:
        log.error("%s: %s", escape_controls(path), escape_controls(reason))


def _print_table(predictions: Predictions) -> None:
    """Print for each image its label, and the probabilities of the most probable classes."""
    classes = [escape_controls(name) for name in predictions.classes]
    answers = [a._replace(path=escape_controls(a.path), label=escape_controls(a.label)) for a in predictions.answers]
    paths = max((len(answer.path) for answer in answers), default=0)
    labels = max((len(name) for name in classes), default=0)
    for answer in answers:
        ranked = sorted(zip(classes, answer.probabilities, strict=True), key=lambda pair: -pair[1])
        shown = "  ".join(f"{name} {probability:.1%}" for name, probability in ranked[:N_CLASSES_SHOWN])
        print(f"{answer.path:{paths}}  {answer.label:{labels}}  {shown}")
