import json
from pathlib import Path

import numpy as np
import pytest

from inference.records import make_record
from relearn.errors import IntegrityError
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.export import export_head
from relearn.heads.fitted import LayeredHead
from relearn.inference import classifier
from relearn.inference.classifier import hash_record, read_classifier, read_record, write_classifier

CLASSES = ["cat", "cow", "dog"]
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def head():
    rng = np.random.default_rng(1)
    layers = [(rng.normal(size=(4, 3)), rng.normal(size=3))]
    fitted = LayeredHead(np.zeros(4), np.ones(4), layers, has_probabilities=True)
    return export_head(fitted, UNCALIBRATED, CLASSES, [ROWS])


@pytest.fixture
def write_record(head):
    """Write a classifier with any changes of its record, but hashes that are right, and read it."""

    def write_record(folder, changes=None):
        record = make_record(head, CLASSES, 4)
        write_classifier(folder, head, record)
        record = record.model_dump() | (changes or {})
        (folder / "classifier.json").write_text(json.dumps({"record_sha256": hash_record(record), **record}))
        return read_classifier(folder)

    return write_record


def test_what_was_written_is_read(tmp_path, write_record):
    read = write_record(tmp_path / "model")
    assert read.classes == CLASSES
    probabilities = read.predict_probabilities(ROWS)
    assert (probabilities.shape, probabilities.dtype) == ((6, 3), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert read.predict_labels(probabilities) == [CLASSES[column] for column in probabilities.argmax(axis=1)]


def test_reader_and_writer_keep_the_bytes_of_a_record(tmp_path):
    """The file is that of the sample: keys in their order, numbers as they were, the same `record_sha256`."""
    trained = Path(__file__).parent / "classifier.json"
    write_classifier(tmp_path / "model", b"head", read_record(trained))
    assert (tmp_path / "model" / "classifier.json").read_bytes() == trained.read_bytes()


@pytest.mark.parametrize(
    "key", ["head_sha256", "classes", "head", "options", "scale", "calibration", "features", "extractor"]
)
def test_a_record_without_a_key_is_refused(tmp_path, key):
    content = json.loads((Path(__file__).parent / "classifier.json").read_text())
    del content["record_sha256"], content[key]
    path = tmp_path / "classifier.json"
    path.write_text(json.dumps({"record_sha256": hash_record(content), **content}))
    with pytest.raises(IntegrityError, match=rf"classifier\.json: wanted the key {key}, got record_sha256, "):
        read_record(path)


def test_keys_of_another_relearn_are_read_with_the_rest(tmp_path, write_record):
    """Retraining compares the production model of another relearn, or says why not; see `explain_format`."""
    assert write_record(tmp_path / "model", {"more": 1, "extractor": {"n_features": 4, "more": 1}}).classes == CLASSES


def test_another_head_is_refused(tmp_path, write_record):
    write_record(tmp_path / "model")
    (tmp_path / "model" / "head.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"head\.onnx: wanted sha256 [0-9a-f]{64} \(classifier\.json\), got "):
        read_classifier(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["cat", "cat", "dog"]}, "classes: wanted at least two, all different, got 3"),
        ({"classes": ["cat"]}, "classes: wanted at least two"),
        ({"classes": "cat"}, "classes: Input should be a valid list, got 'cat'; use a classifier that"),
        ({"classes": ["cat", 1, "dog"]}, r"classes\.1: Input should be a valid string, got 1; use"),
        ({"classes": ["cat", "\x1b]0;x\x07", "dog"]}, r"classes: wanted text without control characters, got '\\x1b"),
        ({"classes": ["cat", "\x9b2J", "dog"]}, "classes: wanted text without control characters"),
        ({"classes": ["cat", "a\nb", "dog"]}, "classes: wanted text without control characters"),
        ({"classes": ["cat", "\ud800", "dog"]}, "classes: wanted text without control characters"),
        ({"classes": ["cat", "", "dog"]}, "classes: wanted text without control characters"),
        ({"head": None}, "head: Input should be a valid string, got None; use"),
        ({"options": []}, r"options: Input should be a valid dictionary, got \[\]; use"),
        ({"scale": "\x1b"}, r"scale: Input should be a valid boolean, got '\\x1b'; use"),
        (
            {"features": {"index_sha256": "1"}},
            r"features\.shards_sha256: Field required, got \{'index_sha256': '1'\}; use",
        ),
        ({"extractor": []}, r"extractor: Input should be a valid dictionary, got \[\]; use"),
        ({"extractor": {}}, r"extractor\.n_features: wanted a whole number, got None"),
        ({"extractor": {"n_features": True}}, r"extractor\.n_features: wanted a whole number, got True"),
        ({"extractor": {"n_features": 0}}, r"extractor\.n_features: wanted a whole number, got 0"),
        ({"extractor": {"n_features": "\x1b"}}, r"extractor\.n_features: wanted a whole number, got '\\x1b'"),
    ],
)
def test_made_records_are_refused(tmp_path, write_record, changes, message):
    with pytest.raises(IntegrityError, match=rf"model/classifier\.json: {message}"):
        write_record(tmp_path / "model", changes)


@pytest.mark.parametrize("key", ["record_sha256", "head_sha256"])
def test_hashes_that_are_none_are_one_short_line(tmp_path, write_record, key):
    write_record(tmp_path / "model")
    path = tmp_path / "model" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "\n" * 10**6}))
    with pytest.raises(IntegrityError, match=rf"classifier\.json: {key}: wanted a SHA-256, got '") as caught:
        read_classifier(path.parent)
    assert len(str(caught.value)) < 500
    path.write_text(json.dumps({"x" * 10**6: 1}))
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted the key record_sha256, got x") as caught:
        read_classifier(path.parent)
    assert len(str(caught.value)) < 600


def test_record_of_900_brackets_or_of_64_mb_is_refused(tmp_path, write_record):
    write_record(tmp_path / "model")
    path = tmp_path / "model" / "classifier.json"
    path.write_text('{"classes": ' + "[" * 100_000)
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted JSON, got maximum recursion depth"):
        read_classifier(path.parent)
    with path.open("r+b") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted at most 67,108,864 bytes, got 67,108,865"):
        read_classifier(path.parent)


def test_large_head_is_not_read(tmp_path, write_record, monkeypatch):
    write_record(tmp_path / "model")
    monkeypatch.setattr(classifier, "MAX_HEAD_BYTES", 100)
    with pytest.raises(IntegrityError, match=r"head\.onnx: wanted at most 100 bytes, got"):
        read_classifier(tmp_path / "model")


def test_features_of_another_length_are_one_line(tmp_path, write_record):
    read = write_record(tmp_path / "model")
    with pytest.raises(IntegrityError, match=r"model/head\.onnx: onnxruntime: .*INVALID_ARGUMENT") as caught:
        read.predict_probabilities(ROWS[:, :2])
    assert "\n" not in str(caught.value)
