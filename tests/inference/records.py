"""Records of classifiers that were never trained."""

from relearn.features.shards import FeatureHashes
from relearn.inference.classifier import ClassifierRecord
from relearn.storage.files import hash_bytes


def make_record(head, classes, n_features):
    """Return a record that `write_classifier` takes with a head."""
    return ClassifierRecord(
        head_sha256=hash_bytes(head),
        classes=classes,
        head="logistic_regression",
        options={"C": 1.0},
        scale=True,
        calibration="none",
        features=FeatureHashes(index_sha256="1" * 64, shards_sha256="2" * 64),
        extractor={"n_features": n_features},
    )
