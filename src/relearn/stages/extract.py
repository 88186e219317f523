"""Stage `extract`: features of every image of the manifest, each computed once and kept in the store."""

import shutil
from pathlib import Path

from relearn import paths
from relearn.dataset.gate import check_gate
from relearn.dataset.manifest import read_manifest
from relearn.errors import LostFeatures, StoreError
from relearn.features.computation import fill_store, find_lost, make_reader
from relearn.features.shards import write_features
from relearn.features.store import FeatureStore, read_limit_bytes
from relearn.features.views import Views
from relearn.networks.tuned import choose_weights
from relearn.networks.weights import check_weights_file
from relearn.params.augmentation import AugmentParams
from relearn.params.networks import ExtractParams
from relearn.storage.files import write_folder

MAX_ATTEMPTS = 5


def run(params: ExtractParams, augment: AugmentParams | None = None) -> None:
    """Write `data/features/` from the store, after the store was filled.

    Raises
    ------
    ParamsError
        There should be views, and nothing by which they differ from their image.
    ValidationFailed
        The data did not pass the gate, or the report is about other data.
    IntegrityError
        An image is missing or differs from the manifest.
    NetworkError
        The network cannot be built, a feature is not finite, or there is too little memory for a single image.
    StoreError
        The store has no room for the features, or loses them.
    """
    views = Views(params.views, augment)
    views.check()
    check_gate()
    params = choose_weights(params, paths.NETWORK)
    manifest = read_manifest(paths.MANIFEST)
    read_limit_bytes()  # so that a wrong limit is an error now
    if params.weights_are_file:
        check_weights_file(Path(params.weights), str(params.weights_sha256))
    with FeatureStore(paths.find_feature_store()) as store:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if attempt == MAX_ATTEMPTS:
                store.set_aside(f"features were lost {attempt - 1} times")
            record, feature_set = fill_store(store, manifest, params, views)
            read = make_reader(feature_set, record)
            try:
                with write_folder(paths.FEATURES) as folder:
                    write_features(folder, manifest, read, record, views.list_keys)
                    if Path(params.weights) == paths.NETWORK / paths.TUNED_WEIGHTS:
                        shutil.copy(params.weights, folder)
                return
            except LostFeatures:
                feature_set.forget(find_lost(read, views.collect_inputs(manifest)))
    raise StoreError(
        f"features were lost {MAX_ATTEMPTS} times, the last time in a new file",
        where=paths.find_feature_store(),
        advice="check the disk, or set RELEARN_CACHE to another",
    )
