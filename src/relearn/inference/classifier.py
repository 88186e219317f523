"""`models/classifier/`: the head as ONNX, and a record with the classes and the recipe of its features."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from relearn.errors import IntegrityError
from relearn.features.shards import FeatureHashes
from relearn.inference.screening import MAX_HEAD_BYTES, check_head
from relearn.paths import TUNED_WEIGHTS
from relearn.runtime.text import holds_control_character
from relearn.storage.files import hash_bytes, read_json, write_folder, write_json

HEAD = "head.onnx"
RECORD = "classifier.json"
MAX_RECORD_BYTES = 2**26
SUM_TOLERANCE = 1e-4  # float32 probabilities, one for each class
ADVICE = "use a classifier that `relearn train` wrote"
_SHORTAGE = re.compile("failed to allocate|bad_?\\s?alloc", re.I)  # in the errors of onnxruntime


class HeadRecord(BaseModel, frozen=True, strict=True, allow_inf_nan=False):
    """What is recorded about a head.

    Attributes
    ----------
    classes
        In the order of the probabilities.
    head, options
        The kind of head and its block of `params.yaml`, one value each.
    scale
        Whether the features are standardized.
    """

    head_sha256: str
    classes: list[str]
    head: str
    options: dict[str, Any]
    scale: bool
    calibration: str


class ClassifierRecord(HeadRecord, frozen=True):
    """The content of `classifier.json`, in the order of its keys, without the hash of the record itself.

    Attributes
    ----------
    extractor
        The content of `extractor.json`. An earlier relearn may have written other keys, so that only what rebuilds the
        network checks them (`ExtractorRecord`).
    """

    features: FeatureHashes
    extractor: dict[str, Any]


class Classifier(NamedTuple):
    """A head, ready to predict, and its record."""

    record: ClassifierRecord
    session: Any
    path: Path

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the columns of the probabilities."""
        return list(self.record.classes)

    def predict_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return the probability of each class: features (images, features) float32 to (images, classes) float32.

        Raises
        ------
        IntegrityError
            The head fails on these features, or returns no probabilities.
        """
        with name_errors(self.path):
            (answer,) = self.session.run(["probabilities"], {"features": np.asarray(features, np.float32)})
        return check_sum(np.asarray(answer), (len(features), len(self.classes)), self.path)

    def predict_labels(self, probabilities: np.ndarray) -> list[str]:
        """Return the most probable class of each row, the first of them in a tie."""
        return [self.classes[column] for column in probabilities.argmax(axis=1)]


def open_head(head: bytes, n_features: int, classes: Sequence[str], path: Path = Path(HEAD)) -> Any:
    """Open an ONNX head in onnxruntime on one thread, so that the order of additions does not depend on the machine.

    Raises
    ------
    IntegrityError
        `check_head` refuses it, or onnxruntime cannot open it; the error names `path`.
    """
    try:
        check_head(head, n_features, classes)
    except IntegrityError as error:
        raise IntegrityError(str(error), where=path, advice=ADVICE) from None
    return open_session(head, path, n_threads=1)


def open_session(content: bytes, path: Path, n_threads: int, advice: str = ADVICE, *, spins: bool = False) -> Any:
    """Open a checked ONNX model in onnxruntime on the CPU.

    Parameters
    ----------
    spins
        A thread that waits for another one keeps its core busy for 0.1 ms before it sleeps: faster, unless others need
        the core.

    Raises
    ------
    IntegrityError
        onnxruntime cannot open it; the error names `path`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a device id in the home folder
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.log_severity_level = 4  # its errors are raised
    # By default threads that wait spin, for long, while others decode images and answer requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    # Longer than most operations take, and short beside the milliseconds for which another thread may need the core.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    # Otherwise it detects the format from the first bytes, and may parse them unlike the check did.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with name_errors(path, advice):
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def check_sum(probabilities: np.ndarray, shape: tuple[int, int], path: Path, advice: str = ADVICE) -> np.ndarray:
    """Return the answer of the model at `path`, if these are probabilities (images, classes) of that shape.

    Raises
    ------
    IntegrityError
        They have another shape, or a row does not sum to 1.
    """
    if probabilities.shape != shape:
        wanted = f"probabilities of shape {shape}"
        raise IntegrityError(where=path, wanted=wanted, got=probabilities.shape, advice=advice)
    if not (probabilities >= 0).all() or not (abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE).all():
        found = f"{probabilities.min():g} to {probabilities.max():g}"
        wanted = "probabilities from 0 to 1 that sum to 1"
        raise IntegrityError(where=path, wanted=wanted, got=found, advice=advice)
    return probabilities


