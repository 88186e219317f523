"""`models/classifier/`: the linear head as ONNX, and the record that says how its inputs are made."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn.errors import IntegrityError
from relearn.files import hash_bytes, hash_file, read_json, write_folder, write_json

HEAD = "head.onnx"
RECORD = "classifier.json"


class Classifier(NamedTuple):
    """A head that was read back, and its record (`classes` in the order of the probabilities, `extractor`, hashes)."""

    record: dict[str, Any]
    session: Any

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the columns of the probabilities."""
        return list(self.record["classes"])

    def predict_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return the probability of each class: features (images, features) float32 to (images, classes) float32."""
        (probabilities,) = self.session.run(["probabilities"], {"features": np.asarray(features, np.float32)})
        return np.asarray(probabilities)

    def predict_labels(self, probabilities: np.ndarray) -> list[str]:
        """Return the most probable class of each row, the first of them in a tie."""
        return [self.classes[column] for column in probabilities.argmax(axis=1)]


def open_head(head: bytes) -> Any:
    """Open an ONNX head in onnxruntime on one thread, so that the order of additions does not depend on the machine."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a device id in the home folder
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(head, options, providers=["CPUExecutionProvider"])


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
    record = read_json(folder / RECORD, ("record_sha256", "head_sha256", "classes", "features", "extractor"))
    wanted = record.pop("record_sha256")
    if hash_record(record) != wanted:
        raise IntegrityError(
            f"{folder / RECORD}: wanted the record of sha256 {wanted}, got another; it was changed by hand; "
            "run `dvc repro --force train`"
        )
    path = folder / HEAD
    if not path.is_file():
        raise IntegrityError(f"{path}: no such file; run `dvc repro train`")
    found = hash_file(path)
    if found != record["head_sha256"]:
        raise IntegrityError(
            f"{path}: wanted sha256 {record['head_sha256']} ({RECORD}), got {found}; run `dvc repro --force train`"
        )
    return Classifier(record, open_head(path.read_bytes()))
