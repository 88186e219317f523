import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT, restructure, write_images
from relearn.dataset.inspections import Inspection
from relearn.dataset.splitting import SourceImage, choose_split, split_images
from relearn.params.pipeline import read_params


def test_class_folders_are_split_by_content(use_layout):
    use_layout(layout="class_folders", fractions={"validation": 0.3, "evaluation": 0.3})
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(40)])
    before, _ = restructure()
    counts = Counter(row.split for row in before.values())
    assert min(counts["training"], counts["validation"], counts["evaluation"]) > 10
    write_images(Path("source"), [f"a/new{n}.png" for n in range(40)], 1000)
    Path("source/b/copy.png").write_bytes(Path("source/b/3.png").read_bytes())
    Path("source/b/4.png").unlink()
    after, _ = restructure()
    (gone,) = before.keys() - after.keys()
    assert gone.endswith("b/4.png")
    (original,) = (row for row in after.values() if row.path.endswith("/b/3.png"))
    (copy,) = (row for row in after.values() if row.path.endswith("copy.png"))
    assert copy.split == original.split


def test_fractions_are_met():
    fractions = read_params(ROOT / "params.yaml").restructure.fractions
    splits = Counter(choose_split(hashlib.sha256(str(n).encode()).hexdigest(), fractions) for n in range(20_000))
    assert splits["validation"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert splits["evaluation"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_validation_is_cut_from_training_where_there_is_none(use_layout):
    splits = {"training": "training", "validation": None, "evaluation": "evaluation"}
    use_layout(layout="split_class_folders", splits=splits, fractions={"validation": 0.5, "evaluation": 0.2})
    write_images(Path("source"), [f"training/a/{n}.png" for n in range(60)])
    write_images(Path("source"), [f"evaluation/a/{n}.png" for n in range(5)], 1000)
    kept, _ = restructure()
    counts = Counter(row.split for row in kept.values())
    assert counts["evaluation"] == 5
    assert counts["training"] + counts["validation"] == 60
    assert 20 < counts["validation"] < 45


def copy(source, target):
    Path("source", target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path("source", source), Path("source", target))


def test_copies_in_two_splits_stay_in_the_later_one(use_layout):
    use_layout(layout="split_class_folders")
    write_images(Path("source"), ["training/a/1.png", "validation/a/2.png", "evaluation/a/3.png"])
    copy("training/a/1.png", "validation/a/1.png")
    copy("training/a/1.png", "evaluation/a/1.png")
    copy("training/a/1.png", "training/a/again.png")
    copy("validation/a/2.png", "training/a/2.png")
    kept, excluded = restructure()
    assert set(kept) == {"validation/a/2.png", "evaluation/a/3.png", "evaluation/a/1.png"}
    assert excluded == {
        "training/a/1.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "training/a/again.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "validation/a/1.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "training/a/2.png": "same bytes in a later split: validation/a/2.png, kept in validation",
    }


def test_copies_are_kept_on_request(use_layout):
    use_layout(layout="split_class_folders", duplicates="keep")
    write_images(Path("source"), ["training/a/1.png", "validation/a/2.png"])
    copy("training/a/1.png", "evaluation/a/1.png")
    kept, excluded = restructure()
    assert set(kept) == {"training/a/1.png", "validation/a/2.png", "evaluation/a/1.png"}
    assert excluded == {}


@pytest.mark.parametrize("duplicates", ["exclude", "keep"])
def test_copies_under_two_labels_are_excluded(use_layout, duplicates):
    use_layout(layout="split_class_folders", duplicates=duplicates)
    write_images(Path("source"), ["training/cat/1.png", "training/cat/2.png"])
    copy("training/cat/1.png", "evaluation/dog/1.png")
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["cat"]
    reason = "same bytes under different labels: dog (evaluation/dog/1.png), cat (training/cat/1.png)"
    assert excluded == {"training/cat/1.png": reason, "evaluation/dog/1.png": reason}


def test_reason_does_not_grow_with_the_copies(use_layout):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["a/0.png", "c/1.png"])
    for n in range(40):
        copy("a/0.png", f"{'ab'[n % 2]}/x{n}.png")
    _, excluded = restructure()
    assert len(excluded) == 41
    assert set(excluded.values()) == {"same bytes under different labels: a (a/0.png), b (b/x1.png)"}


def test_plan_does_not_depend_on_the_order(root):
    params = read_params(root / "params.yaml").restructure
    shuffler = random.Random(0)
    images = []
    for number in range(200):
        sha256 = hashlib.sha256(str(number % 60).encode()).hexdigest()
        split = shuffler.choice(["training", "evaluation"])
        label = "a" if number % 7 else "b"
        images.append(SourceImage(f"{number}/x.png", split, label, Inspection(sha256, 1)))
    first = split_images(images, params)
    for _ in range(5):
        shuffler.shuffle(images)
        kept, excluded = split_images(images, params)
        assert (sorted(kept), sorted(excluded)) == (sorted(first[0]), sorted(first[1]))
        assert len(kept) + len(excluded) == len(images)
