"""The pretraining of mini_vgg, on few images and for few epochs."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cifar10
import prepare
import pretrain
from conftest import RARE, ROOT, encode_image, read_yaml
from relearn.errors import ParamsError, SourceError
from relearn.networks.mini_vgg import MiniVGG, preprocess_input
from relearn.storage.files import read_csv, read_json
from settings import PrepareParams, PretrainParams, Settings, read_settings

FOLDER = ROOT / "pretraining"
RECIPE = PretrainParams.model_validate(read_yaml(FOLDER / "params.yaml")["pretrain"])


@pytest.fixture
def folder(tmp_path, monkeypatch, set_params):
    """A copy of the pretraining to work in, with a short recipe."""
    for name in ("params.yaml", "cifar10.py", "evaluate.py", "prepare.py", "pretrain.py", "settings.py"):
        shutil.copy(FOLDER / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    short = {"epochs": 4, "batch_size": 20, "learning_rate": 0.05, "warmup_epochs": 1, "ema_momentum": 0.9}
    set_params({f"pretrain.{key}": value for key, value in (short | {"precision": "float32"}).items()})
    return tmp_path


# --- prepare -------------------------------------------------------------------------------------------------------


def write_images(folder, n_training=40, n_test=10, size=(32, 32)):
    for split, n_images in (("train", n_training), ("test", n_test)):
        for number in range(n_images):
            path = folder / split / prepare.CLASSES[number % 10] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, split == "test"]).integers(0, 256, (*size, 3), np.uint8)
            path.write_bytes(encode_image(Image.fromarray(pixels)))


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    monkeypatch.setitem(prepare.N_IMAGES, "train", 40)
    monkeypatch.setitem(prepare.N_IMAGES, "test", 10)
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    return tmp_path / "images"


def prepare_from(source):
    prepare.prepare(PrepareParams(source=str(source), validation_fraction=0.25))
    with np.load("data/cifar10.npz", allow_pickle=False) as arrays:
        return Path("data/cifar10.npz").read_bytes(), dict(arrays)


def test_images_become_arrays(small_cifar):
    _, arrays = prepare_from(small_cifar)
    assert len(arrays["training_labels"]) + len(arrays["validation_labels"]) == 40
    assert 2 <= len(arrays["validation_labels"]) <= 20
    assert arrays["test_pixels"].shape == (10, 32, 32, 3)
    assert arrays["test_pixels"].dtype == np.uint8
    for pixels, label in zip(arrays["test_pixels"], arrays["test_labels"], strict=True):
        (path,) = (small_cifar / "test" / prepare.CLASSES[label]).iterdir()
        assert np.array_equal(np.asarray(Image.open(path)), pixels)


def test_an_archive_gives_the_bytes_that_its_folder_gives(small_cifar):
    archive = shutil.make_archive("cifar", "xztar", small_cifar.parent, "images")
    assert prepare_from(small_cifar)[0] == prepare_from(archive)[0]


def test_the_cut_does_not_depend_on_the_other_images(small_cifar, monkeypatch):
    _, before = prepare_from(small_cifar)
    monkeypatch.setitem(prepare.N_IMAGES, "train", 60)
    write_images(small_cifar, n_training=60)
    _, after = prepare_from(small_cifar)
    kept = {pixels.tobytes() for pixels in after["validation_pixels"]}
    assert {pixels.tobytes() for pixels in before["validation_pixels"]} < kept


def test_what_is_not_cifar10_is_told(small_cifar, tmp_path):
    write_images(small_cifar, n_training=41)
    with pytest.raises(SourceError, match=r"prepare\.source: wanted 40 images in train/CLASS/, got 41"):
        prepare_from(small_cifar)
    write_images(tmp_path / "large", size=(40, 30))
    with pytest.raises(
        SourceError, match=r"wanted train/CLASS/NAME with 32 x 32 px and a class of airplane, .* 30 x 40"
    ):
        prepare_from(tmp_path / "large")


def test_nothing_there_is_told(small_cifar):
    with pytest.raises(SourceError, match=r"prepare\.source: nowhere: no such file or folder in .*/; put CIFAR-10"):
        prepare_from("nowhere")


@pytest.mark.slow
def test_what_keras_gives_is_taken(small_cifar, monkeypatch):
    import keras

    rng = np.random.default_rng(0)
    parts = [
        (rng.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n, dtype=np.uint8)[:, None] % 10) for n in (40, 10)
    ]
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: parts)
    prepare.prepare(PrepareParams(source=None, validation_fraction=0.25))
    with np.load("data/cifar10.npz", allow_pickle=False) as arrays:
        pixels = np.concatenate([arrays["training_pixels"], arrays["validation_pixels"]])
        assert {image.tobytes() for image in pixels} == {image.tobytes() for image in parts[0][0]}
        for image, label in zip(arrays["test_pixels"], arrays["test_labels"], strict=True):
            assert np.array_equal(image, parts[1][0][label])


@pytest.mark.long
@pytest.mark.slow
def test_no_internet_is_told(folder, set_params):
    set_params({"prepare.source": None})
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "KERAS_HOME": str(folder / "keras"), **nowhere}
    answer = subprocess.run(
        [sys.executable, "prepare.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("prepare: prepare.source: null: CIFAR-10 is not on this machine and cannot be down")
    assert answer.stderr.endswith("; name a folder or an archive with train/CLASS/N.jpg and test/CLASS/N.jpg\n")


def test_a_wrong_key_of_the_recipe_is_told(folder, set_params):
    set_params({"pretrain.epoch": 3, "pretrain.momentum": 1.0})
    with pytest.raises(ParamsError) as caught:
        read_settings()
    _, first, second = str(caught.value).splitlines()
    assert first == "  pretrain.momentum: wanted less than 1, got 1.0"
    assert second.startswith(
        "  pretrain.epoch: unknown key, did you mean epochs?; known here are epochs, batch_size, learning_rate,"
    )


def test_committed_recipe_is_valid_and_in_the_pipeline(monkeypatch):
    monkeypatch.chdir(FOLDER)
    settings = read_settings()
    stages = read_yaml(FOLDER / "dvc.yaml")["stages"]
    for stage, block in (("prepare", settings.prepare), ("pretrain", settings.pretrain)):
        assert stages[stage]["params"] == [f"{stage}.{key}" for key in type(block).model_fields]
    assert list(Settings.model_fields) == ["prepare", "pretrain"]


def test_committed_weights_are_those_of_the_committed_code_and_recipe():
    """Each file that `dvc.lock` names and git holds has the hash that it had when the stage ran, each number too."""
    params = read_yaml(FOLDER / "params.yaml")
    n_files = 0
    for name, stage in read_yaml(FOLDER / "dvc.lock")["stages"].items():
        for file in stage["deps"] + stage["outs"]:
            if (path := FOLDER / file["path"]).is_file():
                assert hashlib.md5(path.read_bytes()).hexdigest() == file["md5"], f"{name}: {path}"
                n_files += 1
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            block, field = key.split(".")
            assert params[block][field] == value, key
    assert n_files >= 12


# --- pretrain ------------------------------------------------------------------------------------------------------


def test_augmentation_shifts_mirrors_and_blanks():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    plain = pretrain.augment_images(pixels, np.random.default_rng(0), 0, 0)
    same, mirrored = ((plain == expected).all(axis=(1, 2, 3)) for expected in (pixels, pixels[:, :, ::-1]))
    assert np.array_equal(same, ~mirrored)
    assert 70 < mirrored.sum() < 130

    blanked = pretrain.augment_images(pixels, np.random.default_rng(0), 0, 8)
    holes = (blanked == 127.5).all(axis=3)
    rows, columns = holes.any(axis=2).sum(axis=1), holes.any(axis=1).sum(axis=1)
    assert set(rows) | set(columns) <= set(range(4, 9))
    assert np.array_equal(rows * columns, holes.sum(axis=(1, 2)))

    flat = np.tile(np.arange(32, dtype=np.uint8)[:, None, None], (200, 1, 32, 3))  # a row's number in every pixel
    shifted = pretrain.augment_images(flat, np.random.default_rng(0), 4, 0)
    assert set(shifted[:, 16, 0, 0] - 16) == set(range(-4, 5))
    across = np.tile(np.arange(32, dtype=np.uint8)[None, :, None], (200, 32, 1, 3))
    shifted = pretrain.augment_images(across, np.random.default_rng(0), 4, 0)
    shifts = {int(row[16] - 16 if row[17] > row[16] else 15 - row[16]) for row in shifted[:, 0, :, 0]}
    assert shifts == set(range(-4, 5))


def test_batches_of_an_epoch_are_the_same_wherever_the_training_began():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
    labels = np.arange(50) % 10
    recipe = RECIPE.model_copy(update={"batch_size": 20})
    whole, later = (pretrain.iterate_batches(pixels, labels, recipe, first_epoch) for first_epoch in (0, 1))
    first = [next(whole), next(whole)]  # 2 batches an epoch
    for images, truth in (next(later), next(later)):
        expected_images, expected_truth = next(whole)
        assert np.array_equal(images, expected_images)
        assert np.array_equal(truth, expected_truth)
        assert not np.array_equal(images, first[0][0])
        assert images.dtype == truth.dtype == np.float32


def write_arrays(n_images=300):
    """Images whose class is in their color, so that there is something to learn."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("training", n_images), ("validation", 50), ("test", 50)):
        labels = np.arange(size) % 10
        pixels = rng.integers(0, 60, (size, 32, 32, 3)) + 15 * labels[:, None, None, None]
        arrays |= {f"{split}_pixels": pixels.astype(np.uint8), f"{split}_labels": labels}
    Path("data").mkdir()
    np.savez("data/cifar10.npz", **arrays)


