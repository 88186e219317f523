"""The table of heads: how each kind is fitted, and what selection has to know about it.

A new head needs a block in `relearn.params.heads.HeadBlocks`, a row here, and a function that fits it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.centroid import NearestCentroidOptions, fit_nearest_centroid
from relearn.heads.dense import DenseOptions, fit_dense
from relearn.heads.fitted import Head
from relearn.heads.linear import (
    LinearSVMOptions,
    LogisticRegressionOptions,
    count_svm_bytes,
    fit_linear_svm,
    fit_logistic_regressions,
)
from relearn.heads.options import Options
from relearn.heads.training_data import TrainingData
from relearn.heads.trees import DecisionTreeOptions, RandomForestOptions, fit_decision_tree, fit_random_forest
from relearn.params.heads import TrainParams
from relearn.runtime.progress import track_progress

QUIET_SECONDS = 3.0  # of fitting a kind of head, before progress is shown

Track = Callable[..., Iterator[Any]]


class HeadKind(NamedTuple):
    """A kind of head.

    options : the type of its options
    fit : takes options in a sequence, the data, sample weights (rows,) and what shows progress
    capacity : the options that decide how much it can fit, the weightiest first; 1 if that grows with the option, or -1
    number_bytes : memory per number of the training features, its own copies included; or a function that counts all
    columns : what it reads `TrainingData.coordinates` for, if at all
    max_iter : the option that limits its iterations
    stops_by_validation : whether validation decides when its fit ends
    minimizes_log_loss : whether its fit does
    """

    options: type[Options]
    fit: Callable[[Sequence[Any], TrainingData, np.ndarray, Track], Sequence[Head]]
    capacity: Mapping[str, Literal[1, -1]]
    number_bytes: int | Callable[[TrainingData], int] = 0
    columns: Literal["fastest", "uncorrelated"] | None = None
    max_iter: str = "max_iter"
    stops_by_validation: bool = False
    minimizes_log_loss: bool = False

    def count_bytes(self, data: TrainingData) -> int:
        """Return the memory that a fit needs for the features."""
        if callable(self.number_bytes):
            return self.number_bytes(data)
        return self.number_bytes * len(data.labels) * len(data.mean)


def _fit_each(
    fit: Callable[[Any, TrainingData, np.ndarray], Head],
    candidates: Sequence[Any],
    data: TrainingData,
    sample_weights: np.ndarray,
    track: Track,
) -> list[Head]:
    heads = (fit(options, data, sample_weights) for options in candidates)
    return list(track(heads, len(candidates), unit="heads"))


# The simpler ones first.
KINDS = {
    "nearest_centroid": HeadKind(
        NearestCentroidOptions,
        partial(_fit_each, fit_nearest_centroid),
        {"shrink_threshold": -1},
        number_bytes=32,
    ),
    "logistic_regression": HeadKind(
        LogisticRegressionOptions,
        fit_logistic_regressions,
        {"C": 1},
        columns="fastest",
        minimizes_log_loss=True,
    ),
    "linear_svm": HeadKind(
        LinearSVMOptions,
        partial(_fit_each, fit_linear_svm),
        {"C": 1},
        number_bytes=count_svm_bytes,
        columns="uncorrelated",
    ),
    "decision_tree": HeadKind(
        DecisionTreeOptions,
        partial(_fit_each, fit_decision_tree),
        {"max_depth": 1, "min_samples_leaf": -1, "ccp_alpha": -1},
        number_bytes=12,
    ),
    "random_forest": HeadKind(
        RandomForestOptions,
        partial(_fit_each, fit_random_forest),
        {"max_depth": 1, "n_estimators": 1, "min_samples_leaf": -1},
        number_bytes=12,
    ),
    "dense": HeadKind(
        DenseOptions,
        partial(_fit_each, fit_dense),
        {"units": 1, "dropout": -1, "weight_decay": -1},
        number_bytes=24,
        max_iter="epochs",
        stops_by_validation=True,
        minimizes_log_loss=True,
    ),
}


def prepare_data(
    training: SplitFeatures, validation: SplitFeatures, params: TrainParams, groups: Sequence[str] | None = None
) -> TrainingData:
    """Return the data for the heads that the parameters ask for; see `TrainingData`."""
    return TrainingData(training, validation, params, count_linear_fits(params), groups)


def count_linear_fits(params: TrainParams) -> int | None:
    """Return for how many fits the coordinates are; None if one of the heads needs uncorrelated columns."""
    columns = {head: KINDS[head].columns for head, _ in params.grids}
    if "uncorrelated" in columns.values():
        return None
    n_candidates = sum(len(grid.list_candidates()) for head, grid in params.grids if columns[head])
    return n_candidates * (params.n_folds if params.select_by == "folds" else 1)


def check_memory(head: str, data: TrainingData) -> None:
    """Raise `TrainingError` if a kind of head needs more memory than it may have."""
    n_bytes = KINDS[head].count_bytes(data)
    if n_bytes > data.memory_bytes:
        frugal = [name for name, kind in KINDS.items() if not kind.number_bytes]
        raise TrainingError(
            where=f"train.head {head}",
            wanted=f"train.memory_limit_mb of at least {n_bytes / 5e5:,.0f} for the features",
            got=f"{data.params.memory_limit_mb:,}",
            advice=f"raise it, or choose {' or '.join(frugal)}, which reads them in parts",
        )


def fit_heads(head: str, candidates: Sequence[Options], data: TrainingData, sample_weights: np.ndarray) -> list[Head]:
    """Fit one kind of head once for each of the options.

    Parameters
    ----------
    sample_weights : ndarray (rows,) float64
        Rows of weight 0 are left out.
    """
    track = partial(track_progress, name=f"train {head}", quiet_seconds=QUIET_SECONDS)
    return list(KINDS[head].fit(candidates, data, sample_weights, track))
