import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT, make_split, make_train_params
from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.summary import SCORE_HEADER, SEARCH_HEADER
from relearn.heads.training import train_head
from relearn.inference.classifier import open_head
from relearn.storage.files import hash_bytes


@pytest.mark.parametrize("calibration", ["auto", "sigmoid"])
def test_training_needs_no_files(workspace, calibration):
    training, validation = make_split(1), make_split(2)
    before = list(workspace.rglob("*"))
    params = make_train_params(options={"C": [0.01, 1.0]}, calibration=calibration)
    trained = train_head(training, validation, params)
    assert list(workspace.rglob("*")) == before
    classes = ["class 0", "class 1", "class 2"]
    assert trained.record.head_sha256 == hash_bytes(trained.content)
    assert trained.record.classes == classes
    assert trained.record.options == {"C": trained.metrics["C"], "tol": 1e-4, "max_iter": 10_000}
    assert trained.record.calibration == ("none" if calibration == "auto" else "sigmoid")
    session = open_head(trained.content, 8, classes)
    (labels,) = session.run(["label"], {"features": validation.features})
    if calibration == "auto":
        accuracy = np.mean(labels == np.array(validation.labels))
        assert trained.metrics["validation_accuracy_score"] == pytest.approx(accuracy, abs=1e-6)
    assert [len(row) for row in trained.search] == [len(SEARCH_HEADER)] * 2
    assert [len(row) for row in trained.path_scores] == [len(SCORE_HEADER)] * 2


FIT = """
import hashlib
from conftest import make_split, make_train_params
from relearn.heads.training import train_head
from threadpoolctl import threadpool_info

splits = [make_split(seed, 200, 3, 300) for seed in (1, 2)]
trained = train_head(*splits, make_train_params())
print(*sorted({library["architecture"] for library in threadpool_info() if library["internal_api"] == "openblas"}))
print(hashlib.sha256(trained.content).hexdigest(), trained.metrics, trained.search)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenBLAS has other kernels to choose from")
def test_every_processor_writes_the_same_bytes():
    """OpenBLAS and NumPy compute here with the code that they choose on an old and on a newer processor."""
    found = []
    for kernels, disabled in (("Prescott", "X86_V3 X86_V4"), ("Haswell", "")):
        chosen = {"OPENBLAS_CORETYPE": kernels, "NPY_DISABLE_CPU_FEATURES": disabled}
        command = [sys.executable, "-W", "ignore", "-c", FIT]
        environment = os.environ | chosen | {"PYTHONPATH": str(ROOT / "tests")}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
        found.append(answer.stdout.splitlines())
    (old, old_head), (new, new_head) = found
    assert old != new
    assert old_head == new_head


def test_labels_are_checked_first():
    training = make_split(1)
    one_class = SplitFeatures(training.blocks, training.sha256, ["class 0"] * 60)
    with pytest.raises(TrainingError, match="training: wanted at least 2 classes, got"):
        train_head(one_class, make_split(2), make_train_params())
