"""Does pretraining help, and which layer is best? Linear probes of mini_vgg by the stages themselves.

Usage: python benchmarks/transfer.py DATASET SOURCE [NAME=WEIGHTS ...]

DATASET is `digits` (SOURCE: data/raw/digits.zip) or `food5k` (SOURCE: the folder with training/, validation/ and
evaluation/). Every image is judged once, by a classifier that did not see it: the images, each taken once, are cut by
their hash into five parts, of which in turn one is evaluation, one validation, and three are training. Every layer of
the network, with each of the weights (pretrained=pretraining/mini_vgg.weights.h5) and with random ones, is probed at 32
px by extract, verify, train and evaluate, and so are the pixels themselves. Of each kind the layer with the best
accuracy on the validation parts is then compared with that of the first kind on the evaluation parts, by McNemar's
exact test.
"""

import csv
import json
import logging
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from relearn import evaluate, extract, restructure, train, validate, verify
from relearn.comparison import compare_paired
from relearn.files import hash_bytes, hash_file, read_json
from relearn.intervals import compute_wilson_interval
from relearn.params import Params, read_params

ROOT = Path(__file__).resolve().parent.parent
STAGES = {
    "restructure": restructure,
    "validate": validate,
    "extract": extract,
    "verify": verify,
    "train": train,
    "evaluate": evaluate,
}
N_FOLDS = 5
SPLITS = ("evaluation", "validation", "training", "training", "training")
LAYERS = (
    *(("block1_pool", pooling) for pooling in ("flatten", "avg")),
    *(("block2_pool", pooling) for pooling in ("flatten", "avg")),
    *(("block3_conv1", pooling) for pooling in ("flatten", "avg")),
    *(("block3_conv2", pooling) for pooling in ("flatten", "avg")),
    *(("block3_pool", pooling) for pooling in ("flatten", "avg", "max")),
)


def copy_images(dataset, source, folder):
    """Copy each different image once below a folder, and return path, label and hash of each."""
    if dataset == "digits":
        with zipfile.ZipFile(source) as archive:
            found = [(name, name.split("/")[-2], archive.read(name)) for name in archive.namelist() if name[-1] != "/"]
    else:
        found = [
            (f"{path.parent.name}-{path.name}", {"0": "non_food", "1": "food"}[path.name[0]], path.read_bytes())
            for path in sorted(source.glob("*/*.jpg"))
        ]
    rows = {}
    for name, label, content in found:
        rows.setdefault(hash_bytes(content), (name.replace("/", "-"), label, content))
    for name, _, content in rows.values():
        (folder / name).write_bytes(content)
    return [(name, label, sha256) for sha256, (name, label, _) in rows.items()]


def write_labels(path, rows, fold):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for name, label, sha256 in rows:
            writer.writerow((name, label, SPLITS[(int(sha256[:8], 16) + fold) % N_FOLDS]))


def run_stages(params, *names):
    for name in names:
        STAGES[name].run(params.get_block(name))


def make_params(extractor):
    """Return the repository's parameters with the images of this folder and another extractor."""
    block = read_params(ROOT / "params.yaml").model_dump(by_alias=True)
    block["restructure"] |= {"source": "images", "layout": "csv", "labels_csv": "labels.csv", "labels": {}}
    block["validate"] |= {"min_images": {"severity": "warn", "min": 20}}
    block["extract"] |= {"image_size_px": 32, "precision": "float32", "feature_dtype": "float32", **extractor}
    return Params.model_validate(block)


def judge(params):
    """Return for a fold the share of right answers on validation, and which evaluation images were right."""
    run_stages(params, "extract", "verify", "train", "evaluate")
    with Path("reports/predictions.csv").open(newline="") as file:
        right = {row["sha256"]: row["label"] == row["predicted"] for row in csv.DictReader(file)}
    metrics = read_json(Path("metrics/training.json"))
    return metrics["validation_accuracy_score"], right


def main():
    dataset, source, *named = sys.argv[1:]
    source = Path(source).resolve()
    logging.disable(logging.INFO)
    network = {"network": "mini_vgg", "seed": 0}
    kinds = {}
    for name, path in (pair.split("=") for pair in named or [f"pretrained={ROOT / 'pretraining/mini_vgg.weights.h5'}"]):
        kinds[name] = network | {"weights": str(Path(path).resolve()), "weights_sha256": hash_file(Path(path))}
    kinds["random"] = network | {"weights": "random", "weights_sha256": None}
    probes = {
        (kind, layer, pooling): extractor | {"layer": layer, "pooling": pooling}
        for kind, extractor in kinds.items()
        for layer, pooling in LAYERS
    }
    probes["pixels", "input", "flatten"] = kinds["random"] | {"layer": "input", "pooling": "flatten"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("images").mkdir()
        rows = copy_images(dataset, source, Path("images"))
        scores, right = {probe: [] for probe in probes}, {probe: {} for probe in probes}
        for fold in range(N_FOLDS):
            write_labels(Path("images/labels.csv"), rows, fold)
            run_stages(make_params(next(iter(probes.values()))), "restructure", "validate")
            for probe, extractor in probes.items():
                score, answers = judge(make_params(extractor))
                scores[probe].append(score)
                right[probe] |= answers
                print(f"fold {fold} {probe}: validation {score:.4f}", file=sys.stderr, flush=True)
        report(dataset, scores, right)


def report(dataset, scores, right):
    """Print a row for each probe, and the comparison of the best of each kind."""
    images = sorted(next(iter(right.values())))
    print(f"{dataset}: {len(images)} images, each judged once\n")
    print(
        "| weights | layer | pooling | validation | accuracy | 95 % interval |\n| --- | --- | --- | --- | --- | --- |"
    )
    for (kind, layer, pooling), answers in right.items():
        n_right = sum(answers.values())
        low, high = compute_wilson_interval(n_right, len(images))
        figures = f"{np.mean(scores[kind, layer, pooling]):.4f} | {n_right / len(images):.4f} | {low:.4f} to {high:.4f}"
        print(f"| {kind} | `{layer}` | {pooling} | {figures} |")
    best = {}
    for probe in right:
        if probe[0] not in best or np.mean(scores[probe]) > np.mean(scores[best[probe[0]]]):
            best[probe[0]] = probe
    print()
    first, *others = best.values()
    for other in others:
        paired = compare_paired(*(np.array([right[probe][image] for image in images]) for probe in (other, first)))
        print(f"{' '.join(first)} against {' '.join(other)}: {json.dumps(paired._asdict())}")


if __name__ == "__main__":
    main()
