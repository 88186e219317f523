"""Stage `extract`: every image of the manifest once through the network."""

import logging

import numpy as np

from relearn import paths
from relearn.errors import ImageError, IntegrityError, ValidationFailed
from relearn.features import write_features
from relearn.files import hash_bytes, hash_file, read_json, write_folder
from relearn.images import decode_image
from relearn.manifest import ManifestRow, read_manifest
from relearn.networks import Extractor
from relearn.params import ExtractParams
from relearn.progress import track_progress
from relearn.threads import map_ahead

log = logging.getLogger(__name__)


def run(params: ExtractParams) -> None:
    """Write `data/features/`.

    Raises
    ------
    ValidationFailed
        The report says that the data did not pass, or is about other data.
    IntegrityError
        An image is missing or has changed since the manifest was written.
    NetworkError
        The network cannot be built, or gives features that are not finite.
    """
    check_gate()
    manifest = read_manifest(paths.MANIFEST)
    extractor = Extractor(params)
    log.info(
        "%s, weights %s, layer %s: %s features an image, %s parameters",
        params.network,
        params.weights,
        params.layer or "last",
        f"{extractor.n_features:,}",
        f"{extractor.record.n_parameters:,}",
    )
    images = map_ahead(lambda row: read_prepared(extractor, row), manifest, 2 * params.batch_size)
    rows = extractor.compute_rows(images)
    with write_folder(paths.FEATURES) as folder:
        write_features(folder, manifest, track_progress(rows, len(manifest), "extract"), extractor.record.model_dump())


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
    try:
        return extractor.prepare_image(decode_image(content).rgb)
    except ImageError as error:
        raise IntegrityError(f"{path}: {error}, though {paths.MANIFEST} lists it; run `dvc repro -f`") from None
