"""The real thing: Food-5K photos and pretrained weights, by the one command that runs it."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict

import pytest

from conftest import RARE, execute, git, make_environment, write_images
from relearn.errors import SourceError
from relearn.storage.files import hash_file

pytestmark = pytest.mark.slow

SPLITS = ("training", "validation", "evaluation")
MOBILENET = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
MOBILENET_SHA256 = "dd82ae25c2138d0dc9e76b0abff0c6d3f4e5ba7b74842f56a3aba3ff9ff102df"
VGG = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
VGG_SHA256 = "5ffcc3e2b95af5308e66dbecb80d746dc9161e354eea851fbeab09a6fe1287d2"


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_food5k(folder, *arguments):
    command = [sys.executable, "data/food5k.py", *map(str, arguments)]
    environment = make_environment(folder)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def set_params_of_dvc(changes):
    return [part for key, value in changes.items() for part in ("-S", f"{key}={value}")]


def copy_photos(shared, folder, every, copies=False):
    """Copy one of every N photos of each class of each split, and if asked for those that lie in two splits."""
    source = shared / "data" / "Food-5K"
    files = sorted(source.rglob("*.jpg"))
    splits = defaultdict(set)
    for path in files:
        splits[path.stat().st_size].add(path.parent)
    for number, path in enumerate(files):
        if number % every == 0 or (copies and len(splits[path.stat().st_size]) > 1):
            copied = folder / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)
    return folder


@pytest.mark.long
def test_food5k_with_pretrained_vgg16(shared, clone, tmp_path):
    """The classic recipe: 25,088 features, in bfloat16 if the processor has it; of every tenth photo."""
    source = copy_photos(shared, tmp_path / "Food-5K", 10)
    changes = {"extract.weights": shared / "weights" / VGG, "extract.weights_sha256": VGG_SHA256}
    changes |= {"validate.min_images.min": 10, "train.logistic_regression.C": "[0.001,0.01]"}
    answer = run_food5k(clone, source, *set_params_of_dvc(changes))
    assert answer.returncode == 0, answer.stderr
    assert "25,088 features per image, 14,714,688 parameters" in answer.stderr
    assert execute(clone, "dvc", "exp", "apply", "food5k-vgg16").returncode == 0
    metrics = json.loads((clone / "metrics" / "evaluation.json").read_text())
    assert metrics["n_images"] == 30
    assert metrics["accuracy_score"] >= 0.8


@pytest.mark.long
def test_food5k_with_pretrained_mobilenet_v2(shared, clone, tmp_path):
    """As the experiment that `make food5k` runs, with another network, whose weights are at hand."""
    source = copy_photos(shared, tmp_path / "Food-5K", 4, copies=True)
    weights = shared / "weights" / MOBILENET
    changes = {
        "extract.network": "mobilenet_v2",
        "extract.weights": weights,
        "extract.weights_sha256": MOBILENET_SHA256,
        "extract.pooling": "avg",
    }
    before = (clone / "params.yaml").read_bytes()
    answer = run_food5k(clone, source, *set_params_of_dvc(changes))
    assert answer.returncode == 0, answer.stderr
    assert (clone / "params.yaml").read_bytes() == before
    assert git(clone, "status", "--porcelain") == ""
    again = run_food5k(clone, source)
    assert again.returncode == 1
    assert again.stderr.startswith("food5k: the experiment food5k-vgg16 exists; `dvc exp remove food5k-vgg16` first")
    assert execute(clone, "dvc", "exp", "apply", "food5k-vgg16").returncode == 0

    metrics = json.loads((clone / "metrics" / "evaluation.json").read_text())
    assert metrics["accuracy_score"] >= 0.92
    assert metrics["accuracy_score"] > metrics["majority_baseline_score"] == pytest.approx(0.5, abs=0.03)

    files = {path.relative_to(source).as_posix(): hash_file(path) for path in source.rglob("*") if path.is_file()}
    kept = read_rows(clone / "data" / "manifest.csv")
    excluded = read_rows(clone / "data" / "excluded.csv")
    assert len(kept) + len(excluded) == len(files) > 300

    # The copies across splits, counted here by another way: every file but those in the last split of each group.
    groups = defaultdict(list)
    for path, sha256 in files.items():
        groups[sha256].append(path)
    copies = set()
    for paths in groups.values():
        last = max(paths, key=lambda path: SPLITS.index(path.split(os.sep)[0])).split(os.sep)[0]
        copies |= {path for path in paths if not path.startswith(last)}
    assert copies
    assert {row["path"] for row in excluded} == copies
    assert all(row["reason"].startswith("same bytes in a later split: ") for row in excluded)
    assert len({row["sha256"] for row in kept}) == len(groups)


def test_what_is_not_food5k_is_refused(clone, tmp_path):
    answer = run_food5k(clone, "/nowhere/Food-5K.zip")
    assert answer.returncode == 1
    assert answer.stderr.startswith("food5k: /nowhere/Food-5K.zip: cannot be fetched: failed to get")
    assert answer.stderr.endswith("; name the file or folder: make food5k FOOD5K=PATH\n")
    write_images(tmp_path / "other", ["a.png", "cat/b.png"])
    answer = run_food5k(clone, tmp_path / "other")
    assert answer.returncode == 1
    assert answer.stderr.endswith(
        "other: wanted training/, validation/ and evaluation/ with 0_N.jpg and 1_N.jpg, got none\n"
    )
    (tmp_path / "half.zip").write_bytes(b"half of a zip")
    answer = run_food5k(clone, tmp_path / "half.zip")
    assert (answer.returncode, "Traceback" in answer.stderr) == (1, False)
    assert answer.stderr.startswith(f"food5k: {tmp_path / 'half.zip'}: wanted ")
    assert [path.name for path in (clone / "data" / "raw").iterdir()] == ["digits.zip"]


def test_what_a_killed_run_left_is_not_taken_and_what_is_there_is_not_replaced(clone, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(clone / "data")
    import food5k

    write_images(tmp_path / "partial", ["training/0_9.png"])
    write_images(tmp_path / "Food-5K", [f"{split}/{n}_{n}.png" for split in SPLITS for n in range(2)])
    raw = clone / "data" / "raw"
    shutil.copytree(tmp_path / "partial", raw / ".partial-Food-5K")
    with pytest.raises(SourceError, match="partial: wanted training/, validation/ and evaluation/ with"):
        food5k.fetch_source(str(tmp_path / "partial"), raw)
    shutil.copytree(tmp_path / "partial", raw / ".partial-Food-5K")
    assert food5k.fetch_source(str(tmp_path / "Food-5K"), raw) == raw / "Food-5K"
    assert len(list((raw / "Food-5K").rglob("*.png"))) == 6
    assert food5k.find_subfolder(raw / "Food-5K") is None
    for same in (raw / "Food-5K", tmp_path / "Food-5K"):
        assert food5k.fetch_source(str(same), raw) == raw / "Food-5K"
    with pytest.raises(
        SourceError, match=r"data/raw/Food-5K is there already; remove it and /other/Food-5K is fetched"
    ):
        food5k.fetch_source("/other/Food-5K", raw)


@RARE
@pytest.mark.long
def test_a_zip_with_a_folder_around_everything_is_found_to_have_it(clone, tmp_path):
    """It ends at the weights, which are not there; what came before them is in the experiment's own folder."""
    write_images(tmp_path / "Food-5K", [f"{split}/{n % 2}_{n}.png" for split in SPLITS for n in range(4)])
    with zipfile.ZipFile(tmp_path / "Food-5K.zip", "w") as archive:
        archive.writestr("__MACOSX/training/._0_1.jpg", b"x")
        for path in sorted((tmp_path / "Food-5K").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    nothing = ["-S", "extract.weights=nowhere.h5", "-S", f"extract.weights_sha256={'0' * 64}"]
    answer = run_food5k(clone, tmp_path / "Food-5K.zip", "-S", "validate.min_images.min=1", *nothing)
    assert answer.returncode != 0
    assert "data/raw/Food-5K.zip: 12 images kept (training 4, validation 4, evaluation 4) of 2 classes" in answer.stderr
    assert "relearn: extract.weights: nowhere.h5: no such file; put the weights there" in answer.stderr
