import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import SMALL, execute, make_environment, repro, write_small_set
from relearn import cluster
from relearn.errors import NetworkError
from relearn.networks import describe_way
from relearn.params import read_params

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster_of(clone):
    """Start a scheduler and so many workers: `cluster_of(2)` returns its address and the workers."""
    children = []

    def start(name, *arguments):
        command = [sys.executable, "-m", "distributed.cli.dask_" + name, *arguments]
        path = clone / f"{name}{len(children)}.log"
        with path.open("w") as log:
            environment = make_environment(clone)
            children.append(subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=subprocess.STDOUT))
        return children[-1], path

    def wait_for(path, pattern):
        for _ in range(600):
            if found := re.search(pattern, path.read_text()):
                return found
            time.sleep(0.1)
        raise AssertionError(path.read_text())

    def start_all(n_workers):
        _, log = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = wait_for(log, r"Scheduler at:\s+(tcp://\S+)")[1]
        options = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(clone / "dask"), "--no-nanny")
        workers = [start("worker", address, *options) for _ in range(n_workers)]
        for _, log in workers:
            wait_for(log, "Registered to")
        return address, [worker for worker, _ in workers]

    yield start_all
    for child in children:
        child.kill()
        child.wait()


def read_features(folder):
    return {path.name: path.read_bytes() for path in (folder / "data" / "features").iterdir()}


@pytest.fixture
def local(clone, set_params):
    """The features that this machine computes alone; they are gone from the store after that."""
    write_small_set(clone)
    set_params(SMALL | {"extract.batch_size": 3}, clone / "params.yaml")
    answer = repro(clone, "extract")
    assert answer.returncode == 0, answer.stderr
    shutil.rmtree(clone / ".relearn")
    set_params({"extract.executor": "dask"}, clone / "params.yaml")
    return read_features(clone)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_features_are_those_of_one_machine(local, clone, cluster_of, n_workers):
    address, _ = cluster_of(n_workers)
    answer = execute(clone, "relearn", "extract", DASK_SCHEDULER_ADDRESS=address)
    assert answer.returncode == 0, answer.stderr
    assert "28 of them new to the store" in answer.stderr
    assert read_features(clone) == local


def test_images_of_a_lost_worker_are_done_by_another(local, clone, cluster_of):
    address, workers = cluster_of(2)
    command = [sys.executable, "-m", "relearn", "extract"]
    environment = make_environment(clone) | {"DASK_SCHEDULER_ADDRESS": address}
    with subprocess.Popen(command, cwd=clone, env=environment, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if "new to the store" in line:
                break
        time.sleep(3)
        workers[0].send_signal(signal.SIGKILL)
        printed = child.stderr.read()
    assert child.returncode == 0, printed
    assert read_features(clone) == local


def test_worker_of_another_kind_is_refused(local, clone, cluster_of, monkeypatch):
    address, _ = cluster_of(1)
    answer = execute(clone, "relearn", "extract", DASK_SCHEDULER_ADDRESS=address, TF_ENABLE_ONEDNN_OPTS="0")
    assert answer.returncode == 1
    assert re.search(
        r"the worker \S+ computes in another way: wanted switches .*'0'.*, got .*; use workers", answer.stderr
    )
    assert "Traceback" not in answer.stderr


def test_no_cluster_is_told(local, clone, cluster_of):
    answer = execute(clone, "relearn", "extract")
    assert (
        "wanted the address of a scheduler in DASK_SCHEDULER_ADDRESS, such as tcp://host:8786, got none"
        in answer.stderr
    )
    address, _ = cluster_of(0)
    answer = execute(clone, "relearn", "extract", DASK_SCHEDULER_ADDRESS=address)
    assert f"the scheduler at {address} has no workers; `dask worker {address}` starts one" in answer.stderr
    assert read_features(clone) == local


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    with pytest.raises(
        NetworkError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 .*; `dask scheduler` starts one"
    ):
        cluster._connect()


def test_executor_decides_no_feature(root):
    block = read_params(root / "params.yaml").extract
    assert describe_way(block) == describe_way(block.model_copy(update={"executor": "dask"}))
