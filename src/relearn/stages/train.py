"""Stage `train`: heads on the features, the best of them chosen on images that none was fitted on."""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from relearn import paths
from relearn.errors import TrainingError, ValidationFailed
from relearn.evaluation.intervals import compute_wilson_interval
from relearn.evaluation.paired import compare_paired
from relearn.features.shards import ShardsOnDisk, describe_features, hash_features, read_features
from relearn.heads.fitted import Calibration, Head, calibrate, export_head
from relearn.heads.fitting import Options, TrainingData, fit_heads
from relearn.inference.classifier import write_classifier
from relearn.params import HEADS, HEADS_WITHOUT_PROBABILITIES, TrainParams
from relearn.storage.files import read_json, write_csv, write_json

log = logging.getLogger(__name__)

SCORE_HEADER = ("C", "log10_C", "accuracy", "accuracy_ci95_low", "accuracy_ci95_high", "log_loss")
SEARCH_HEADER = (
    "head",
    "options",
    "accuracy",
    "accuracy_ci95_low",
    "accuracy_ci95_high",
    "log_loss",
    "n_iter",
    "converged",
    "p_value",
    "verdict",
)


# The options that say how much a head can fit, the weightier first, and whether that grows or falls with them.
SIZES = {
    "C": 1,
    "max_depth": 1,
    "units": 1,
    "n_estimators": 1,
    "min_samples_leaf": -1,
    "ccp_alpha": -1,
    "shrink_threshold": -1,
    "dropout": -1,
    "weight_decay": -1,
}


class Trial(NamedTuple):
    """One head with one set of options, and how it did on the images that it is chosen by.

    name : the head, and of its options those of which others were tried too
    right : (images,) bool, which of them it got right
    log_loss : of its own probabilities, or None if it has none
    standard_error : of the accuracy
    fitted : on all of training, or None where it was tried in folds
    """

    name: str
    head: str
    options: Options
    right: np.ndarray
    log_loss: float | None
    standard_error: float
    fitted: Head | None
    n_iter: int | None
    converged: bool

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right.mean())

    @property
    def complexity(self) -> tuple[float, ...]:
        """What is least for the simplest: the kind of head in the order of `HEADS`, then what makes it larger."""
        sizes = []
        for name, sign in SIZES.items():
            if (value := self.options.get(name, 0)) is None:  # no limit of a tree's depth, but no shrinkage either
                value = math.inf if sign > 0 else 0
            sizes.append(sign * float(value))
        return (HEADS.index(self.head), *sizes)

    @property
    def merit(self) -> tuple[float, float, tuple[float, ...]]:
        """What is least for the best: the accuracy below 0, then log loss, then complexity."""
        return -self.accuracy, math.inf if self.log_loss is None else self.log_loss, self.complexity


