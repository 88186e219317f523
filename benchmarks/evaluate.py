"""How long `evaluate` takes where classes are many.

Usage: python benchmarks/evaluate.py [N_IMAGES] [N_CLASSES] [N_RESAMPLES]

Makes predictions of which about 9 in 10 are right, and times the metrics with their intervals, the tables and the
plots. For comparison it computes scikit-learn's metrics of ten resamples, each drawn class by class.
"""

import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
from sklearn import metrics as reference

from relearn import paths
from relearn.evaluation.metrics import CLASS_HEADER, compute_metrics, judge, report_classes
from relearn.evaluation.predictions import Predictions, write_predictions
from relearn.params.pipeline import EvaluateParams
from relearn.stages.evaluate import write_plots
from relearn.storage.files import write_csv

N_REFERENCE = 10


def make_predictions(n_images, n_classes):
    rng = np.random.default_rng(0)
    truth = np.arange(n_images) % n_classes
    scores = rng.standard_normal((n_images, n_classes))
    scores[np.arange(n_images), truth] += np.sqrt(2 * np.log(n_classes)) + 2
    probabilities = np.exp(2 * scores)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = [f"{number:06}" for number in range(n_classes)]
    return judge(classes, [classes[number] for number in truth], probabilities.astype(np.float32))


def resample_plainly(judged):
    rng = np.random.default_rng(0)
    strata = [np.flatnonzero(judged.labels == label) for label in np.unique(judged.labels)]
    for _ in range(N_REFERENCE):
        drawn = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        labels, predicted, scores = judged.labels[drawn], judged.predicted[drawn], judged.probabilities[drawn]
        reference.balanced_accuracy_score(labels, predicted)
        reference.f1_score(labels, predicted, average="macro")
        reference.log_loss(labels, scores, labels=range(len(judged.classes)))
        reference.roc_auc_score(labels, scores, multi_class="ovr")


def main():
    n_images, n_classes, n_resamples = (int(n) for n in sys.argv[1:] + ["5000", "500", "1000"][len(sys.argv[1:]) :])
    judged = make_predictions(n_images, n_classes)
    start = time.monotonic()
    params = EvaluateParams(by="split", n_resamples=n_resamples, resample="images", n_bins=15, n_explained=24, seed=0)
    found = compute_metrics(judged, params).metrics
    print(f"metrics and intervals: {time.monotonic() - start:.1f} s, accuracy {found['accuracy_score']}")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        start = time.monotonic()
        paths.CONFUSION.parent.mkdir(parents=True)
        write_csv(paths.CLASS_REPORT, CLASS_HEADER, report_classes(judged))
        names = [judged.classes[number] for number in judged.labels]
        predicted = [judged.classes[number] for number in judged.predicted]
        write_predictions(
            Path("p.csv"), Predictions(judged.classes, names, names, names, predicted, judged.probabilities)
        )
        write_plots(judged)
        print(f"tables and plots: {time.monotonic() - start:.1f} s")
    start = time.monotonic()
    resample_plainly(judged)
    seconds = (time.monotonic() - start) * n_resamples / N_REFERENCE
    print(f"scikit-learn's metrics of each resample: {seconds:.0f} s, from {N_REFERENCE} of them")


if __name__ == "__main__":
    main()
