"""Stage `train`: heads are fitted on the features, and one is chosen on images that it was not fitted on."""

import logging

from relearn import paths
from relearn.errors import ValidationFailed
from relearn.features.shards import ShardsOnDisk, describe_features, hash_features, read_features
from relearn.heads.calibration import check_calibration, choose_calibration
from relearn.heads.diagnostics import check_converged, warn_of_grid_ends
from relearn.heads.export import export_head
from relearn.heads.kinds import check_memory, fit_heads, prepare_data
from relearn.heads.scoring import compute_scores
from relearn.heads.search import try_heads
from relearn.heads.selection import choose_trial
from relearn.heads.summary import SCORE_HEADER, SEARCH_HEADER, summarize_training, tabulate_scores, tabulate_search
from relearn.heads.training_data import check_labels
from relearn.inference.classifier import write_classifier
from relearn.params import TrainParams
from relearn.storage.files import read_json, write_csv, write_json

log = logging.getLogger(__name__)


def run(params: TrainParams) -> None:
    """Write `models/classifier/`, `metrics/training.json`, `reports/search.csv` and `reports/plots/score_by_c.csv`.

    The protocol:

    1. Every head is fitted on the training split alone, its rows in the order of the manifest; so are the means and
       standard deviations of a standardization.
    2. It is judged on the validation split, or, with `train.select_by: folds`, on each of `n_folds` parts of training
       by a head that was fitted on the others; copies of an image are in one part. The means and standard deviations
       are those of all of training even so, which uses no labels. `choose_trial` chooses one by that.
    3. Its scores are calibrated on the validation split, if it has no probabilities or a calibration is asked for.
    4. The evaluation split is not opened. Nothing is fitted again on training and validation together, so that
       `evaluate` judges what was chosen.

    A solver that stops before its tolerance gives a trial with `converged` false, which is logged, and is an error
    only with `train.must_converge`.

    Raises
    ------
    TrainingError
        Training or validation lacks a class or all images, the features are constant or do not fit into memory, or the
        exported head does not predict as the fitted one.
    IntegrityError
        The features are damaged.
    """
    # Both bring a BLAS of their own, and only what is loaded can be held to one thread.
    import scipy.linalg  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_limits

    check_verified()
    # The heads have the other half.
    training = read_features(paths.FEATURES, "training", params.memory_limit_mb * 350_000)
    validation = read_features(paths.FEATURES, "validation", params.memory_limit_mb * 150_000)
    check_labels(training.labels, validation.labels)
    # With two threads BLAS adds in another order, and the last bits of a model change.
    with threadpool_limits(1):
        data = prepare_data(training, validation, params)
        check_calibration(data)
        for name, _ in params.grids:
            check_memory(name, data)
        if params.search:
            log.info("train.search is set: train.head %s is not used", params.head)
        if isinstance(training.blocks, ShardsOnDisk):
            log.info("the features are larger than train.memory_limit_mb allows: they are read from the disk")
        trials = try_heads(data)
        chosen, verdicts = choose_trial(trials, params.one_standard_error)
        head = chosen.fitted or fit_heads(chosen.head, [chosen.options], data, data.compute_sample_weights())[0]
        check_converged(chosen, head, trials, params)
        warn_of_grid_ends(chosen, trials, params)
        scores = compute_scores(head, validation.blocks)
        calibration = choose_calibration(head, scores, data)
        content = export_head(head, calibration, data.classes, validation.blocks)
    record = {
        "classes": data.classes,
        "head": chosen.head,
        "options": chosen.options.to_dict(),
        "scale": params.scale,
        "calibration": calibration.method,
        **describe_features(paths.FEATURES),
    }
    write_classifier(paths.CLASSIFIER, content, record)
    write_json(paths.TRAINING_METRICS, summarize_training(chosen, head, trials, scores, data))
    write_csv(paths.SEARCH, SEARCH_HEADER, tabulate_search(trials, verdicts))
    write_csv(paths.SCORE_BY_C, SCORE_HEADER, tabulate_scores(trials, chosen.head))
    (verdict,) = (verdict for trial, verdict in zip(trials, verdicts, strict=True) if trial is chosen)
    log.info("%s, of %d tried (%s)", chosen.name, len(trials), verdict)


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