def run(params: TrainParams) -> None:
    """Write `models/classifier/`, `metrics/training.json`, `reports/search.csv` and `reports/plots/score_by_c.csv`.

    The protocol:

    1. Every head is fitted on the training split alone, its rows in the order of the manifest; so are the means and
       deviations of a standardisation.
    2. It is judged on the validation split, or, with `train.select_by: folds`, on each of `n_folds` parts of training
       by a head that was fitted on the others; copies of an image are in one part. The means and deviations are those
       of all of training even so, which knows no labels. `choose_trial` takes one by that.
    3. Its scores are calibrated on the validation split, if it has no probabilities or a calibration is asked for.
    4. The evaluation split is not opened. Nothing is fitted again on training and validation together, so that what
       `evaluate` judges is what was chosen.

    A solver that stops before its tolerance gives a trial with `converged` false, which is told, and an error only with
    `train.must_converge`.

    Raises
    ------
    TrainingError
        Training or validation lacks a class or all images, the features tell nothing apart or do not fit into memory,
        or the exported head does not predict as the fitted one.
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
        data = TrainingData(training, validation, params)
        check_calibration(data)
        for name, _ in params.grids:
            data.check_memory(name)
        if params.search:
            log.info("train.search is set: train.head %s is not looked at", params.head)
        if isinstance(training.blocks, ShardsOnDisk):
            log.info("the features are larger than train.memory_limit_mb allows: they are read from the disk")
        trials = [trial for head, grid in params.grids for trial in try_head(head, grid, data)]
        best, verdicts = choose_trial(trials, params.one_standard_error)
        head = best.fitted or fit_heads(best.head, [best.options], data, data.weigh_rows())[0]
        check_converged(best, head, trials, params)
        warn_of_ends(best, trials, params)
        scores = compute_scores(head, validation.blocks)
        calibration = choose_calibration(head, scores, data)
        content = export_head(head, calibration, data.classes, validation.blocks)
    record = {
        "classes": data.classes,
        "head": best.head,
        "options": best.options,
        "scale": params.scale,
        "calibration": calibration.method,
        **describe_features(paths.FEATURES),
    }
    write_classifier(paths.CLASSIFIER, content, record)
    write_json(paths.TRAINING_METRICS, summarise(best, head, trials, scores, data))
    write_csv(paths.SEARCH, SEARCH_HEADER, tabulate_search(trials, verdicts))
    write_csv(paths.SCORE_BY_C, SCORE_HEADER, tabulate_path(trials, best.head))
    log.info("%s, of %d tried (%s)", best.name, len(trials), verdicts[trials.index(best)])


def check_verified() -> None:
    """Raise `ValidationFailed` unless these very features passed `verify`."""
    report = read_json(paths.VERIFICATION_REPORT, ("passed", "index_sha256", "shards_sha256"))
    if {name: report[name] for name in ("index_sha256", "shards_sha256")} != hash_features(paths.FEATURES):
        raise ValidationFailed(
            f"{paths.VERIFICATION_REPORT} is about other features than {paths.FEATURES}; run `dvc repro verify`"
        )
    if report["passed"] is not True:
        raise ValidationFailed(f"the features did not pass: see {paths.VERIFICATION_REPORT}; then run `dvc repro`")


def check_labels(training: list[str], validation: list[str]) -> None:
    """Raise `TrainingError` unless there is something to tell apart, and a way to choose."""
    if len(set(training)) < 2:
        raise TrainingError(f"training: wanted at least 2 classes, got {sorted(set(training))}; add images of another")
    if not validation:
        raise TrainingError("validation: wanted images to choose by, got none; raise restructure.fractions.validation")
    if unknown := sorted(set(validation) - set(training)):
        raise TrainingError(f"validation: wanted the classes of training, got also {unknown}; add them to training")


def try_head(head: str, grid: dict[str, Any], data: TrainingData) -> list[Trial]:
    """Fit one kind of head with every set of options in a grid, and judge each."""
    from sklearn.model_selection import ParameterGrid

    candidates = [
        {name: options[name] for name in grid}
        for options in ParameterGrid({name: v if isinstance(v, list) else [v] for name, v in grid.items()})
    ]
    candidates.sort(key=lambda options: options.get("C", 0.0))
    started = time.monotonic()
    in_folds = data.params.select_by == "folds"
    judge = _judge_in_folds if in_folds else _judge_on_validation
    trials = []
    for options, judged in zip(candidates, judge(head, candidates, data), strict=True):
        varied = [f"{name}={value}" for name, value in options.items() if len({str(c[name]) for c in candidates}) > 1]
        trial = Trial(" ".join([head, *varied]), head, options, *judged)
        where = f"in {data.params.n_folds} folds" if in_folds else "on validation"
        iterations = "" if trial.n_iter is None else f", {trial.n_iter} iterations"
        log.info("%s: %.4f %s%s", trial.name, trial.accuracy, where, iterations)
        trials.append(trial)
    log.info("%s: %d tried in %.1f s", head, len(trials), time.monotonic() - started)
    return trials


def _judge_on_validation(head: str, candidates: list[Options], data: TrainingData) -> Iterator[tuple[Any, ...]]:
    truth = data.validation_truth
    for fitted in fit_heads(head, candidates, data, data.weigh_rows()):
        right, losses = judge(fitted, compute_scores(fitted, data.validation.blocks), truth)
        accuracy = right.mean()
        standard_error = math.sqrt(accuracy * (1 - accuracy) / len(right))
        yield right, _mean_or_none(losses), standard_error, fitted, fitted.n_iter, fitted.converged


def _judge_in_folds(head: str, candidates: list[Options], data: TrainingData) -> Iterator[tuple[Any, ...]]:
    from sklearn.model_selection import StratifiedGroupKFold

    n_folds = data.params.n_folds
    rarest = int(np.bincount(data.truth).argmin())
    if (n_images := int(np.bincount(data.truth)[rarest])) < n_folds:
        raise TrainingError(
            f"training: wanted at least {n_folds} images of every class (train.n_folds), got {n_images} of "
            f"class {data.classes[rarest]}; lower train.n_folds or take train.select_by validation"
        )
    row_weights = data.weigh_rows()
    fold_of = np.empty(len(data.truth), np.int64)
    # Copies of an image stay together, for a head that has seen one has seen the other.
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=data.params.seed)
    rows = np.arange(len(data.truth))
    for number, (_, held_out) in enumerate(folds.split(rows, data.truth, data.training.sha256)):
        fold_of[held_out] = number
    fitted_in = [fit_heads(head, candidates, data, np.where(fold_of == n, 0, row_weights)) for n in range(n_folds)]
    for number in range(len(candidates)):
        right, losses = np.empty(len(data.truth), bool), np.empty(len(data.truth))
        heads = [fitted[number] for fitted in fitted_in]
        for fold, fitted in enumerate(heads):
            rows = fold_of == fold
            judged = judge(fitted, compute_scores(fitted, data.training.blocks, rows), data.truth[rows])
            right[rows], losses[rows] = judged[0], math.nan if judged[1] is None else judged[1]
        accuracies = [right[fold_of == fold].mean() for fold in range(n_folds)]
        standard_error = float(np.std(accuracies, ddof=1) / math.sqrt(n_folds))
        n_iter = None if heads[0].n_iter is None else max(fitted.n_iter or 0 for fitted in heads)
        log_loss = float(losses.mean()) if heads[0].has_probabilities else None
        yield right, log_loss, standard_error, None, n_iter, all(fitted.converged for fitted in heads)


def _mean_or_none(losses: np.ndarray | None) -> float | None:
    return None if losses is None else float(losses.mean())


def compute_scores(head: Head, blocks: Sequence[np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
    """Return the scores of a split's images, or of those of `rows` (images,) bool: (images, outputs) float64."""
    parts, start = [], 0
    for block in blocks:
        chosen = block if rows is None else block[rows[start : start + len(block)]]
        start += len(block)
        if len(chosen):
            parts.append(head.compute_scores(chosen))
    return np.concatenate(parts)


