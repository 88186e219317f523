"""`relearn report`: what the last evaluation found, as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relearn import paths
from relearn.evaluation.metrics import CLASS_HEADER, check_intervals
from relearn.runtime.text import count_nouns
from relearn.storage.files import read_csv, read_json


def describe_evaluation(root: Path = Path()) -> list[str]:
    """Return lines of text on the metrics of the evaluation, their intervals and the classes below `root`.

    Raises
    ------
    IntegrityError
        One of them is missing or damaged.
    """
    metrics = read_json(root / paths.EVALUATION_METRICS, ("n_images", "n_classes", "majority_baseline_score"))
    intervals = check_intervals(read_json(root / paths.INTERVALS), metrics, root / paths.INTERVALS)
    classes = read_csv(root / paths.CLASS_REPORT, CLASS_HEADER)
    groups = f" in {count_nouns(metrics['n_groups'], 'group')}" if "n_groups" in metrics else ""
    images = count_nouns(metrics["n_images"], "image" if "n_folds" in metrics else "evaluation image")
    lines = [f"{images}{groups} of {metrics['n_classes']} classes{describe_folds(metrics)}"]
    for key, (low, high) in intervals.items():
        name = key.removesuffix("_score").replace("_", " ")
        # Of images that are all right, each resample is all right, which says nothing of other images.
        interval = f"95 % interval {low:.3f} to {high:.3f}" if low < high else "no interval: too few mistakes"
        lines.append(f"  {name:18} {metrics[key]:.3f}  {interval}")
    lines.append(f"  {'majority baseline':18} {metrics['majority_baseline_score']:.3f}")
    judged = [row for row in classes if int(row[1]) > 0]
    name, n_images, _, recall, _ = min(judged, key=lambda row: float(row[3]))
    lines.append(f"  {'weakest class':18} {name}: recall {float(recall):.3f} of {count_nouns(int(n_images), 'image')}")
    return lines


def describe_folds(metrics: Mapping[str, Any]) -> str:
    """Return how the images were judged, if in folds; see `evaluate.by`."""
    if "n_folds" not in metrics:
        return ""
    return f", out of {metrics['n_folds']} folds: each judged by a head that was not fitted on it"