@contextmanager
def name_errors(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn the errors of onnxruntime, whose classes share no base of their own, into one line.

    Raises
    ------
    MemoryError
        There is not enough memory now, which is no fault of the model.
    IntegrityError
        All else.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime.") and not isinstance(error, RuntimeError | ValueError):
            raise
        if _SHORTAGE.search(str(error)):
            raise MemoryError from None
        problem = f"onnxruntime: {' '.join(str(error).split())[:300]}"
        raise IntegrityError(problem, where=path, advice=advice) from None


def write_classifier(folder: Path, head: bytes, record: ClassifierRecord, tuned_weights: Path | None = None) -> None:
    """Write all files or none: `head.onnx`, `classifier.json` with its SHA-256, and the weights of a tuned network.

    Parameters
    ----------
    tuned_weights
        The weights, if there is such a file; the record names their hash.
    """
    content = record.model_dump()
    with write_folder(folder) as partial:
        (partial / HEAD).write_bytes(head)
        if tuned_weights is not None and tuned_weights.exists():
            shutil.copy(tuned_weights, partial / TUNED_WEIGHTS)
        write_json(partial / RECORD, {"record_sha256": hash_record(content), **content})


def hash_record(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record as JSON without spaces, keys in alphabetical order, ASCII."""
    return hash_bytes(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def read_classifier(folder: Path) -> Classifier:
    """Read a classifier; the hashes of record and head are checked before the head is parsed.

    Raises
    ------
    IntegrityError
        A file is missing, or one of the hashes is wrong.
    """
    if folder.is_symlink():  # both files of one version, even if `release/current` is switched in between
        folder = folder.resolve()
    if not (folder / RECORD).is_file():
        raise IntegrityError("no classifier there", where=folder, advice="run `dvc repro`, or `dvc pull` one")
    record = read_record(folder / RECORD)
    path = folder / HEAD
    head = read_head(path, record)
    return Classifier(record, open_head(head, record.extractor["n_features"], record.classes, path), path)


def read_head(path: Path, record: HeadRecord) -> bytes:
    """Read the bytes of a head, and check their hash.

    Raises
    ------
    IntegrityError
        The file is missing or too large, or has another hash than the record says.
    """
    if not path.is_file():
        raise IntegrityError("no such file", where=path, advice="run `dvc repro train`")
    _check_size(path, MAX_HEAD_BYTES)
    head = path.read_bytes()
    if (found := hash_bytes(head)) != record.head_sha256:
        wanted = f"sha256 {record.head_sha256} ({RECORD})"
        raise IntegrityError(where=path, wanted=wanted, got=found, advice="run `dvc repro --force train`")
    return head


def read_record(path: Path) -> ClassifierRecord:
    """Read a `classifier.json`; its hash is checked before its values are.

    Raises
    ------
    IntegrityError
        The file is missing, its hash is wrong, or a value is missing or not what it has to be.
    """
    _check_size(path, MAX_RECORD_BYTES)
    content = read_json(path, ("record_sha256", *ClassifierRecord.model_fields))
    for key in ("record_sha256", "head_sha256"):
        if not isinstance(content[key], str) or not re.fullmatch("[0-9a-f]{64}", content[key]):
            raise IntegrityError(where=f"{path}: {key}", wanted="a SHA-256", got=_show(content[key]), advice=ADVICE)
    wanted = content.pop("record_sha256")
    if hash_record(content) != wanted:
        raise IntegrityError(
            where=path,
            wanted=f"the record of sha256 {wanted}",
            got="another, changed by hand",
            advice="run `dvc repro --force train`",
        )
    try:
        record = ClassifierRecord.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = f"{path}: {_show('.'.join(str(part) for part in problem['loc']))[1:-1]}"
        raise IntegrityError(problem["msg"], where=where, got=_show(problem["input"]), advice=ADVICE) from None
    check_record(path, record)
    return record


def _show(value: object) -> str:
    return ascii(value)[:80]


def _check_size(path: Path, max_bytes: int) -> None:
    if (n_bytes := path.stat().st_size) > max_bytes:
        raise IntegrityError(where=path, wanted=f"at most {max_bytes:,} bytes", got=f"{n_bytes:,}", advice=ADVICE)


def check_record(path: Path, record: ClassifierRecord) -> None:
    """Check the classes and the number of features of a record.

    Raises
    ------
    IntegrityError
        The classes are not two or more different, printable texts, or the number of features is missing.
    """
    check_classes(path, record.classes)
    n_features = record.extractor.get("n_features")
    if type(n_features) is not int or n_features < 1:
        where = f"{path}: extractor.n_features"
        raise IntegrityError(where=where, wanted="a whole number", got=_show(n_features), advice=ADVICE)


def check_classes(path: Path, classes: Sequence[str], advice: str = ADVICE) -> None:
    """Check the classes that the record at `path` names.

    Raises
    ------
    IntegrityError
        They are not two or more different, printable texts.
    """
    where = f"{path}: classes"
    if len(set(classes)) < max(2, len(classes)):
        raise IntegrityError(where=where, wanted="at least two, all different", got=len(classes), advice=advice)
    for name in classes:
        if not name or holds_control_character(name) or any("\ud800" <= letter <= "\udfff" for letter in name):
            wanted = "text without control characters"
            raise IntegrityError(where=where, wanted=wanted, got=_show(name), advice=advice)
