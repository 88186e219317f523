"""A stage that is killed at any moment leaves nothing that the next run does not put right."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import SMALL, copy_settings, execute, make_environment, write_images
from relearn.dataset.manifest import SPLITS

pytestmark = [pytest.mark.slow, pytest.mark.long]

N_KILLS = {"restructure": 3, "validate": 2}  # to begin with nothing, or with what an earlier run remembered


def read_results(folder):
    files = [path for root in ("data", "reports") for path in (folder / root).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def list_leftovers(folder):
    return [path.as_posix() for path in folder.rglob("*") if ".partial" in path.name or ".spool" in path.name]


def run(folder, stage):
    answer = execute(folder, "relearn", stage)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("stage", N_KILLS)
def test_killed_at_any_moment(tmp_path, set_params, root, stage):
    for folder in (tmp_path / "disturbed", tmp_path / "undisturbed"):
        folder.mkdir()
        copy_settings(folder)
        set_params(SMALL, folder / "params.yaml")
        names = [f"{split}/{label}/{n}.png" for split in SPLITS for label in ("cat", "dog") for n in range(40)]
        write_images(folder / "images", names)
        (folder / "images" / "training" / "cat" / "broken.png").write_bytes(b"text")
        (folder / "images" / "validation" / "dog" / "copy.png").write_bytes(
            (folder / "images" / "training" / "dog" / "0.png").read_bytes()
        )
    start = time.monotonic()
    run(folder, "restructure")
    if stage == "validate":
        run(tmp_path / "disturbed", "restructure")
        start = time.monotonic()
        run(folder, "validate")
    usual_seconds = time.monotonic() - start

    rng = random.Random(0)
    environment = make_environment(root) | {"PYTHONPATH": ""}
    n_killed = number = 0
    while n_killed < N_KILLS[stage] and number < 3 * N_KILLS[stage]:  # some end before they are killed
        folder = tmp_path / "disturbed"
        if number % 3 == 0:  # else what earlier runs remembered is there
            shutil.rmtree(folder / ".relearn", ignore_errors=True)
        with subprocess.Popen(
            [sys.executable, "-m", "relearn", stage],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            time.sleep(rng.uniform(0.2, 1.1) * usual_seconds)
            child.send_signal(signal.SIGKILL)
        n_killed += child.returncode == -signal.SIGKILL
        number += 1
        if number % 4 == 0 or n_killed == N_KILLS[stage]:
            run(folder, stage)
            assert read_results(folder) == read_results(tmp_path / "undisturbed")
            assert list_leftovers(folder) == []
    assert n_killed == N_KILLS[stage]
