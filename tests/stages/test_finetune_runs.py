"""`relearn finetune` in processes of its own: killed at any moment, and with other backends of keras."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import pytest

from conftest import ROOT
from relearn import paths
from relearn.finetuning.progress import Epoch
from relearn.params.pipeline import read_params
from relearn.stages import finetune, restructure
from relearn.storage.files import hash_file, read_csv, write_json

pytestmark = pytest.mark.slow

N_KILLS = int(os.environ.get("RELEARN_KILLS", "3"))  # one of each kind
N_IMAGES = {"training": 6, "validation": 3, "evaluation": 1}  # of each digit
OTHER_BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in ("jax", "torch")
]
CACHE = Path(".relearn/finetune")
PROGRAM = """
from relearn import cli
from relearn.finetuning import training

training.SAVE_SECONDS = 0.0  # after each step
cli.main()
"""


@pytest.fixture
def digits(workspace, set_params):
    """A part of the sample, and parameters with which a training has 16 steps."""
    with zipfile.ZipFile(ROOT / "data" / "raw" / "digits.zip") as archive:
        for label in map(str, range(10)):
            names = iter(name for name in sorted(archive.namelist()) if name.startswith(f"{label}/"))
            for split, n_images in N_IMAGES.items():
                for _ in range(n_images):
                    archive.extract(next(names), Path("images") / split)
    extract = read_params(Path("params.yaml")).extract
    weights = {"extract.weights": str(ROOT / extract.weights), "extract.weights_sha256": extract.weights_sha256}
    set_params(
        {"restructure.source": "images", "restructure.layout": "split_class_folders"}
        | weights
        | {"extract.layer": None, "extract.pooling": "avg", "augment.shift": 0.1}
        | {"finetune.epochs": 2, "finetune.batch_size": 8, "finetune.keep": "always"}
    )
    params = read_params(Path("params.yaml"))
    restructure.run(params.restructure)
    write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})
    return params


def take_results():
    """Return the bytes of all outputs, and remove them."""
    files = [*paths.NETWORK.iterdir(), paths.FINETUNING_METRICS, paths.FINETUNING_CURVE]
    assert len(files) == 4
    contents = {path.name: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    return contents


def wait_for_moment(child, moment, rng):
    """Wait until progress or activations are being written, or for any other moment, or until the process has ended."""
    n_saves = 0 if moment == "activations" else rng.randint(1, 12)
    partial = "*" if moment == "any" else f"*/.{moment}.{child.pid}.partial"
    saves = set()
    while child.poll() is None:
        with suppress(FileNotFoundError):  # between two looks
            saves |= {path.stat().st_mtime_ns for path in CACHE.glob("*/progress")}
        if len(saves) >= n_saves and any(CACHE.glob(partial)):
            break
        time.sleep(0.0005)
    if moment == "any":
        time.sleep(rng.uniform(0, 0.2))


def run(n_threads, moment=None, rng=None):
    """Run the stage in a process of its own, kill it unless it ends before the moment; return how it ended."""
    threads = {"RELEARN_THREADS": str(n_threads), "TF_NUM_INTRAOP_THREADS": str(n_threads)}
    command = [sys.executable, "-c", PROGRAM, "finetune"]
    with subprocess.Popen(command, env=os.environ | threads, stderr=subprocess.PIPE, text=True) as child:
        if moment is not None:
            wait_for_moment(child, moment, rng)
            child.kill()
        _, said = child.communicate()
    assert child.returncode in (0, -signal.SIGKILL), said
    return child.returncode


@pytest.mark.long
def test_a_run_that_was_killed_ends_with_the_same_bytes(digits):
    """Also if each run has another number of threads."""
    assert run(2) == 0
    wanted = take_results()
    rng = random.Random(0)
    moments = list(islice(cycle(["progress", "any", "activations"]), N_KILLS))
    killed = []
    while moments:
        if moments[0] == "activations":  # which are there from an earlier kill
            for path in CACHE.glob("*/activations"):
                shutil.rmtree(path)
        if run(1 + len(killed) % 2, moments[0], rng) == 0:
            assert take_results() == wanted
        else:
            killed.append(moments.pop(0))
    print(f"killed in the middle of writing, or at any moment: {Counter(killed)}")
    assert run(2) == 0
    assert take_results() == wanted
    assert list(CACHE.iterdir()) == []


@pytest.mark.parametrize("backend", OTHER_BACKENDS)
def test_another_backend_has_the_same_losses(backend, digits, set_params):
    set_params({"finetune.epochs": 1})
    finetune.run(digits.finetune.model_copy(update={"epochs": 1}), digits.augment, digits.extract)
    (wanted,) = read_csv(paths.FINETUNING_CURVE, Epoch._fields)
    paths.FINETUNING_CURVE.unlink()
    command = [sys.executable, "-m", "relearn", "finetune"]
    environment = os.environ | {"KERAS_BACKEND": backend}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    (found,) = read_csv(paths.FINETUNING_CURVE, Epoch._fields)
    for name, old, new in zip(Epoch._fields, wanted, found, strict=True):
        if name.endswith("_loss"):
            assert float(new) == pytest.approx(float(old), abs=1e-3), name