def judge(head: Head, scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return which answers are right, (images,) bool, and the log loss of each if the head has probabilities."""
    predicted = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(np.int64)
    if not head.has_probabilities:
        return predicted == truth, None
    given = Calibration("none", []).compute_probabilities(scores)[np.arange(len(truth)), truth]
    return predicted == truth, -np.log(np.maximum(given, np.finfo(np.float64).eps))


def choose_trial(trials: list[Trial], one_standard_error: bool) -> tuple[Trial, list[str]]:
    """Choose a trial, and return it with a verdict on each.

    1. Of each kind of head the best is taken: the most right answers, in a tie the lowest log loss, then the simplest.
       With `one_standard_error` it is the simplest whose accuracy is at most one standard error of the best's below it
       (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
    2. Between kinds of heads those are tied with the best whose answers are not clearly worse than its answers on the
       same images (McNemar's exact test at 5 %); of them the simplest is taken.
    """
    champions = {}
    for kind in dict.fromkeys(trial.head for trial in trials):
        alike = [trial for trial in trials if trial.head == kind]
        champion = min(alike, key=lambda trial: trial.merit)
        if one_standard_error:
            least = champion.accuracy - champion.standard_error
            champion = min((t for t in alike if t.accuracy >= least), key=lambda trial: trial.complexity)
        champions[kind] = champion
    leader = min(trials, key=lambda trial: trial.merit)
    tied = [
        trial
        for trial in champions.values()
        if trial.head == leader.head or compare_paired(leader.right, trial.right).verdict != "worse"
    ]
    chosen = min(tied, key=lambda trial: trial.complexity)
    verdicts = []
    for trial in trials:
        verdict = "the best" if trial is leader else compare_paired(leader.right, trial.right).verdict
        if trial is chosen and trial is not leader:
            why = "within one standard error" if trial.head == leader.head else "no clear difference"
            verdict = f"simpler than {leader.name}, {why}"
        if not trial.converged:
            verdict += ", not converged"
        verdicts.append(f"chosen: {verdict}" if trial is chosen else verdict)
    return chosen, verdicts


def check_converged(best: Trial, head: Head, trials: list[Trial], params: TrainParams) -> None:
    """Tell what did not converge; raise `TrainingError` if the chosen head must and did not."""
    for trial in trials:
        if not trial.converged:
            log.warning("%s did not converge in %s iterations", trial.name, trial.n_iter)
    if head.converged:
        return
    if params.must_converge:
        raise TrainingError(
            f"{best.name}: wanted a solver that converges (train.must_converge), got {head.n_iter} iterations without; "
            f"raise {'epochs' if best.head == 'dense' else 'max_iter'} of {best.head}"
        )
    if best.fitted is None:
        log.warning("%s, fitted on all of training, did not converge in %s iterations", best.name, head.n_iter)


def warn_of_ends(best: Trial, trials: list[Trial], params: TrainParams) -> None:
    """Log a warning if the best value of an option is the smallest or the largest that was tried, and more are allowed.

    The best is that of the chosen kind of head by `Trial.merit`, whatever `one_standard_error` makes of it.
    """
    alike = [trial for trial in trials if trial.head == best.head]
    leader = min(alike, key=lambda trial: trial.merit)
    block = getattr(params, best.head)
    for name, value in leader.options.items():
        tried = {trial.options[name] for trial in alike if name in trial.options}
        numbers = sorted(number for number in tried if isinstance(number, int | float))
        if len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        end = "smallest" if value == numbers[0] else "largest"
        if None in tried and end == ("largest" if name == "max_depth" else "smallest"):
            continue  # null is beyond it
        near = numbers[1] if end == "smallest" else numbers[-2]
        beyond = value * value / near if near else value
        beyond = round(beyond) if isinstance(value, int) and isinstance(near, int) else float(f"{beyond:.3g}")
        try:
            type(block).model_validate(block.model_dump() | {name: [beyond]})
        except ValueError:  # nothing is allowed there
            continue
        if beyond != value:
            log.warning(
                "%s: the best %s, %s, is the %s of those that were tried; a %s one may be better: try %s too",
                best.head,
                name,
                value,
                end,
                "smaller" if end == "smallest" else "larger",
                beyond,
            )


def choose_calibration(head: Head, scores: np.ndarray, data: TrainingData) -> Calibration:
    """Fit the calibration that the parameters ask for on the validation split."""
    method = data.params.calibration
    if method == "auto":
        method = "none" if head.has_probabilities else "temperature"
    return Calibration("none", []) if method == "none" else calibrate(method, scores, data.validation_truth)


def check_calibration(data: TrainingData) -> None:
    """Raise `TrainingError` if a calibration may be wanted and validation lacks a class."""
    method = data.params.calibration
    bare = {head for head, _ in data.params.grids} & set(HEADS_WITHOUT_PROBABILITIES)
    absent = sorted(set(data.classes) - set(data.validation.labels))
    if absent and (bare or method not in ("auto", "none")):
        raise TrainingError(
            f"validation: wanted images of every class to calibrate on (train.calibration {method}), got none of "
            f"{', '.join(absent)}; add some"
        )


def summarise(
    best: Trial, head: Head, trials: list[Trial], scores: np.ndarray, data: TrainingData
) -> dict[str, object]:
    """Return the content of `metrics/training.json`; `n_images` are those of training.

    The scores are those of the chosen head on validation before any calibration, which sees validation.
    """
    right, losses = judge(head, scores, data.validation_truth)
    n_right, n_validation = int(right.sum()), len(right)
    low, high = compute_wilson_interval(n_right, n_validation)
    metrics: dict[str, object] = {
        "head": best.head,
        "n_images": len(data.truth),
        "n_validation_images": n_validation,
        "n_features": len(data.mean),
        "validation_accuracy_score": round(n_right / n_validation, 6),
        "validation_accuracy_score_ci95_low": round(low, 6),
        "validation_accuracy_score_ci95_high": round(high, 6),
        "validation_baseline_score": round(max(Counter(data.validation.labels).values()) / n_validation, 6),
        "converged": head.converged,
        "n_trials": len(trials),
        "n_trials_converged": sum(trial.converged for trial in trials),
    }
    if losses is not None:
        metrics["validation_log_loss"] = round(float(losses.mean()), 6)
    if "C" in best.options:
        metrics["C"] = best.options["C"]
    if best.fitted is None:
        low, high = compute_wilson_interval(int(best.right.sum()), len(best.right))
        metrics["folds_accuracy_score"] = round(best.accuracy, 6)
        metrics["folds_accuracy_score_ci95_low"] = round(low, 6)
        metrics["folds_accuracy_score_ci95_high"] = round(high, 6)
    return metrics


def tabulate_search(trials: list[Trial], verdicts: list[str]) -> list[tuple[object, ...]]:
    """Return a row a trial, with the columns of `SEARCH_HEADER`; the p-value is against the best."""
    leader = min(trials, key=lambda trial: trial.merit)
    return [
        (
            trial.head,
            json.dumps(trial.options),
            *_tabulate_score(trial),
            "" if trial.n_iter is None else trial.n_iter,
            f"{trial.converged}".lower(),
            f"{compare_paired(leader.right, trial.right).p_value:.6f}",
            verdict,
        )
        for trial, verdict in zip(trials, verdicts, strict=True)
    ]


def tabulate_path(trials: list[Trial], head: str) -> list[tuple[object, ...]]:
    """Return a row for each C of a kind of head, if it has one; the logarithm is what a plot takes as its axis."""
    return [
        (f"{trial.options['C']:g}", f"{math.log10(trial.options['C']):.4f}", *_tabulate_score(trial))
        for trial in trials
        if trial.head == head and "C" in trial.options
    ]


def _tabulate_score(trial: Trial) -> tuple[str, ...]:
    low, high = compute_wilson_interval(int(trial.right.sum()), len(trial.right))
    log_loss = "" if trial.log_loss is None else f"{trial.log_loss:.6f}"
    return f"{trial.accuracy:.6f}", f"{low:.6f}", f"{high:.6f}", log_loss
