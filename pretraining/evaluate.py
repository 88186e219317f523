"""Stage `evaluate`: the weights that are kept, through the extractor that uses them, on images nothing else opens."""

import sys
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from cifar10 import ARRAYS, CLASSES, TOP, WEIGHTS
from relearn.errors import RelearnError
from relearn.evaluation.intervals import compute_wilson_interval
from relearn.networks.extractor import Extractor
from relearn.params.networks import NetworkParams
from relearn.storage.files import hash_file, write_csv, write_json


def evaluate() -> None:
    """Write `metrics.json`, and `classes.csv` with the recall of each class on the test images."""
    extractor = Extractor(
        NetworkParams(
            network="mini_vgg",
            weights=str(WEIGHTS),
            weights_sha256=hash_file(WEIGHTS),
            seed=0,
            layer=None,
            pooling="avg",
            image_size_px=32,
            resize_filter="bilinear",
            batch_size=250,
            precision="float32",
            feature_dtype="float32",
            jpeg_draft=False,
        )
    )
    metrics: dict[str, float] = {"n_parameters": extractor.record.n_parameters}
    with np.load(ARRAYS, allow_pickle=False) as data, np.load(TOP, allow_pickle=False) as top:
        for split, prefix in (("validation", "validation_"), ("test", "")):
            labels = data[f"{split}_labels"]
            features = np.array(list(extractor.compute_rows(data[f"{split}_pixels"])))
            log_probabilities = log_softmax(features @ top["kernel"] + top["bias"], axis=1)
            right = log_probabilities.argmax(axis=1) == labels
            low, high = compute_wilson_interval(int(right.sum()), len(right))
            metrics |= {
                f"{prefix}n_images": len(right),
                f"{prefix}accuracy_score": round(float(right.mean()), 6),
                f"{prefix}accuracy_score_ci95_low": round(low, 6),
                f"{prefix}accuracy_score_ci95_high": round(high, 6),
                f"{prefix}log_loss": round(-float(log_probabilities[np.arange(len(labels)), labels].mean()), 6),
            }
    metrics["majority_baseline_score"] = round(float(np.bincount(labels).max() / len(labels)), 6)
    write_json(Path("metrics.json"), metrics)
    recalls = ([name, (labels == k).sum(), f"{right[labels == k].mean():.4f}"] for k, name in enumerate(CLASSES))
    write_csv(Path("classes.csv"), ["label", "n_images", "recall"], recalls)
    print(f"{len(right):,} test images: accuracy {right.mean():.4f} (95 % interval {low:.4f} to {high:.4f})")


if __name__ == "__main__":
    try:
        evaluate()
    except (RelearnError, OSError) as error:
        sys.exit(f"evaluate: {error}")
