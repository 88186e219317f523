"""`models/classifier/`: the linear head as ONNX, and the record that says how its inputs are made."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn.errors import IntegrityError
from relearn.inference.screening import MAX_HEAD_BYTES, check_head
from relearn.runtime.text import holds_control_character
from relearn.storage.files import hash_bytes, read_json, write_folder, write_json

HEAD = "head.onnx"
RECORD = "classifier.json"
KEYS = ("record_sha256", "head_sha256", "classes", "features", "extractor")
MAX_RECORD_BYTES = 2**26
SUM_TOLERANCE = 1e-4  # float32 probabilities, one for each class
ADVICE = "use a classifier that `relearn train` wrote"


class Classifier(NamedTuple):
    """A head that was read back, and its record (`classes` in the order of the probabilities, `extractor`, hashes)."""

    record: dict[str, Any]
    session: Any
    path: Path

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the columns of the probabilities."""
        return list(self.record["classes"])

    def predict_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return the probability of each class: features (images, features) float32 to (images, classes) float32.

        Raises
        ------
        IntegrityError
            The head fails on these features, or what it answers are no probabilities.
        """
        with _name_errors(self.path):
            (answer,) = self.session.run(["probabilities"], {"features": np.asarray(features, np.float32)})
        probabilities = np.asarray(answer)
        wanted = (len(features), len(self.classes))
        if probabilities.shape != wanted:
            raise IntegrityError(
                f"{self.path}: wanted probabilities of shape {wanted}, got {probabilities.shape}; {ADVICE}"
            )
        if not (probabilities >= 0).all() or not (abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE).all():
            raise IntegrityError(
                f"{self.path}: wanted probabilities from 0 to 1 that sum to 1, got {probabilities.min():g} to "
                f"{probabilities.max():g}; {ADVICE}"
            )
        return probabilities

    def predict_labels(self, probabilities: np.ndarray) -> list[str]:
        """Return the most probable class of each row, the first of them in a tie."""
        return [self.classes[column] for column in probabilities.argmax(axis=1)]


def open_head(head: bytes, n_features: int, classes: Sequence[str], path: Path = Path(HEAD)) -> Any:
    """Open an ONNX head in onnxruntime on one thread, so that the order of additions does not depend on the machine.

    Raises
    ------
    IntegrityError
        It is not what `check_head` lets through, or onnxruntime cannot open it; `path` is named.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a device id in the home folder
    import onnxruntime

    try:
        check_head(head, n_features, classes)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; {ADVICE}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised
    # Else it takes the format from the first bytes, and reads another file than the one that was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with _name_errors(path):
        return onnxruntime.InferenceSession(head, options, providers=["CPUExecutionProvider"])


@contextmanager
def _name_errors(path: Path) -> Iterator[None]:
    """Turn the errors of onnxruntime, whose classes share no base of their own, into one line."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime.") and not isinstance(error, RuntimeError | ValueError):
            raise
        raise IntegrityError(f"{path}: onnxruntime: {' '.join(str(error).split())[:300]}; {ADVICE}") from None


def write_classifier(folder: Path, head: bytes, record: dict[str, Any]) -> None:
    """Write `head.onnx` and `classifier.json`, which gets the SHA-256 of the head and of itself; both or neither."""
    record = {"head_sha256": hash_bytes(head), **record}
    with write_folder(folder) as partial:
        (partial / HEAD).write_bytes(head)
        write_json(partial / RECORD, {"record_sha256": hash_record(record), **record})


def hash_record(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record as JSON without spaces, keys in alphabetical order, ASCII."""
    return hash_bytes(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def read_classifier(folder: Path) -> Classifier:
    """Read a classifier, and check the hash of the record, and that of the head before it is parsed.

    Raises
    ------
    IntegrityError
        A file is missing, or one of the hashes is wrong.
    """
    if folder.is_symlink():  # both files of one version, where `release/current` is switched in between
        folder = folder.resolve()
    if not (folder / RECORD).is_file():
        raise IntegrityError(f"{folder}: no classifier there; run `dvc repro`, or `dvc pull` one")
    _check_size(folder / RECORD, MAX_RECORD_BYTES)
    record = read_json(folder / RECORD, KEYS)
    for key in ("record_sha256", "head_sha256"):
        if not isinstance(record[key], str) or not re.fullmatch("[0-9a-f]{64}", record[key]):
            raise IntegrityError(f"{folder / RECORD}: {key}: wanted a SHA-256, got {_show(record[key])}; {ADVICE}")
    wanted = record.pop("record_sha256")
    if hash_record(record) != wanted:
        raise IntegrityError(
            f"{folder / RECORD}: wanted the record of sha256 {wanted}, got another; it was changed by hand; "
            "run `dvc repro --force train`"
        )
    n_features = check_record(folder / RECORD, record)
    path = folder / HEAD
    if not path.is_file():
        raise IntegrityError(f"{path}: no such file; run `dvc repro train`")
    _check_size(path, MAX_HEAD_BYTES)
    head = path.read_bytes()
    if (found := hash_bytes(head)) != record["head_sha256"]:
        raise IntegrityError(
            f"{path}: wanted sha256 {record['head_sha256']} ({RECORD}), got {found}; run `dvc repro --force train`"
        )
    return Classifier(record, open_head(head, n_features, record["classes"], path), path)


def _show(value: object) -> str:
    return ascii(value)[:80]


def _check_size(path: Path, most: int) -> None:
    if (n_bytes := path.stat().st_size) > most:
        raise IntegrityError(f"{path}: wanted at most {most:,} bytes, got {n_bytes:,}; {ADVICE}")


def check_record(path: Path, record: dict[str, Any]) -> int:
    """Check what a record says of classes and features, and return the number of features.

    Raises
    ------
    IntegrityError
        The classes are not at least two different texts that can be printed, or there is no number of features.
    """
    classes = record["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise IntegrityError(f"{path}: classes: wanted a list of texts, got something else; {ADVICE}")
    if len(set(classes)) < max(2, len(classes)):
        raise IntegrityError(f"{path}: classes: wanted at least two, all different, got {len(classes)}; {ADVICE}")
    for name in classes:
        if not name or holds_control_character(name) or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise IntegrityError(
                f"{path}: classes: wanted text without control characters, got {_show(name)}; {ADVICE}"
            )
    extractor = record["extractor"]
    n_features = extractor.get("n_features") if isinstance(extractor, dict) else None
    if type(n_features) is not int or n_features < 1:
        raise IntegrityError(f"{path}: extractor.n_features: wanted a whole number, got {_show(n_features)}; {ADVICE}")
    return n_features
