"""A classifier's folder in, an exported model out, if it answers as the pipeline does."""

import logging
import os
from collections.abc import Sequence
from importlib.metadata import version as find_version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn import paths
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import IntegrityError
from relearn.exporting.licenses import find_license
from relearn.exporting.model import join_model, serialize_model
from relearn.exporting.network import convert_network
from relearn.exporting.proof import check_alike, check_equal, compare_answers, describe_proof
from relearn.exporting.quantization import MAX_CALIBRATION_IMAGES, quantize_network
from relearn.exporting.readme import describe_export
from relearn.features.computation import read_content, read_prepared
from relearn.images.decoding import decode_image
from relearn.inference.classifier import (
    Classifier,
    check_sum,
    hash_record,
    name_errors,
    open_session,
    read_classifier,
    read_head,
)
from relearn.inference.exported import (
    ADVICE,
    BATCH_SIZE,
    FILES,
    MODEL,
    RECORD,
    ExportRecord,
    Proof,
    read_export_record,
)
from relearn.inference.model_screening import IMAGE, check_model
from relearn.inference.predictor import build_extractor, find_tuned_weights, read_extractor_record
from relearn.networks.extractor import Extractor
from relearn.networks.reading import group_items
from relearn.networks.recipe import ExtractorRecord
from relearn.runtime.progress import track_progress
from relearn.runtime.threads import count_threads, map_ahead
from relearn.storage.files import hash_bytes, hash_file, write_folder, write_json

log = logging.getLogger(__name__)

QUIET_SECONDS = 2.0


class ExportOptions(NamedTuple):
    """What the model shall be.

    any_size : whether it takes images of any size, and resizes them
    has_features : whether it returns `features` too
    is_int8 : whether its network is quantized
    """

    any_size: bool = False
    has_features: bool = False
    is_int8: bool = False


class _Source(NamedTuple):
    """The classifier, and the images that its model is proved on."""

    classifier: Classifier
    recorded: ExtractorRecord
    extractor: Extractor
    training: list[ManifestRow]
    split: str
    images: list[ManifestRow]


class _Answers(NamedTuple):
    """Probabilities (images, classes) of the same images; None of a model that was not made."""

    pipeline: np.ndarray
    model: np.ndarray
    any_size: np.ndarray | None
    int8: np.ndarray | None


def export_classifier(
    folder: Path, target: Path, options: ExportOptions, version: str | None, weights: Path | None = None
) -> ExportRecord:
    """Write `model.onnx`, `model.json` and `README.md` to `target`, or nothing if the model answers otherwise.

    Images of the validation split, or of training if there is no such split, are asked about: the same pixels by the
    pipeline's network in float32 with the head, and by the model.

    Parameters
    ----------
    folder
        With `classifier.json` and `head.onnx`. The current folder has the data set.
    version
        Of the release, to be recorded.
    weights
        The network's weights file, if it is no longer at the path that the classifier records.

    Raises
    ------
    IntegrityError
        The classifier is damaged, there are no images, or the model does not give their labels.
    NetworkError
        The network cannot be built, or not be exported.
    """
    check_target(target)
    source = _open_source(folder, find_tuned_weights(folder) if weights is None else weights)
    content, quantized = _build_models(source, options)
    answers = _ask_all(source, options, content, quantized)
    labels = [row.label for row in source.images]

    def _compare(probabilities: np.ndarray) -> Proof:
        return compare_answers(source.split, labels, source.classifier.classes, answers.pipeline, probabilities)

    proof, proof_any_size = _compare(answers.model), None
    check_equal(proof, source.recorded.feature_dtype)
    if answers.any_size is not None:
        check_alike(proof_any_size := _compare(answers.any_size), "--any-size")
    if quantized is not None and answers.int8 is not None:
        log.info("before the quantization: %s", describe_proof(proof))
        content, proof = quantized, _compare(answers.int8)
        check_alike(proof, "--int8")
    record = ExportRecord(
        model_sha256=hash_bytes(content),
        classes=source.classifier.classes,
        version=version,
        classifier_sha256=hash_record(source.classifier.record.model_dump()),
        **source.recorded.model_dump(include={"image_size_px", "resize_filter", "jpeg_draft", "n_features"}),
        any_size=options.any_size,
        has_features=options.has_features,
        quantization="int8" if options.is_int8 else "none",
        network=_describe_network(source.recorded, is_tuned=find_tuned_weights(folder) is not None),
        proof=proof,
        proof_any_size=proof_any_size,
        versions={name: find_version(name) for name in ("relearn", "keras", "onnx", "onnxruntime", "pillow")},
    )
    check_target(target)
    with write_folder(target) as partial:
        (partial / MODEL).write_bytes(content)
        (partial / "README.md").write_text(describe_export(record), encoding="utf-8")
        write_json(partial / RECORD, {"record_sha256": hash_record(record.model_dump()), **record.model_dump()})
    return record