def start_pretraining():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "DVC_NO_ANALYTICS": "1"}
    return subprocess.Popen(
        [sys.executable, "pretrain.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run_pretraining():
    child = start_pretraining()
    printed, told = child.communicate(timeout=300)
    return child.returncode, printed, told


def read_results():
    files = [
        Path("mini_vgg.weights.h5"),
        Path("top.npz"),
        *(path for path in Path("curves").rglob("*") if path.is_file()),
    ]
    return {path.as_posix(): path.read_bytes() for path in files}


@RARE
@pytest.mark.long
@pytest.mark.slow
def test_a_killed_pretraining_ends_with_the_same_bytes(folder):
    write_arrays()
    code, printed, told = run_pretraining()
    assert code == 0, told
    assert "epoch 4/4: loss" in printed
    undisturbed = read_results()
    assert {name for name in undisturbed if name.endswith(".tsv")} == {
        f"curves/plots/metrics/{part}/{metric}.tsv" for part in ("train", "eval") for metric in ("loss", "accuracy")
    }
    assert not Path("checkpoint").exists()
    for name in undisturbed:
        Path(name).unlink()

    for n_epochs in (1, 3):
        with start_pretraining() as child:
            for line in child.stdout:
                if line.startswith(f"epoch {n_epochs}/"):
                    break
            time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
        assert not Path("mini_vgg.weights.h5").exists()
    code, printed, told = run_pretraining()
    assert code == 0, told
    assert printed.startswith("going on after epoch 3")
    assert read_results() == undisturbed


@RARE
@pytest.mark.long
@pytest.mark.slow
def test_another_recipe_does_not_go_on_from_a_checkpoint(folder, set_params):
    write_arrays(100)
    with start_pretraining() as child:
        for line in child.stdout:
            if line.startswith("epoch 1/"):
                break
        child.kill()
    set_params({"pretrain.epochs": 2, "pretrain.ema_momentum": None})
    code, printed, told = run_pretraining()
    assert code == 0, told
    assert printed.startswith(
        "checkpoint/ is of a training with other parameters, data or code; starting over\nepoch 1/2"
    )


@RARE
@pytest.mark.long
@pytest.mark.slow
def test_a_training_that_cannot_be_ends_in_one_line(folder, set_params):
    write_arrays(100)
    set_params({"pretrain.batch_size": 101})
    code, _, told = run_pretraining()
    assert (code, told) == (1, "pretrain: pretrain.batch_size: wanted at most 100, the images there are, got 101\n")
    set_params({"pretrain.batch_size": 20, "pretrain.learning_rate": 1.0e30})
    code, _, told = run_pretraining()
    assert code == 1
    assert told.splitlines()[-1].startswith("pretrain: pretrain.learning_rate: 1e+30 made the loss NaN or infinite in")
    assert "Traceback" not in told


# --- evaluate ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_counts_what_is_right_on_the_test_images(folder):
    """The top is made from the features, so that it answers with the class of the images that it was made from."""
    import keras

    write_arrays()
    shutil.copy(FOLDER / "mini_vgg.weights.h5", folder)
    with np.load("data/cifar10.npz") as arrays:
        pixels, labels = arrays["test_pixels"].copy(), arrays["test_labels"].copy()
    network = MiniVGG()
    network.load_weights(folder / "mini_vgg.weights.h5")
    features = keras.ops.convert_to_numpy(network(preprocess_input(pixels))).mean(axis=(1, 2))
    centered = features - features.mean(axis=0)
    kernel = np.linalg.lstsq(centered, np.eye(10)[labels], rcond=None)[0].astype(np.float32)
    bias = -features.mean(axis=0) @ kernel
    np.savez("top.npz", kernel=kernel, bias=bias)
    right = (features @ kernel + bias).argmax(axis=1) == labels
    answer = subprocess.run(
        [sys.executable, "evaluate.py"], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, check=True
    )
    assert answer.returncode == 0
    metrics = read_json(Path("metrics.json"))
    assert metrics["n_images"] == metrics["validation_n_images"] == 50
    assert metrics["accuracy_score"] == right.mean() > metrics["majority_baseline_score"] == 0.1
    assert metrics["accuracy_score_ci95_low"] < metrics["accuracy_score"] <= metrics["accuracy_score_ci95_high"]
    recalls = {row[0]: float(row[2]) for row in read_csv(Path("classes.csv"), ["label", "n_images", "recall"])}
    assert list(recalls) == list(cifar10.CLASSES)
    assert recalls["bird"] == round(right[labels == 2].mean(), 4)
