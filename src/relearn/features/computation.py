"""The features that the store does not have, computed on this machine or on a cluster."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, groupby, islice
from typing import Any

import numpy as np

from relearn import paths
from relearn.dataset.manifest import ManifestRow
from relearn.errors import ImageError, IntegrityError, LostFeatures, NetworkError, OutOfMemory, UnfitFeature
from relearn.features.cluster import compute_on_cluster
from relearn.features.store import FeatureSet, FeatureStore
from relearn.features.views import NO_VIEWS, Input, Views
from relearn.networks.extractor import Extractor
from relearn.networks.reading import ImageReader
from relearn.networks.recipe import describe_recipe
from relearn.params.networks import ExtractParams
from relearn.runtime.progress import track_progress
from relearn.runtime.threads import count_threads, map_ahead
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)


def fill_store(
    store: FeatureStore, manifest: Sequence[ManifestRow], params: ExtractParams, views: Views = NO_VIEWS
) -> tuple[dict[str, Any], FeatureSet]:
    """Compute the features that the store does not have; return the extractor's record and the feature set.

    If none is missing, the network is not built and keras not imported. If there is too little memory for a batch, half
    of it is tried, which is another feature set; the store remembers that.

    Raises
    ------
    NetworkError
        The network cannot be built, a feature is not finite, or there is too little memory for a single image.
    StoreError
        The store has no room for the features.
    IntegrityError
        An image is missing or differs from the manifest.
    """
    while True:
        feature_set = store.open_feature_set(describe_recipe(params))
        if feature_set.fallback is not None:
            log.info(
                "extract.batch_size %d was too large for memory, so it is %d; `relearn store prune %s` forgets that",
                params.batch_size,
                feature_set.fallback,
                feature_set.name[:8],
            )
            params = params.model_copy(update={"batch_size": feature_set.fallback})
            continue
        try:
            record = _fill_feature_set(store, feature_set, views.collect_inputs(manifest), params)
        except MemoryError as error:
            if params.batch_size == 1:
                problem = f"there is too little memory for {error}"
                raise NetworkError(problem, where="extract.image_size_px", advice="lower it") from None
            log.warning("too little memory for %s", error)
            feature_set.set_fallback(params.batch_size // 2)
            continue
        # The same bytes of weights may be at other paths.
        return {**record, "weights": params.weights}, feature_set


def _fill_feature_set(
    store: FeatureStore, feature_set: FeatureSet, inputs: dict[str, Input], params: ExtractParams
) -> dict[str, Any]:
    """Compute the features that are missing, and return the extractor's record."""
    missing = feature_set.find_missing(inputs)
    unit = "images and views" if params.views else "images"
    log.info("%s different %s, %s of them new to the store", f"{len(inputs):,}", unit, f"{len(missing):,}")
    if feature_set.record is not None and not missing:
        return feature_set.record
    if params.executor == "dask" and missing:
        found = compute_on_cluster(params, [inputs[key] for key in missing], read_content, feature_set)
        for n_done, _ in enumerate(track_progress(found, len(missing), "extract", unit), start=1):
            if n_done == 1:  # the first answer brings the size of a feature
                _make_room(store, feature_set, inputs, len(missing) - params.batch_size)
    else:
        extractor = _build_extractor(params)
        if feature_set.record is not None and feature_set.record["network_sha256"] != extractor.record.network_sha256:
            log.warning("the weights %s have changed; all images are computed again", params.weights)
            feature_set.forget(inputs)
            missing = list(inputs)
        feature_set.set_record(extractor.record.model_dump())
        _make_room(store, feature_set, inputs, len(missing))
        batches = compute_missing(extractor, [inputs[key] for key in missing], feature_set)
        for _ in track_progress(batches, len(missing), "extract", unit, batch_size=extractor.batch_size):
            pass
    if feature_set.record is None:
        raise NetworkError("no worker returned a record", where="extract.executor dask")
    return feature_set.record


def _build_extractor(params: ExtractParams) -> Extractor:
    extractor = Extractor(params)
    log.info(
        "%s, weights %s, layer %s, %s: %s features per image, %s parameters",
        params.network,
        params.weights,
        params.layer or "last",
        extractor.record.precision,
        f"{extractor.n_features:,}",
        f"{extractor.record.n_parameters:,}",
    )
    return extractor


