"""Does pretraining help, and which layer is best? Linear probes of mini_vgg by the stages themselves.

Usage: python benchmarks/transfer.py DATASET SOURCE [NAME=WEIGHTS ...]

DATASET is `digits` (SOURCE: data/raw/digits.zip) or `food5k` (SOURCE: the folder with training/, validation/ and
evaluation/). Every image is judged once, by a classifier that did not see it: the images, each taken once, are cut by
their hash into five parts, of which in turn one is evaluation, one validation, and three are training. Some layers of
the network, with each of the weights (pretrained=pretraining/mini_vgg.weights.h5) and with random ones, are probed at
32 px by extract, verify, train and evaluate, and so are the pixels themselves. Of each kind and in each fold the layer
that is best on its validation part stands for it on its evaluation part, and the kinds are compared by McNemar's exact
test.
"""

import csv
import importlib
import inspect
import itertools
import json
import logging
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from relearn.evaluation.intervals import compute_wilson_interval
from relearn.evaluation.paired import compare_paired
from relearn.params.pipeline import Params, read_params
from relearn.storage.files import hash_bytes, hash_file, read_json

ROOT = Path(__file__).resolve().parent.parent
N_FOLDS = 5
SPLITS = ("evaluation", "validation", "training", "training", "training")
NAMES = ("block1_pool", "block2_pool", "block3_conv1", "block3_conv2", "block3_pool")
LAYERS = (*itertools.product(NAMES, ("flatten", "avg")), ("block3_pool", "max"))


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
        kept = rows.setdefault(hash_bytes(content), (name.replace("/", "-"), label, content))
        if kept[1] != label:
            raise SystemExit(f"{source}: {name} has the bytes of {kept[0]} and another label")
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
        run = importlib.import_module(f"relearn.stages.{name}").run
        other_blocks = list(inspect.signature(run).parameters)[1:]
        run(*map(params.get_block, (name, *other_blocks)))


def make_params(extractor):
    """Return the repository's parameters with the images of this folder and another extractor."""
    block = read_params(ROOT / "params.yaml").model_dump(by_alias=True)
    block["restructure"] |= {"source": "images", "layout": "csv", "labels_csv": "labels.csv", "labels": {}}
    block["restructure"]["corrections"] = str(ROOT / "data" / "corrections.csv")
    block["validate"] |= {"min_images": {"severity": "warn", "min": 20}, "suite": str(ROOT / "expectations.json")}
    block["evaluate"]["n_explained"] = 0
    block["extract"] |= {"image_size_px": 32, "precision": "float32", "feature_dtype": "float32", **extractor}
    return Params.model_validate(block)


def judge(params):
    """Return for a fold the share of right answers on validation, and which evaluation images were right."""
    run_stages(params, "finetune", "extract", "verify", "train", "evaluate")
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
    for name, path in (
        pair.split("=", 1) for pair in named or [f"pretrained={ROOT / 'pretraining/mini_vgg.weights.h5'}"]
    ):
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
        judged = {probe: [] for probe in probes}
        for fold in range(N_FOLDS):
            write_labels(Path("images/labels.csv"), rows, fold)
            run_stages(make_params(next(iter(probes.values()))), "restructure", "validate")
            for probe, extractor in probes.items():
                judged[probe].append(judge(make_params(extractor)))
                print(f"fold {fold} {probe}: validation {judged[probe][-1][0]:.4f}", file=sys.stderr, flush=True)
        report(dataset, judged)


def report(dataset, judged):
    """Print a row for each probe, and the comparison of the kinds, of each the layer that its validation chose."""
    answers = {" `".join(probe[:2]) + f"` {probe[2]}": merge(folds) for probe, folds in judged.items()}
    chosen = {}
    for kind in dict.fromkeys(probe[0] for probe in judged):
        folds = zip(*(judged[probe] for probe in judged if probe[0] == kind), strict=True)
        chosen[kind] = merge([max(fold, key=lambda scored: scored[0]) for fold in folds])
    n_images = len(next(iter(answers.values())))
    print(f"{dataset}: {n_images} images, each judged once\n")
    print("| features | accuracy | 95 % interval |\n| --- | --- | --- |")
    for name, right in (answers | {f"**{kind}**, chosen": right for kind, right in chosen.items()}).items():
        low, high = compute_wilson_interval(sum(right.values()), n_images)
        print(f"| {name} | {sum(right.values()) / n_images:.4f} | {low:.4f} to {high:.4f} |")
    print()
    for (one, its), (other, others) in itertools.combinations(chosen.items(), 2):
        paired = compare_paired(*(np.array([right[image] for image in sorted(its)]) for right in (others, its)))
        print(f"{one} against {other}: {json.dumps(paired._asdict())}")


def merge(folds):
    """Return which images were right, over all folds."""
    return {image: right for _, answers in folds for image, right in answers.items()}


if __name__ == "__main__":
    main()
