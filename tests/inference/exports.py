"""Exported models that are made in milliseconds, without keras: a network of mean colors, and a linear head."""

import numpy as np

from relearn.exporting.model import join_model, serialize_model
from relearn.heads.calibration import Calibration
from relearn.heads.export import build_model
from relearn.heads.fitted import LayeredHead
from relearn.heads.graph import Graph
from relearn.inference.classifier import hash_record
from relearn.inference.exported import MODEL, RECORD, ExportRecord, Proof
from relearn.inference.screening import FLOAT
from relearn.storage.files import hash_bytes, write_folder, write_json


def build_export(classes=("blue", "red"), size_px=8, has_features=False, seed=0):
    """Return the bytes of a model whose features are the means of red, green and blue, from 0 to 1.

    Two classes: the first where blue is larger than red. More: random weights.
    """
    network = Graph("network_")
    values = network.add("Transpose", network.add("Cast", "image", to=FLOAT), perm=[0, 3, 1, 2])
    values = network.add("Flatten", network.add("GlobalAveragePool", values), axis=1)
    network.add("Mul", values, np.array(1 / 255, np.float32), output="features")
    weights = np.array([[4.0], [0.0], [-4.0]])
    if len(classes) > 2:
        weights = np.random.default_rng(seed).normal(size=(3, len(classes)))
    head = LayeredHead(np.zeros(3), np.ones(3), [(weights * (1 + seed / 10), np.zeros(weights.shape[1]))], True)
    content = build_model(head, Calibration("none", []), list(classes), 3)
    return serialize_model(join_model(network, content, 3, size_px, has_features=has_features))


def write_export(folder, classes=("blue", "red"), size_px=8, version="v1", has_features=False, seed=0):
    """Write an exported model to a folder that does not exist; return its record."""
    content = build_export(classes, size_px, has_features, seed)
    record = ExportRecord(
        model_sha256=hash_bytes(content),
        classes=list(classes),
        version=version,
        classifier_sha256="1" * 64,
        image_size_px=size_px,
        resize_filter="bilinear",
        jpeg_draft=False,
        any_size=False,
        n_features=3,
        has_features=has_features,
        quantization="none",
        network={"name": "mini_vgg", "weights": "random", "license": None},
        proof=Proof(
            split="validation", n_images=1, n_same=1, max_difference=0.0, n_right_before=1, n_right=1, p_value=1.0
        ),
        proof_any_size=None,
        versions={"relearn": "0.2.0"},
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder(folder) as partial:
        (partial / MODEL).write_bytes(content)
        (partial / "README.md").write_text("")
        write_json(partial / RECORD, {"record_sha256": hash_record(record.model_dump()), **record.model_dump()})
    return record
