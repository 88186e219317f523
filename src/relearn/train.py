"""Stage `train`: a logistic regression on the features, its C chosen on the validation split."""

import logging
import math
import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from relearn import paths
from relearn.classifier import open_head, write_classifier
from relearn.errors import TrainingError, ValidationFailed
from relearn.features import SplitFeatures, describe_features, hash_features, read_features
from relearn.files import read_json, write_csv, write_json
from relearn.intervals import compute_wilson_interval
from relearn.params import TrainParams

log = logging.getLogger(__name__)

# float32 sums of a head against float64 ones of scikit-learn: seen are 1e-6 to 1e-5.
HEAD_TOLERANCE = 1e-3

SCORE_HEADER = ("C", "log10_C", "validation_accuracy", "validation_log_loss", "n_iter", "converged")


class Trial(NamedTuple):
    """One value of C: the fitted pipeline, how it did on validation, and whether the solver reached its tolerance."""

    C: float
    model: Any
    accuracy: float
    log_loss: float
    n_iter: int
    converged: bool


def run(params: TrainParams) -> None:
    """Write `models/classifier/`, `metrics/training.json` and `reports/plots/score_by_c.csv`.

    Raises
    ------
    TrainingError
        A split is empty, training has one class, validation has a class that training lacks, or the exported head does
        not predict as the fitted model does.
    IntegrityError
        The features are damaged.
    """
    check_verified()
    training = read_features(paths.FEATURES, "training")
    validation = read_features(paths.FEATURES, "validation")
    trials = fit_trials(training, validation, params)
    best = choose_trial(trials)
    head = export_head(best.model, validation.features)
    record = {
        "classes": [str(label) for label in best.model.classes_],
        "head": "logistic_regression",
        "C": best.C,
        "scale": params.scale,
        **describe_features(paths.FEATURES),
    }
    write_classifier(paths.CLASSIFIER, head, record)
    write_json(paths.TRAINING_METRICS, summarise_trials(trials, best, training, validation))
    write_csv(paths.SCORE_BY_C, SCORE_HEADER, tabulate_trials(trials))
    log.info("C=%g is best of %d: %.4f on validation", best.C, len(trials), best.accuracy)
    for trial in trials:
        if not trial.converged:
            log.warning("C=%g did not converge in %d iterations; raise train.max_iter", trial.C, params.max_iter)


def check_verified() -> None:
    """Raise `ValidationFailed` unless these very features passed `verify`."""
    report = read_json(paths.VERIFICATION_REPORT, ("passed", "index_sha256", "shards_sha256"))
    if {name: report[name] for name in ("index_sha256", "shards_sha256")} != hash_features(paths.FEATURES):
        raise ValidationFailed(
            f"{paths.VERIFICATION_REPORT} is about other features than {paths.FEATURES}; run `dvc repro verify`"
        )
    if report["passed"] is not True:
        raise ValidationFailed(f"the features did not pass: see {paths.VERIFICATION_REPORT}; then run `dvc repro`")