def check_target(target: Path) -> None:
    """Raise `IntegrityError` if something else than an export is there, which would be lost.

    The folder around it is made, so that one that cannot be written is noticed before the work.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise IntegrityError(where=target.parent, wanted="a folder that can be written", got="one that cannot")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise IntegrityError(where=target, wanted="a new folder, or an earlier export", got="a link or a file")
    others = sorted({path.name for path in target.iterdir()} - set(FILES)) if target.exists() else []
    if others:
        got = f"{others[0]!r} in it"
        raise IntegrityError(where=target, wanted="a new folder, or an earlier export", got=got, advice="name another")


def is_export_of(folder: Path, target: Path, version: str | None) -> bool:
    """Return whether `target` is a whole export of a classifier as this version, with whatever options."""
    try:
        record = read_export_record(target)
        if hash_file(target / MODEL) != record.model_sha256:
            return False
    except (IntegrityError, OSError):
        return False
    classifier = hash_record(read_classifier(folder).record.model_dump())
    return record.classifier_sha256 == classifier and version in (None, record.version)


def _open_source(folder: Path, weights: Path | None) -> _Source:
    classifier = read_classifier(folder)
    recorded = read_extractor_record(folder, classifier.record.extractor)
    rows: dict[str, list[ManifestRow]] = {split: [] for split in ("validation", "training")}
    for row in read_manifest(paths.MANIFEST):
        rows.get(row.split, []).append(row)
    split = next((split for split, found in rows.items() if found), None)
    if split is None:
        raise IntegrityError("no images to prove the model on", where=paths.MANIFEST, advice="run `dvc repro`")
    if recorded.precision != "float32":
        log.info("the features were computed in %s; the model computes in float32", recorded.precision)
    batch_size = min(recorded.batch_size, BATCH_SIZE)
    record = recorded.model_copy(update={"precision": "float32", "batch_size": batch_size})
    return _Source(classifier, recorded, build_extractor(record, weights), rows["training"], split, rows[split])


def _build_models(source: _Source, options: ExportOptions) -> tuple[bytes, bytes | None]:
    """Return the model in float32, and the quantized one if it is wanted."""
    record = source.extractor.record
    head = read_head(source.classifier.path, source.classifier.record)
    size_px = None if options.any_size else record.image_size_px

    def _join(graph: Any) -> bytes:
        model = join_model(graph, head, record.n_features, size_px, has_features=options.has_features)
        return serialize_model(model)

    network = convert_network(record, any_size=options.any_size)
    content = _join(network)
    if not options.is_int8:
        return content, None
    chosen = sorted(source.training, key=lambda row: row.sha256)[:MAX_CALIBRATION_IMAGES]
    log.info("measuring the ranges of the activations on %d training images", len(chosen))
    images = list(map_ahead(lambda row: read_prepared(source.extractor, row), chosen, BATCH_SIZE))
    return content, _join(quantize_network(network, images, size_px, record.n_features))


def _ask_all(source: _Source, options: ExportOptions, content: bytes, quantized: bytes | None) -> _Answers:
    """Return what pipeline and models answer to the images, given the same pixels."""
    extractor, rows, n_classes = source.extractor, source.images, len(source.classifier.classes)
    float32 = _open_model(source, options, content)
    int8 = None if quantized is None else _open_model(source, options, quantized)
    pipeline, model, by_int8 = [], [], []
    images = map_ahead(lambda row: read_prepared(extractor, row), rows, 2 * BATCH_SIZE)
    for group in group_items(track_progress(images, len(rows), "export", quiet_seconds=QUIET_SECONDS), BATCH_SIZE):
        for features in map(extractor.compute_features, group_items(group, extractor.batch_size)):
            pipeline += [source.classifier.predict_probabilities(row[np.newaxis]) for row in features]
        model.append(_ask(float32, np.stack(group), n_classes))
        if int8:
            by_int8.append(_ask(int8, np.stack(group), n_classes))
    any_size = []
    if options.any_size:  # by the model that is written
        for row in track_progress(rows, len(rows), "resize", quiet_seconds=QUIET_SECONDS):
            any_size.append(
                _ask(int8 or float32, np.asarray(decode_image(read_content(row)).rgb)[np.newaxis], n_classes)
            )
    return _Answers(np.concatenate(pipeline), np.concatenate(model), _join_rows(any_size), _join_rows(by_int8))


def _open_model(source: _Source, options: ExportOptions, content: bytes) -> Any:
    record = source.extractor.record
    size_px = None if options.any_size else record.image_size_px
    classes = source.classifier.classes
    check_model(content, classes, record.n_features, size_px, has_features=options.has_features)
    return open_session(content, Path(MODEL), count_threads(), ADVICE)


def _ask(session: Any, images: np.ndarray, n_classes: int) -> np.ndarray:
    with name_errors(Path(MODEL), ADVICE):
        (answer,) = session.run(["probabilities"], {IMAGE: images})
    return check_sum(np.asarray(answer), (len(images), n_classes), Path(MODEL), ADVICE)


def _join_rows(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    return np.concatenate(parts) if parts else None


def _describe_network(record: ExtractorRecord, *, is_tuned: bool) -> dict[str, str | None]:
    return {
        "name": record.network,
        "layer": record.layer,
        "pooling": record.pooling,
        "precision": record.precision,
        "feature_dtype": record.feature_dtype,
        "weights": "tuned" if is_tuned else Path(record.weights).name,
        "network_sha256": record.network_sha256,
        "license": find_license(record),
    }
