"""scikit-learn's decision tree and random forest."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from relearn.heads.fitted import TreeHead
from relearn.heads.options import Options
from relearn.heads.training_data import TrainingData
from relearn.runtime.threads import count_threads


@dataclass(frozen=True)
class TreeOptions(Options):
    """Those of `relearn.params.heads.TreeParams`."""

    criterion: Literal["gini", "entropy", "log_loss"]
    max_depth: int | None
    min_samples_leaf: int


@dataclass(frozen=True)
class DecisionTreeOptions(TreeOptions):
    """Those of `relearn.params.heads.DecisionTreeParams`."""

    ccp_alpha: float


@dataclass(frozen=True)
class RandomForestOptions(TreeOptions):
    """Those of `relearn.params.heads.RandomForestParams`."""

    n_estimators: int
    max_features: Literal["sqrt", "log2"] | float | None


def fit_decision_tree(options: DecisionTreeOptions, data: TrainingData, sample_weights: np.ndarray) -> TreeHead:
    """Fit scikit-learn's `DecisionTreeClassifier`."""
    from sklearn.tree import DecisionTreeClassifier

    present = sample_weights > 0
    tree = DecisionTreeClassifier(**_count_rows(options, data), random_state=data.params.seed)
    tree.fit(data.training.features[present], data.labels[present], sample_weights[present])
    return TreeHead(tree)


def fit_random_forest(options: RandomForestOptions, data: TrainingData, sample_weights: np.ndarray) -> TreeHead:
    """Fit scikit-learn's `RandomForestClassifier`."""
    from sklearn.ensemble import RandomForestClassifier

    present = sample_weights > 0
    seed = data.params.seed
    forest = RandomForestClassifier(**_count_rows(options, data), random_state=seed, n_jobs=count_threads())
    forest.fit(data.training.features[present], data.labels[present], sample_weights[present])
    forest.n_jobs = 1  # threads would add up the trees' answers in any order
    return TreeHead(forest)


def _count_rows(options: TreeOptions, data: TrainingData) -> dict[str, Any]:
    """Return options whose `min_samples_leaf` counts rows, which are more than images if there are views."""
    return {**options.to_dict(), "min_samples_leaf": options.min_samples_leaf * (1 + data.n_views)}