def fit_trials(training: SplitFeatures, validation: SplitFeatures, params: TrainParams) -> list[Trial]:
    """Fit one model for each distinct C, ascending.

    The protocol:

    1. Every model is fitted on the training split alone, its rows in the order of the manifest. Standardisation, if
       asked for, is part of the model, so its means and deviations are those of training too.
    2. The model is scikit-learn's L2-penalised multinomial logistic regression by L-BFGS, in float64, all classes
       weighted alike. BLAS and OpenMP get one thread: with two, sums are added in another order, and the last bits of
       the coefficients change.
    3. Each model predicts the validation split. `choose_trial` takes one by that score.
    4. The evaluation split is not opened; the chosen model is not fitted again on training and validation together, so
       that what `evaluate` judges is what was chosen.

    A solver that stops at `max_iter` gives a trial with `converged` false; it is not hidden and not fatal.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    check_labels(training.labels, validation.labels)
    features = np.asarray(training.features, np.float64)
    labels = np.asarray(training.labels)
    truth = np.asarray(validation.labels)
    trials = []
    with threadpool_limits(1):
        for C in sorted(set(params.C)):
            regression = LogisticRegression(C=C, max_iter=params.max_iter, tol=params.tol)
            model = make_pipeline(*([StandardScaler()] if params.scale else []), regression)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.fit(features, labels)
            probabilities = model.predict_proba(validation.features)
            n_iter = int(regression.n_iter_.max())
            trial = Trial(
                C=C,
                model=model,
                accuracy=float((model.classes_[probabilities.argmax(axis=1)] == truth).mean()),
                log_loss=float(log_loss(truth, probabilities, labels=model.classes_)),
                n_iter=n_iter,
                converged=not any(issubclass(warning.category, ConvergenceWarning) for warning in caught),
            )
            log.info("C=%g: %.4f on validation, %d iterations", C, trial.accuracy, n_iter)
            trials.append(trial)
    return trials


def check_labels(training: list[str], validation: list[str]) -> None:
    """Raise `TrainingError` unless there is something to tell apart, and a way to choose."""
    if len(set(training)) < 2:
        raise TrainingError(f"training: wanted at least 2 classes, got {sorted(set(training))}; add images of another")
    if not validation:
        raise TrainingError(
            "validation: wanted images to choose C by, got none; raise restructure.fractions.validation"
        )
    if unknown := sorted(set(validation) - set(training)):
        raise TrainingError(f"validation: wanted the classes of training, got also {unknown}; add them to training")


def choose_trial(trials: list[Trial]) -> Trial:
    """Choose the highest validation accuracy; in a tie the lowest log loss, then the smallest C, which binds most."""
    return min(trials, key=lambda trial: (-trial.accuracy, trial.log_loss, trial.C))


def summarise_trials(
    trials: list[Trial], best: Trial, training: SplitFeatures, validation: SplitFeatures
) -> dict[str, object]:
    """Return the content of `metrics/training.json`; `n_images` are those of training, the scores are of validation."""
    n_validation = len(validation.labels)
    low, high = compute_wilson_interval(round(best.accuracy * n_validation), n_validation)
    return {
        "n_images": len(training.labels),
        "n_validation_images": n_validation,
        "n_features": training.features.shape[1],
        "C": best.C,
        "validation_accuracy_score": round(best.accuracy, 6),
        "validation_accuracy_score_ci95_low": round(low, 6),
        "validation_accuracy_score_ci95_high": round(high, 6),
        "validation_baseline_score": round(max(Counter(validation.labels).values()) / n_validation, 6),
        "validation_log_loss": round(best.log_loss, 6),
        "converged": best.converged,
        "n_trials": len(trials),
        "n_trials_converged": sum(trial.converged for trial in trials),
    }


def tabulate_trials(trials: list[Trial]) -> list[tuple[object, ...]]:
    """Return a row a trial, with the columns of `SCORE_HEADER`; the logarithm is what a plot takes as its axis."""
    return [
        (
            f"{t.C:g}",
            f"{math.log10(t.C):.4f}",
            f"{t.accuracy:.6f}",
            f"{t.log_loss:.6f}",
            t.n_iter,
            f"{t.converged}".lower(),
        )
        for t in trials
    ]


def export_head(model: Any, features: np.ndarray) -> bytes:
    """Return a fitted model as ONNX: input `features` float32; outputs `label` text, `probabilities` float32.

    Raises
    ------
    TrainingError
        On `features`, the head's probabilities are not the model's, or it decides otherwise where that is no tie.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    onnx = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, features.shape[1]]))],
        options={id(model): {"zipmap": False}},
        name="head",
    )
    head: bytes = onnx.SerializeToString(deterministic=True)
    session = open_head(head)
    label, probabilities = session.run(["label", "probabilities"], {"features": features})
    wanted = model.predict_proba(features)
    difference = float(np.abs(probabilities - wanted).max())
    top = np.sort(wanted, axis=1)
    clear = top[:, -1] - top[:, -2] > 2 * HEAD_TOLERANCE
    if difference > HEAD_TOLERANCE or (label != model.predict(features))[clear].any():
        raise TrainingError(
            f"head.onnx: wanted the model's own probabilities, got some that differ by {difference:.2g} "
            f"(at most {HEAD_TOLERANCE:g}); set train.scale: true, for the features may be too large for float32"
        )
    return head
