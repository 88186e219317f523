"""The protocol by which heads are trained, from the features of two splits to a head as ONNX."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from relearn.features.shards import ShardsOnDisk, SplitFeatures
from relearn.heads.blas import hold_blas
from relearn.heads.calibration import check_calibration, choose_calibration
from relearn.heads.diagnostics import check_converged, warn_of_grid_ends
from relearn.heads.export import export_head
from relearn.heads.kinds import check_memory, fit_heads, prepare_data
from relearn.heads.scoring import compute_scores
from relearn.heads.search import try_heads
from relearn.heads.selection import choose_trial
from relearn.heads.summary import summarize_training, tabulate_scores, tabulate_search
from relearn.heads.training_data import TrainingData, check_labels
from relearn.inference.classifier import HeadRecord
from relearn.params.heads import TrainParams
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)


class TrainedHead(NamedTuple):
    """What a training ends with.

    content : the head as ONNX
    record : its part of `classifier.json`
    metrics : of `metrics/training.json`
    search : rows with the columns of `SEARCH_HEADER`
    path_scores : rows with the columns of `SCORE_HEADER`
    """

    content: bytes
    record: HeadRecord
    metrics: dict[str, object]
    search: list[tuple[object, ...]]
    path_scores: list[tuple[object, ...]]


def train_head(
    training: SplitFeatures, validation: SplitFeatures, params: TrainParams, groups: Sequence[str] | None = None
) -> TrainedHead:
    """Fit heads, choose one, calibrate and export it.

    1. Every head is fitted on the training split alone, its rows in the order of the manifest; so are the means and
       scales of its standardization.
    2. It is judged on the validation split, or, with `train.select_by: folds`, on each of `n_folds` parts of training
       by a head that was fitted on the others; copies of an image, and images of a group, are in one part. The means
       and scales are those of all of training even so, which uses no labels. `choose_trial` chooses one
       by that.
    3. Its scores are calibrated on the validation split, if it has no probabilities or a calibration is asked for.
    4. Nothing is fitted again on training and validation together, so that `evaluate` judges what was chosen.

    A solver that stops before its tolerance gives a trial with `converged` false, which is logged, and is an error
    only with `train.must_converge`.

    Parameters
    ----------
    groups
        Of each training image; None without groups.

    Raises
    ------
    TrainingError
        Training or validation lacks a class or all images, the features are constant or do not fit into memory, or the
        exported head does not predict as the fitted one.
    """
    check_labels(training.labels, validation.labels)
    if params.search:
        log.info("train.search is set: train.head %s is not used", params.head)
    if isinstance(training.blocks, ShardsOnDisk):
        log.info("the features are larger than train.memory_limit_mb allows: they are read from the disk")
    with hold_blas():
        return _train_head(prepare_data(training, validation, params, groups))


def _train_head(data: TrainingData) -> TrainedHead:
    params, validation = data.params, data.validation
    check_calibration(data)
    for name, _ in params.grids:
        check_memory(name, data)
    trials = try_heads(data)
    chosen, verdicts = choose_trial(trials, params.one_standard_error)
    head = chosen.fitted or fit_heads(chosen.head, [chosen.options], data, data.compute_sample_weights())[0]
    check_converged(chosen, head, trials, params)
    warn_of_grid_ends(chosen, trials, params)
    scores = compute_scores(head, validation.blocks)
    calibration = choose_calibration(head, scores, data)
    content = export_head(head, calibration, data.classes, validation.blocks)
    record = HeadRecord(
        head_sha256=hash_bytes(content),
        classes=data.classes,
        head=chosen.head,
        options=chosen.options.to_dict(),
        scale=params.scale,
        calibration=calibration.method,
    )
    trained = TrainedHead(
        content,
        record,
        summarize_training(chosen, head, trials, scores, data),
        tabulate_search(trials, verdicts),
        tabulate_scores(trials, chosen.head),
    )
    (verdict,) = (verdict for trial, verdict in zip(trials, verdicts, strict=True) if trial is chosen)
    log.info("%s, of %d tried (%s)", chosen.name, len(trials), verdict)
    return trained
