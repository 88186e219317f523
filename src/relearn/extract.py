"""Stage `extract`: every image of the manifest through the network, once for all time."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from relearn import paths
from relearn.cluster import compute_on_cluster
from relearn.errors import ImageError, IntegrityError, NetworkError, StoreError, ValidationFailed
from relearn.features import write_features
from relearn.files import hash_bytes, hash_file, read_json, write_folder
from relearn.manifest import ManifestRow, read_manifest
from relearn.networks import Extractor, describe_way
from relearn.params import ExtractParams
from relearn.progress import track_progress
from relearn.store import FeatureStore, Space
from relearn.threads import map_ahead

log = logging.getLogger(__name__)


MAX_ATTEMPTS = 5


class Damaged(Exception):
    """The store had the features of an image, and has them no more."""


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
    n_attempts = 0
    with FeatureStore(paths.find_feature_store()) as store:
        while True:
            try:
                record, space = fill_store(store, manifest, params)
                with write_folder(paths.FEATURES) as folder:
                    write_features(folder, manifest, make_reader(space, record), record)
                return
            except Damaged:
                n_attempts += 1
                if n_attempts == MAX_ATTEMPTS:
                    raise StoreError(
                        f"{paths.find_feature_store()}: what was written was not there to be read, {n_attempts} times; "
                        "look at the disk, or set RELEARN_CACHE to another"
                    ) from None
            except MemoryError as error:
                if params.batch_size == 1:
                    raise NetworkError(f"extract.image_size_px: there is no memory for {error}; lower it") from None
                params = params.model_copy(update={"batch_size": params.batch_size // 2})
                log.warning("no memory for %s; going on with extract.batch_size %d", error, params.batch_size)


def fill_store(
    store: FeatureStore, manifest: Sequence[ManifestRow], params: ExtractParams
) -> tuple[dict[str, Any], Space]:
    """Compute the features that the store does not have; return what is known of the way, and the space.

    Where none is missing, the network is not built, and keras not imported.
    """
    space = store.open_space(describe_way(params))
    rows = {row.sha256: row for row in manifest}
    missing = space.find_missing(rows)
    log.info("%s images, %s of them new to the store", f"{len(rows):,}", f"{len(missing):,}")
    if params.executor == "dask" and missing:
        found = compute_on_cluster(params, [rows[image] for image in missing], read_content, space)
        for n_done, _ in enumerate(track_progress(found, len(missing), "extract"), start=1):
            if n_done == 1:  # by now it is known how much there will be
                assert space.record is not None
                n_bytes = space.record["n_features"] * np.dtype(space.record["feature_dtype"]).itemsize
                store.make_room((len(missing) - params.batch_size) * n_bytes, space)
    elif missing or space.record is None:
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
        store.make_room(len(missing) * extractor.n_features * extractor.dtype.itemsize, space)
        space.set_record(extractor.record.model_dump())
        batches = compute_missing(extractor, [rows[image] for image in missing], space)
        for _ in track_progress(batches, len(missing), "extract"):
            pass
    assert space.record is not None
    return space.record, space


def compute_missing(extractor: Extractor, rows: Sequence[ManifestRow], space: Space) -> Iterator[str]:
    """Compute the features of images and put them into the store, a batch at a time; yield each image's hash."""
    prepared = map_ahead(lambda row: read_prepared(extractor, row), rows, 2 * extractor.batch_size)
    arriving = iter(rows)

    def add(features: np.ndarray) -> list[str]:
        done = [row.sha256 for row in islice(arriving, len(features))]
        space.add(done, features)
        return done

    # In one thread, so that the batches come in their order, while the network is at the next.
    with ThreadPoolExecutor(1) as executor:
        waiting: Future[list[str]] | None = None
        for features in extractor.compute_batches(prepared):
            following = executor.submit(add, features)
            if waiting is not None:
                yield from waiting.result()
            waiting = following
        if waiting is not None:
            yield from waiting.result()


def make_reader(space: Space, record: dict[str, Any]) -> Any:
    """Return the function that reads the features of an image from the store."""
    dtype = np.dtype(record["feature_dtype"]).newbyteorder("<")

    def read(image: str) -> np.ndarray:
        features = space.read(image, dtype)
        if features is None or features.shape != (record["n_features"],):
            space.forget([image])
            raise Damaged
        return features

    return read


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
