"""How long reports/evaluation.html takes beside the rest of `evaluate`, and how large it is.

Usage:
    python benchmarks/evaluation_page.py WORKSPACE [N_EXPLAINED ...]

WORKSPACE is a folder in which all stages ran. The page is made twice for each number of mistakes that are shown in full
(0, 24 and 120), and has to have the same bytes. With `extract.pooling: avg` the first one loads the network.
"""

import logging
import os
import sys
import time

from relearn import paths
from relearn.evaluation.metrics import compute_metrics, judge
from relearn.evaluation.predictions import read_predictions
from relearn.inference.classifier import read_classifier
from relearn.params.pipeline import read_params
from relearn.reporting.page import draw_evaluation
from relearn.storage.files import hash_bytes


def main():
    workspace, *numbers = sys.argv[1:]
    os.chdir(workspace)
    logging.basicConfig(level=logging.WARNING)
    params = read_params(paths.PARAMS).evaluate
    record = read_classifier(paths.CLASSIFIER).record
    predictions = read_predictions(paths.PREDICTIONS)
    start, cpu = time.monotonic(), time.process_time()
    judged = judge(predictions.classes, predictions.labels, predictions.probabilities)
    measured = compute_metrics(judged, params)
    print(f"metrics and intervals: {time.monotonic() - start:.1f} s, {time.process_time() - cpu:.1f} CPU s")
    print(f"{len(predictions.paths):,} images, {(~predictions.right).sum():,} mistakes")
    for number in map(int, numbers or ("0", "24", "120")):
        changed = params.model_copy(update={"n_explained": number})
        pages = []
        for _ in range(2):
            start, cpu = time.monotonic(), time.process_time()
            pages.append(draw_evaluation(predictions, judged, measured, record, changed))
            seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu
            print(
                f"{number} in full: {seconds:.1f} s, {cpu_seconds:.1f} CPU s, {len(pages[-1]) / 1e6:.2f} MB, "
                f"sha256 {hash_bytes(pages[-1])[:10]}",
                flush=True,
            )
        assert pages[0] == pages[1]


if __name__ == "__main__":
    main()
