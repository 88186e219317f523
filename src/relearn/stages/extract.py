"""Stage `extract`: every image of the manifest through the network, once for all time."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from relearn import paths
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import (
    ImageError,
    IntegrityError,
    LostFeatures,
    NetworkError,
    StoreError,
    UnfitFeature,
    ValidationFailed,
)
from relearn.features.cluster import compute_on_cluster
from relearn.features.shards import write_features
from relearn.features.store import FeatureSet, FeatureStore, read_limit_bytes
from relearn.networks.extractor import Extractor
from relearn.networks.recipe import describe_recipe
from relearn.networks.weights import check_weights_file
from relearn.params import ExtractParams
from relearn.runtime.progress import track_progress
from relearn.runtime.threads import count_threads, map_ahead
from relearn.storage.files import hash_bytes, hash_file, read_json, write_folder

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5


def run(params: ExtractParams) -> None:
    """Write `data/features/`: what the store has not is computed and put there, then all of it is read from there.

    Raises
    ------
    ValidationFailed
        The report says that the data did not pass, or is about other data.
    IntegrityError
        An image is missing or has changed since the manifest was written.
    NetworkError
        The network cannot be built, gives features that are not finite, or finds no memory for a single image.
    StoreError
        The store has no room for the features.
    """
    check_gate()
    manifest = read_manifest(paths.MANIFEST)
    read_limit_bytes()  # a wrong one is told now
    if params.weights_are_file:
        check_weights_file(Path(params.weights), str(params.weights_sha256))
    with FeatureStore(paths.find_feature_store()) as store:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if attempt == MAX_ATTEMPTS:
                store.set_aside(f"what was written was not there to be read, {attempt - 1} times")
            record, feature_set = fill_store(store, manifest, params)
            try:
                with write_folder(paths.FEATURES) as folder:
                    write_features(folder, manifest, make_reader(feature_set, record), record)
                return
            except LostFeatures:
                read = make_reader(feature_set, record)
                feature_set.forget([row.sha256 for row in manifest if not _is_there(read, row.sha256)])
    raise StoreError(
        f"{paths.find_feature_store()}: what was written was not there to be read, {MAX_ATTEMPTS} times, the last time "
        "in a new file; check the disk, or set RELEARN_CACHE to another"
    )


def fill_store(
    store: FeatureStore, manifest: Sequence[ManifestRow], params: ExtractParams
) -> tuple[dict[str, Any], FeatureSet]:
    """Compute the features that the store does not have; return what is known of the way, and the feature_set.

    Where none is missing, the network is not built, and keras not imported. Where there is no memory for a batch, half
    of it is tried, which is another feature_set; the store remembers that.
    """
    while True:
        feature_set = store.open_feature_set(describe_recipe(params))
        if feature_set.fallback is not None:
            log.info(
                "no memory was found for extract.batch_size %d, so it is %d; `relearn store prune %s` forgets that",
                params.batch_size,
                feature_set.fallback,
                feature_set.name[:8],
            )
            params = params.model_copy(update={"batch_size": feature_set.fallback})
            continue
        try:
            record = _fill_feature_set(store, feature_set, manifest, params)
        except MemoryError as error:
            if params.batch_size == 1:
                raise NetworkError(f"extract.image_size_px: there is no memory for {error}; lower it") from None
            log.warning("no memory for %s", error)
            feature_set.set_fallback(params.batch_size // 2)
            continue
        # The same bytes of weights may lie at other paths.
        return {**record, "weights": params.weights}, feature_set


def _fill_feature_set(
    store: FeatureStore, feature_set: FeatureSet, manifest: Sequence[ManifestRow], params: ExtractParams
) -> dict[str, Any]:
    """Compute what a feature_set does not have of the manifest's images, and return its record."""
    rows = {row.sha256: row for row in manifest}
    missing = feature_set.find_missing(rows)
    log.info("%s different images, %s of them new to the store", f"{len(rows):,}", f"{len(missing):,}")
    if feature_set.record is not None and not missing:
        return feature_set.record
    if params.executor == "dask" and missing:
        found = compute_on_cluster(params, [rows[image] for image in missing], read_content, feature_set)
        for n_done, _ in enumerate(track_progress(found, len(missing), "extract"), start=1):
            if n_done == 1:  # by now it is known how much there will be
                _make_room(store, feature_set, rows, len(missing) - params.batch_size)
    else:
        extractor = Extractor(params)
        log.info(
            "%s, weights %s, layer %s, %s: %s features an image, %s parameters",
            params.network,
            params.weights,
            params.layer or "last",
            extractor.record.precision,
            f"{extractor.n_features:,}",
            f"{extractor.record.n_parameters:,}",
        )
        if feature_set.record is not None and feature_set.record["network_sha256"] != extractor.record.network_sha256:
            log.warning("the weights %s are others than before; all images are computed again", params.weights)
            feature_set.forget(rows)
            missing = list(rows)
        feature_set.set_record(extractor.record.model_dump())
        _make_room(store, feature_set, rows, len(missing))
        batches = compute_missing(extractor, [rows[image] for image in missing], feature_set)
        for _ in track_progress(batches, len(missing), "extract"):
            pass
    if feature_set.record is None:
        raise NetworkError("extract.executor dask: no worker told how it computes")
    return feature_set.record