def _make_room(store: FeatureStore, feature_set: FeatureSet, keys: Collection[str], n_new: int) -> None:
    record = feature_set.record or {}
    n_bytes = record["n_features"] * np.dtype(record["feature_dtype"]).itemsize
    store.make_room(n_new * n_bytes, feature_set, keys)


def compute_missing(extractor: Extractor, inputs: Sequence[Input], feature_set: FeatureSet) -> Iterator[str]:
    """Compute features and add them to the store, one batch at a time; yield each key.

    An image is decoded once for all its views that follow each other in `inputs`.
    """
    groups = [list(group) for _, group in groupby(inputs, lambda item: item.row.sha256)]
    n_views = max(map(len, groups), default=1)
    n_ahead = max(-(-2 * extractor.batch_size // n_views), 2 * count_threads())
    prepared = chain.from_iterable(map_ahead(lambda group: _read_inputs(extractor, group), groups, n_ahead))
    arriving = iter(inputs)

    def _add(features: np.ndarray) -> list[str]:
        done = [item.key for item in islice(arriving, len(features))]
        feature_set.add(done, features)
        return done

    # One thread adds the batches in order while the network computes the next.
    with ThreadPoolExecutor(1) as executor:
        waiting: Future[list[str]] | None = None
        for features in _name_images(extractor.compute_batches(prepared), inputs, extractor.batch_size):
            following = executor.submit(_add, features)
            if waiting is not None:
                yield from waiting.result()
            waiting = following
        if waiting is not None:
            yield from waiting.result()


def _read_inputs(extractor: Extractor, group: list[Input]) -> list[np.ndarray]:
    """Read an image, and return its views."""
    prepared = read_prepared(extractor, group[0].row)
    return [item.draw(prepared) for item in group]


def _name_images(batches: Iterator[np.ndarray], inputs: Sequence[Input], batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches of features; name the image in the error about a feature that cannot be kept."""
    n_done = 0
    while True:
        try:
            features = next(batches)
        except StopIteration:
            return
        except UnfitFeature as error:
            raise NetworkError(str(error), where=paths.DATASET / inputs[n_done + error.row].row.path) from None
        n_done += batch_size
        yield features


def make_reader(feature_set: FeatureSet, record: dict[str, Any]) -> Callable[[str], np.ndarray]:
    """Return the function that reads features from the store by their key, or raises `LostFeatures`."""
    dtype = np.dtype(record["feature_dtype"]).newbyteorder("<")

    def _read(key: str) -> np.ndarray:
        features = feature_set.read(key, dtype)
        if features is None or features.shape != (record["n_features"],):
            raise LostFeatures
        return features

    return _read


def find_lost(read: Callable[[str], np.ndarray], keys: Iterable[str]) -> list[str]:
    """Return the keys whose features cannot be read."""
    lost = []
    for key in keys:
        try:
            read(key)
        except LostFeatures:
            lost.append(key)
    return lost


def read_prepared(reader: ImageReader, row: ManifestRow) -> np.ndarray:
    """Read an image of the data set as the network's input: uint8 of shape (size, size, 3).

    Raises
    ------
    IntegrityError
        The file is missing, or its bytes differ from the manifest.
    """
    content = read_content(row)
    try:
        return reader.read_image(content)
    except OutOfMemory as error:
        advice = "free some, or set RELEARN_THREADS lower"
        raise OutOfMemory(str(error), where=paths.DATASET / row.path, advice=advice) from None
    except ImageError as error:
        problem = f"{error}, though {paths.MANIFEST} lists it"
        raise IntegrityError(problem, where=paths.DATASET / row.path, advice="run `dvc repro -f`") from None


def read_content(row: ManifestRow) -> bytes:
    """Read the bytes of an image of the data set, and check their hash.

    Raises
    ------
    IntegrityError
        The file is missing, or its bytes differ from the manifest.
    """
    path = paths.DATASET / row.path
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise IntegrityError(problem, where=path, advice="run `dvc repro restructure`") from None
    if hash_bytes(content) != row.sha256:
        raise IntegrityError(
            where=path,
            wanted=f"sha256 {row.sha256} ({paths.MANIFEST})",
            got="other bytes",
            advice="remove the file and run `dvc repro restructure`",
        )
    return content
