"""What augmented views of the training images bring, and what they cost.

Usage: python benchmarks/views.py SOURCE WEIGHTS SIZE_PX [N_VIEWS]...

SOURCE holds training/, validation/ and evaluation/, each with a folder per class; WEIGHTS is a file of MobileNetV2's
weights, or `sample`: then SOURCE is data/raw/digits.zip, the network the bundled one, and the head that of params.yaml.
Runs the stages without views, then with each N_VIEWS (4 by default), with an empty store each. Prints one row of a
table per run: p is McNemar's exact test on the same evaluation images against the run without views.
"""

import copy
import json
import resource
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from ruamel.yaml import YAML

from relearn import paths
from relearn.evaluation.paired import compare_paired
from relearn.evaluation.predictions import read_predictions
from relearn.params.networks import BUNDLED_SHA256, BUNDLED_WEIGHTS
from relearn.storage.files import hash_file

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("restructure", "validate", "finetune", "extract", "verify", "train", "evaluate")
# Digits must not be mirrored.
AUGMENT = {
    "photos": {"horizontal_flip": 0.5, "shift": 0.125},
    "sample": {"shift": 0.1, "rotation_degrees": 10.0, "zoom_min": 0.9, "zoom_max": 1.1},
}


def write_params(source, weights, size, n_views, options):
    params = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    params["restructure"]["source"] = str(source)
    params["restructure"]["corrections"] = str(ROOT / "data" / "corrections.csv")
    params["validate"]["suite"] = str(ROOT / "expectations.json")
    params["augment"] |= options
    params["extract"] |= {"views": n_views}
    if weights is None:
        params["extract"] |= {"weights": str(ROOT / BUNDLED_WEIGHTS), "weights_sha256": BUNDLED_SHA256}
    else:
        params["restructure"]["layout"] = "split_class_folders"
        params["extract"] |= {"network": "mobilenet_v2", "image_size_px": size}
        params["extract"] |= {"weights": str(weights), "weights_sha256": hash_file(weights)}
    with paths.PARAMS.open("w") as file:
        YAML().dump(copy.deepcopy(params), file)


def read_cpu_seconds():
    """Return the seconds of all cores that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(source, weights, size, n_views, options):
    """Run all stages in an empty folder; return CPU seconds by stage, images through the network, metrics, answers."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_params(source, weights, size, n_views, options)
        for stage in STAGES:
            start = read_cpu_seconds()
            command = [sys.executable, "-m", "relearn", stage]
            answer = subprocess.run(command, check=False, capture_output=True, text=True)
            seconds[stage] = read_cpu_seconds() - start
            if answer.returncode:
                raise RuntimeError(answer.stderr)
        n_images = sum(1 for _ in (paths.FEATURES / "index.csv").open()) - 1
        metrics = json.loads(paths.EVALUATION_METRICS.read_text())
        metrics["interval"] = json.loads(paths.INTERVALS.read_text())["accuracy_score"]
        metrics["C"] = json.loads(paths.TRAINING_METRICS.read_text())["C"]
        return seconds, n_images, metrics, read_predictions(paths.PREDICTIONS)


def main():
    source, weights, size, *numbers = sys.argv[1:]
    weights = None if weights == "sample" else Path(weights).resolve()
    options = AUGMENT["photos" if weights else "sample"]
    print(f"augment: {options}\n")
    print("| views | accuracy | 95 % interval | log loss | C | p | extract (CPU s) | train (CPU s) | images |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    first = None
    for n_views in [0, *map(int, numbers or ["4"])]:
        seconds, n_images, metrics, answers = run(Path(source).resolve(), weights, int(size), n_views, options)
        first = first or answers
        p_value = compare_paired(first.right, answers.right).p_value
        low, high = metrics["interval"]
        print(
            f"| {n_views} | {metrics['accuracy_score']:.4f} | {low:.4f} to {high:.4f} | {metrics['log_loss']:.4f} | "
            f"{metrics['C']:g} | {p_value:.3f} | {seconds['extract']:.1f} | {seconds['train']:.1f} | {n_images:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
