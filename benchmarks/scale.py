"""What the lowest scale of a feature brings where there are few images to learn from.

Usage: python benchmarks/scale.py WORKSPACE N_IMAGES [N_DRAWS]

Draws N_IMAGES training images from WORKSPACE/data/features, as many of each class, N_DRAWS times (12 by default). On
each draw it fits logistic regression for seven values of C, takes the best by validation, and judges it on evaluation:
with each of some lowest scales, as a share of the mean standard deviation, and without scaling. Prints a row of a table
for each.
"""

import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from relearn.features.shards import SplitFeatures, read_features
from relearn.heads import training_data
from relearn.heads.blas import hold_blas
from relearn.heads.kinds import prepare_data
from relearn.heads.scoring import compute_scores, judge_scores
from relearn.heads.search import try_heads
from relearn.heads.selection import choose_trial
from relearn.params.heads import TrainParams

ROOT = Path(__file__).resolve().parent.parent
LOWEST = (0.0, 0.1, 0.5, 1.0, None)  # None: train.scale is false
VALUES_OF_C = [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]


def draw(training, n_images, rng):
    """Return a training split of that size, as many of each class."""
    labels = np.array(training.labels)
    classes = sorted(set(training.labels))
    rows = [rng.choice(np.flatnonzero(labels == name), n_images // len(classes), replace=False) for name in classes]
    rows = np.sort(np.concatenate(rows))
    return SplitFeatures([training.features[rows]], [training.sha256[row] for row in rows], list(labels[rows]))


def judge(training, validation, evaluation, lowest):
    """Return accuracy, log loss and C on evaluation, and the largest standardized feature there."""
    block = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")["train"] | {"scale": lowest is not None}
    block["logistic_regression"]["C"] = VALUES_OF_C
    training_data.LOWEST_SCALE = lowest or 0.0
    data = prepare_data(training, validation, TrainParams.model_validate(block))
    chosen, _ = choose_trial(try_heads(data), False)
    truth = np.searchsorted(data.classes, evaluation.labels)
    right, losses = judge_scores(chosen.fitted, compute_scores(chosen.fitted, evaluation.blocks), truth)
    return right.mean(), losses.mean(), chosen.options.C, np.abs(data.standardize(evaluation.features)).max()


def main():
    workspace, n_images, *n_draws = sys.argv[1:]
    features = Path(workspace) / "data" / "features"
    splits = [read_features(features, split) for split in ("training", "validation", "evaluation")]
    rng = np.random.default_rng(0)
    draws = [draw(splits[0], int(n_images), rng) for _ in range(int(n_draws[0]) if n_draws else 12)]
    with hold_blas():
        for lowest in LOWEST:
            found = np.array([judge(training, *splits[1:], lowest) for training in draws])
            accuracy, loss, C, largest = found.T
            name = "no scaling" if lowest is None else f"{lowest:g}"
            print(
                f"| {n_images} | {name} | {accuracy.mean():.3f} | {accuracy.min():.3f} | {loss.mean():.3f} "
                f"| {np.median(C):g} | {largest.max():,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
