"""What a head is worth that few images train: by the lowest scale of a feature, and by how its C is chosen.

Usage: python benchmarks/few_images.py WORKSPACE N_IMAGES [N_DRAWS]

Draws N_IMAGES training images from WORKSPACE/data/features, as many of each class, N_DRAWS times (12 by default). On
each draw it fits logistic regression for six values of C, chooses one by validation, and judges it on evaluation.
Prints a row of a table for each of some lowest scales, as a share of the mean standard deviation, and for no scaling;
and for each way to choose C.
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
from relearn.heads.selection import find_best, find_leader
from relearn.params.heads import TrainParams

ROOT = Path(__file__).resolve().parent.parent
LOWEST = (0.0, 0.1, 0.5, 1.0, None)  # None: train.scale is false
RULES = {
    "as `train` does": find_best,
    "highest accuracy, then lowest log loss": find_leader,
    "lowest log loss": lambda trials: min(trials, key=lambda trial: trial.log_loss),
}


def draw(training, n_images, rng):
    """Return a training split of that size, as many of each class."""
    labels = np.array(training.labels)
    classes = sorted(set(training.labels))
    rows = [rng.choice(np.flatnonzero(labels == name), n_images // len(classes), replace=False) for name in classes]
    rows = np.sort(np.concatenate(rows))
    return SplitFeatures([training.features[rows]], [training.sha256[row] for row in rows], list(labels[rows]))


def judge(training, validation, evaluation, lowest):
    """Return by each rule accuracy, log loss and C on evaluation, and the largest standardized feature there."""
    block = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")["train"] | {"scale": lowest is not None}
    training_data.LOWEST_SCALE = lowest or 0.0
    data = prepare_data(training, validation, TrainParams.model_validate(block))
    trials = try_heads(data)
    largest = np.abs(data.standardize(evaluation.features)).max()
    truth = np.searchsorted(data.classes, evaluation.labels)
    found = []
    for rule in RULES.values():
        chosen = rule(trials)
        right, losses = judge_scores(chosen.fitted, compute_scores(chosen.fitted, evaluation.blocks), truth)
        found.append((right.mean(), losses.mean(), chosen.options.C, largest))
    return found


def show(n_images, name, found):
    """Print the means over the draws."""
    accuracy, loss, C, largest = np.transpose(found)
    print(
        f"| {n_images} | {name} | {accuracy.mean():.3f} | {accuracy.min():.3f} | {loss.mean():.3f} | {np.median(C):g} "
        f"| {largest.max():,.0f} |",
        flush=True,
    )


def main():
    workspace, n_images, *n_draws = sys.argv[1:]
    features = Path(workspace) / "data" / "features"
    splits = [read_features(features, split) for split in ("training", "validation", "evaluation")]
    rng = np.random.default_rng(0)
    draws = [draw(splits[0], int(n_images), rng) for _ in range(int(n_draws[0]) if n_draws else 12)]
    kept = training_data.LOWEST_SCALE
    with hold_blas():
        for lowest in LOWEST:
            by_rule = np.array([judge(training, *splits[1:], lowest) for training in draws])
            show(n_images, "no scaling" if lowest is None else f"{lowest:g}", by_rule[:, 0])
            if lowest == kept:
                for number, name in enumerate(RULES):
                    show(n_images, f"{lowest:g}, {name}", by_rule[:, number])


if __name__ == "__main__":
    main()
