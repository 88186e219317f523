"""How well `relearn suspects` finds wrong labels that were planted, beside cleanlab.

Usage: python benchmarks/suspects.py plant FEATURES OUT SHARE SEED [C]...
       python benchmarks/suspects.py judge PLANTED...
       python benchmarks/suspects.py cleanlab PLANTED...     in an environment with cleanlab; it needs no relearn

`plant` gives a share of the labels of FEATURES (`.npz` with x and y, as `benchmarks/train.py features` writes it)
another class, at random, trains a head on two thirds with the values of C (0.0001 to 1 by default), validates it on the
rest, as the stage does, and writes the out-of-fold probabilities of all images with both labels to OUT. `judge` and
`cleanlab` print one row of a table per file.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TRAINING_SHARE = 2 / 3


def plant(features, out, share, seed, values_of_C):
    from relearn.features.shards import SplitFeatures
    from relearn.heads.out_of_fold import predict_out_of_fold
    from relearn.heads.training import train_head
    from relearn.params.pipeline import read_params

    found = np.load(features)
    x, clean = found["x"], found["y"].astype(np.int64)
    rng = np.random.default_rng(seed)
    n_classes = clean.max() + 1
    is_wrong = np.zeros(len(clean), bool)
    is_wrong[rng.permutation(len(clean))[: round(share * len(clean))]] = True
    given = np.where(is_wrong, (clean + rng.integers(1, n_classes, len(clean))) % n_classes, clean)
    order = rng.permutation(len(clean))  # the files may come class by class
    x, given, is_wrong = x[order], given[order], is_wrong[order]
    hashes, labels = [f"{number:064x}" for number in order], [f"{label:03}" for label in given]
    cut = round(TRAINING_SHARE * len(labels))
    splits = [SplitFeatures([x[part]], hashes[part], labels[part]) for part in (slice(0, cut), slice(cut, len(labels)))]
    block = read_params(ROOT / "params.yaml").train.model_dump()
    block["logistic_regression"]["C"] = values_of_C
    params = type(read_params(ROOT / "params.yaml").train).model_validate(block)
    record = train_head(*splits, params).record
    probabilities = predict_out_of_fold(splits, record, params)
    np.savez(out, probabilities=probabilities, given=given, is_wrong=is_wrong, C=record.options["C"], share=share)


def judge(path):
    from sklearn.metrics import roc_auc_score

    from relearn.evaluation.suspects import rank_labels

    planted = np.load(path)
    probabilities, given, is_wrong = (planted[name] for name in ("probabilities", "given", "is_wrong"))
    found = rank_labels(probabilities, given)
    n = int(is_wrong.sum())
    first = found.order[:n]
    cells = (
        path.stem,
        f"{np.mean(probabilities.argmax(1) == given):.3f}",
        n,
        f"{roc_auc_score(is_wrong, -found.margins):.4f}",
        f"{is_wrong[first].mean():.1%}",
        f"{is_wrong[found.order[: 2 * n]].sum() / n:.1%}",
        f"{found.p_wrong[first].sum():.1f} of {is_wrong[first].sum()}",
        f"{(1 - probabilities[first, given[first]]).sum():.1f}",
        f"{found.p_wrong.sum():.1f}",
    )
    print("|", " | ".join(map(str, cells)), "|")


def compare_cleanlab(path):
    from cleanlab.filter import find_label_issues

    planted = np.load(path)
    given, probabilities = planted["given"], planted["probabilities"]
    issues = find_label_issues(given, probabilities)
    n_right = planted["is_wrong"][issues].sum()
    n = planted["is_wrong"].sum()
    print(f"| {path.stem} | {issues.sum()} | {n_right} | {n_right / max(1, issues.sum()):.1%} | {n_right / n:.1%} |")


def main():
    match sys.argv[1:]:
        case ["plant", features, out, share, seed, *values]:
            plant(features, out, float(share), int(seed), list(map(float, values)) or [1e-4, 1e-3, 1e-2, 0.1, 1.0])
        case ["judge", *files]:
            print("| set | accuracy | n | area under ROC | found in n | found in 2n | expected in n | 1 - p | in all |")
            print("| --- |" + " ---: |" * 8)
            for file in files:
                judge(Path(file))
        case ["cleanlab", *files]:
            print("| set | reported | of them wrong | precision | found |")
            print("| --- | ---: | ---: | ---: | ---: |")
            for file in files:
                compare_cleanlab(Path(file))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
