"""Stage `train`: heads are fitted on the features, and one is chosen on images that it was not fitted on."""

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.errors import ValidationFailed
from relearn.features.shards import describe_features, hash_features, read_features
from relearn.heads.summary import SCORE_HEADER, SEARCH_HEADER
from relearn.heads.training import train_head
from relearn.inference.classifier import ClassifierRecord, write_classifier
from relearn.params.heads import TrainParams
from relearn.storage.files import read_json, write_csv, write_json


def run(params: TrainParams) -> None:
    """Write `models/classifier/`, `metrics/training.json`, `reports/search.csv` and `reports/plots/score_by_c.csv`.

    `train_head` has the protocol. The evaluation split is not opened.

    Raises
    ------
    TrainingError
        No head can be fitted on the features, or judged by them.
    IntegrityError
        The features are damaged.
    ValidationFailed
        They did not pass `verify`.
    """
    check_verified()
    # Half of the memory; the heads have the other half.
    training = read_features(paths.FEATURES, "training", params.memory_limit_mb * 350_000)
    validation = read_features(paths.FEATURES, "validation", params.memory_limit_mb * 150_000)
    groups = read_groups(paths.SPLITS, training.sha256[:: 1 + training.n_views])
    trained = train_head(training, validation, params, groups)
    features, extractor = describe_features(paths.FEATURES)
    record = ClassifierRecord(**dict(trained.record), features=features, extractor=extractor)
    write_classifier(paths.CLASSIFIER, trained.content, record, paths.FEATURES / paths.TUNED_WEIGHTS)
    write_json(paths.TRAINING_METRICS, trained.metrics)
    write_csv(paths.SEARCH, SEARCH_HEADER, trained.search)
    write_csv(paths.SCORE_BY_C, SCORE_HEADER, trained.path_scores)


def check_verified() -> None:
    """Raise `ValidationFailed` unless these very features passed `verify`."""
    report = read_json(paths.VERIFICATION_REPORT, ("passed", "index_sha256", "shards_sha256"))
    if {name: report[name] for name in ("index_sha256", "shards_sha256")} != hash_features(paths.FEATURES):
        raise ValidationFailed(
            where=paths.VERIFICATION_REPORT,
            wanted=f"a report on {paths.FEATURES}",
            got="one on other features",
            advice="run `dvc repro verify`",
        )
    if report["passed"] is not True:
        raise ValidationFailed(
            where=paths.VERIFICATION_REPORT,
            wanted="features that pass",
            got="some that did not",
            advice="fix what it lists, then run `dvc repro`",
        )