def _make_room(store: FeatureStore, feature_set: FeatureSet, images: Collection[str], n_new: int) -> None:
    record = feature_set.record or {}
    n_bytes = record["n_features"] * np.dtype(record["feature_dtype"]).itemsize
    store.make_room(n_new * n_bytes, feature_set, images)


def compute_missing(extractor: Extractor, rows: Sequence[ManifestRow], feature_set: FeatureSet) -> Iterator[str]:
    """Compute the features of images and put them into the store, a batch at a time; yield each image's hash."""
    n_ahead = max(2 * extractor.batch_size, 2 * count_threads())
    prepared = map_ahead(lambda row: read_prepared(extractor, row), rows, n_ahead)
    arriving = iter(rows)

    def add(features: np.ndarray) -> list[str]:
        done = [row.sha256 for row in islice(arriving, len(features))]
        feature_set.add(done, features)
        return done

    # In one thread, so that the batches come in their order, while the network is at the next.
    with ThreadPoolExecutor(1) as executor:
        waiting: Future[list[str]] | None = None
        for features in name_images(extractor.compute_batches(prepared), rows, extractor.batch_size):
            following = executor.submit(add, features)
            if waiting is not None:
                yield from waiting.result()
            waiting = following
        if waiting is not None:
            yield from waiting.result()


def name_images(batches: Iterator[np.ndarray], rows: Sequence[ManifestRow], batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches of features; name the image in the error of one that has a feature which cannot be kept."""
    n_done = 0
    while True:
        try:
            features = next(batches)
        except StopIteration:
            return
        except UnfitFeature as error:
            raise NetworkError(f"{paths.DATASET / rows[n_done + error.row].path}: {error}") from None
        n_done += batch_size
        yield features


def make_reader(feature_set: FeatureSet, record: dict[str, Any]) -> Callable[[str], np.ndarray]:
    """Return the function that reads the features of an image from the store."""
    dtype = np.dtype(record["feature_dtype"]).newbyteorder("<")

    def read(image: str) -> np.ndarray:
        features = feature_set.read(image, dtype)
        if features is None or features.shape != (record["n_features"],):
            raise LostFeatures
        return features

    return read


def _is_there(read: Callable[[str], np.ndarray], image: str) -> bool:
    try:
        read(image)
    except LostFeatures:
        return False
    return True


def check_gate() -> None:
    """Raise `ValidationFailed` unless this very manifest passed `validate`."""
    report = read_json(paths.VALIDATION_REPORT, ("passed", "manifest_sha256"))
    if report["manifest_sha256"] != hash_file(paths.MANIFEST):
        raise ValidationFailed(
            f"{paths.VALIDATION_REPORT} is about another {paths.MANIFEST} than the one here; run `dvc repro validate`"
        )
    if report["passed"] is not True:
        raise ValidationFailed(f"the data did not pass: see {paths.VALIDATION_REPORT}; mend it, then run `dvc repro`")


def read_prepared(extractor: Extractor, row: ManifestRow) -> np.ndarray:
    """Read an image of the data set as the network wants it: uint8 of shape (size, size, 3).

    Raises
    ------
    IntegrityError
        The file is missing, or its bytes are not those that the manifest names.
    """
    try:
        return extractor.read_image(read_content(row))
    except ImageError as error:
        path = paths.DATASET / row.path
        raise IntegrityError(f"{path}: {error}, though {paths.MANIFEST} lists it; run `dvc repro -f`") from None


def read_content(row: ManifestRow) -> bytes:
    """Read the bytes of an image of the data set, and prove that they are those of the manifest."""
    path = paths.DATASET / row.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}; run `dvc repro restructure`") from None
    if hash_bytes(content) != row.sha256:
        raise IntegrityError(
            f"{path}: wanted sha256 {row.sha256} ({paths.MANIFEST}), got other bytes; "
            "remove the file and run `dvc repro restructure`"
        )
    return content
