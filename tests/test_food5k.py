"""The real thing: Food-5K photos and pretrained weights, by parameters alone."""

import csv
import json
import os
from collections import defaultdict

import pytest

from conftest import repro
from relearn.files import hash_file

pytestmark = pytest.mark.slow

WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_food5k_with_pretrained_mobilenet_v2(shared, clone, set_params):
    source, weights = shared / "data" / "Food-5K", shared / "weights" / WEIGHTS
    set_params(
        {
            "restructure.source": str(source),
            "restructure.layout": "food5k",
            "restructure.labels": {"0": "non_food", "1": "food"},
            "extract.network": "mobilenet_v2",
            "extract.weights": str(weights),
            "extract.weights_sha256": "dd82ae25c2138d0dc9e76b0abff0c6d3f4e5ba7b74842f56a3aba3ff9ff102df",
            "extract.layer": None,
            "extract.pooling": "avg",
            "extract.image_size_px": 224,
        },
        clone / "params.yaml",
    )
    answer = repro(clone)
    assert answer.returncode == 0, answer.stderr

    metrics = json.loads((clone / "metrics" / "evaluation.json").read_text())
    assert metrics["accuracy_score"] >= 0.96
    assert metrics["accuracy_score"] > metrics["majority_baseline_score"] == 0.5

    files = {path.relative_to(source).as_posix(): hash_file(path) for path in source.rglob("*") if path.is_file()}
    kept = read_rows(clone / "data" / "manifest.csv")
    excluded = read_rows(clone / "data" / "excluded.csv")
    assert len(kept) + len(excluded) == len(files) == 1200

    # The copies across splits, counted here by another way: every file but those in the last split of each group.
    splits = ("training", "validation", "evaluation")
    groups = defaultdict(list)
    for path, sha256 in files.items():
        groups[sha256].append(path)
    copies = set()
    for paths in groups.values():
        last = max(paths, key=lambda path: splits.index(path.split(os.sep)[0])).split(os.sep)[0]
        copies |= {path for path in paths if not path.startswith(last)}
    assert copies
    assert {row["path"] for row in excluded} == copies
    assert all(row["reason"].startswith("same bytes in a later split: ") for row in excluded)
    assert len({row["sha256"] for row in kept}) == len(groups)
