import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import (
    RARE,
    ROOT,
    SMALL,
    VGG16,
    change_params,
    execute,
    extract_features,
    make_clone,
    make_environment,
    wait_for_stored,
    write_small_set,
)
from relearn.dataset.manifest import ManifestRow
from relearn.errors import NetworkError
from relearn.features import cluster
from relearn.features.store import FeatureStore
from relearn.features.views import Input
from relearn.params.networks import BUNDLED_WEIGHTS
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_bytes, hash_file

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster_of(clone):
    """Start a scheduler and workers: `cluster_of(2)` returns the address, the scheduler and two workers."""
    children = []

    def start(name, *arguments, cwd=clone, **variables):
        command = [sys.executable, "-m", "distributed.cli.dask_" + name, *arguments]
        path = clone / f"{name}{len(children)}.log"
        with path.open("w") as log:
            environment = make_environment(clone) | variables
            children.append(subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT))
        return children[-1], path

    def wait_for(path, pattern):
        for _ in range(600):
            if found := re.search(pattern, path.read_text()):
                return found
            time.sleep(0.1)
        raise AssertionError(path.read_text())

    def start_workers(address, n_workers, **variables):
        options = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(clone / "dask"), "--no-nanny")
        workers = [start("worker", address, *options, **variables) for _ in range(n_workers)]
        for _, log in workers:
            wait_for(log, "Registered to")
        return [worker for worker, _ in workers]

    def start_all(n_workers, **variables):
        # So that a worker that hangs counts as lost soon.
        ttl = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10 s"}
        scheduler, log = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", **ttl)
        address = wait_for(log, r"Scheduler at:\s+(tcp://\S+)")[1]
        return address, scheduler, start_workers(address, n_workers, **variables)

    start_all.start_workers = start_workers
    yield start_all
    for child in children:
        child.kill()
        child.wait()


def read_features(folder):
    return {path.name: path.read_bytes() for path in (folder / "data" / "features").iterdir()}


def extract_on_this_machine(folder):
    make_clone(folder)
    write_small_set(folder)
    views = {"extract.views": 1, "augment.horizontal_flip": 0.5, "augment.brightness": 0.3}
    change_params(SMALL | views | {"extract.batch_size": 3, "extract.image_size_px": 96}, folder / "params.yaml")
    extract_features(folder)
    shutil.rmtree(folder / ".relearn")
    change_params({"extract.executor": "dask"}, folder / "params.yaml")


@pytest.fixture
def local(clone, build_once):
    """The features that this machine computes alone; they are gone from the store after that."""
    extracted = build_once("extracted", extract_on_this_machine)
    shutil.rmtree(clone)
    shutil.copytree(extracted, clone, symlinks=True)
    return read_features(clone)


def extract(clone, address, **environment):
    return execute(clone, "relearn", "extract", DASK_SCHEDULER_ADDRESS=address, **environment)


def start_extract(clone, address):
    command = [sys.executable, "-m", "relearn", "extract"]
    environment = make_environment(clone) | {"DASK_SCHEDULER_ADDRESS": address}
    return subprocess.Popen(command, cwd=clone, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "n_workers", [2, pytest.param(1, marks=[pytest.mark.long, RARE]), pytest.param(4, marks=[pytest.mark.long, RARE])]
)
def test_features_are_those_of_one_machine(local, clone, cluster_of, n_workers):
    address, _, _ = cluster_of(n_workers)
    answer = extract(clone, address)
    assert answer.returncode == 0, answer.stderr
    assert "44 of them new to the store" in answer.stderr
    assert read_features(clone) == local


@pytest.mark.long
@pytest.mark.parametrize("sent", [pytest.param(signal.SIGKILL, marks=RARE), signal.SIGSTOP])
def test_batches_of_a_worker_that_is_lost_or_hangs_are_computed_by_another(local, clone, cluster_of, sent):
    address, _, workers = cluster_of(2)
    with start_extract(clone, address) as child:
        assert wait_for_stored(clone, 3) < 44
        workers[0].send_signal(sent)
        printed = child.stderr.read()
    workers[0].send_signal(signal.SIGCONT)
    assert child.returncode == 0, printed
    assert read_features(clone) == local


@RARE
@pytest.mark.long
def test_work_goes_on_with_workers_that_come_later(local, clone, cluster_of):
    address, _, workers = cluster_of(1)
    with start_extract(clone, address) as child:
        wait_for_stored(clone, 3)
        workers[0].send_signal(signal.SIGKILL)
        cluster_of.start_workers(address, 1)
        printed = child.stderr.read()
    assert child.returncode == 0, printed
    assert read_features(clone) == local


@pytest.mark.long
def test_lost_scheduler_is_reported(local, clone, cluster_of):
    address, scheduler, _ = cluster_of(1)
    with start_extract(clone, address) as child:
        wait_for_stored(clone, 3)
        scheduler.send_signal(signal.SIGKILL)
        printed = child.stderr.read()
    assert child.returncode == 6
    assert "the scheduler is gone" in printed
    assert "what came back is in the store, run again" in printed
    assert "Traceback" not in printed


@pytest.mark.long
def test_worker_with_another_recipe_gets_no_images(local, clone, cluster_of):
    address, _, _ = cluster_of(1, TF_ENABLE_ONEDNN_OPTS="0")
    answer = extract(clone, address)
    assert answer.returncode == 6
    assert re.search(
        r"wanted a worker with the same recipe as this machine, got 1 with another; the first: it has another recipe: "
        r"wanted switches \{\}, got switches \{.*'0'\}; use workers of one kind and version",
        answer.stderr,
    )
    cluster_of.start_workers(address, 1)
    answer = extract(clone, address)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"worker tcp://\S+ gets no images: it has another recipe", answer.stderr)
    assert read_features(clone) == local


@pytest.mark.long
def test_weights_travel_to_the_workers(local, clone, cluster_of, set_params, tmp_path):
    """The file lies where the workers do not see it."""
    weights = clone / "own.weights.h5"
    shutil.copy(ROOT / BUNDLED_WEIGHTS, weights)
    own = {"network": "mini_vgg", "weights": weights.name, "weights_sha256": hash_file(weights), "layer": None}
    set_params({f"extract.{key}": value for key, value in own.items()}, clone / "params.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    address, _, _ = cluster_of(1, cwd=elsewhere)
    answer = extract(clone, address)
    assert answer.returncode == 0, answer.stderr
    found = read_features(clone)
    assert json.loads(found["extractor.json"])["weights"] == "own.weights.h5"
    shutil.rmtree(clone / ".relearn")
    set_params({"extract.executor": "local"}, clone / "params.yaml")
    assert execute(clone, "relearn", "extract").returncode == 0
    assert read_features(clone) == found


@RARE
@pytest.mark.long
def test_limit_of_the_store_holds(local, clone, cluster_of):
    address, _, _ = cluster_of(1)
    answer = extract(clone, address, RELEARN_STORE_GB="0.0002")
    assert answer.returncode == 6
    assert re.search(r"wanted room for \S+ GB more, got a limit of 0\.0002 GB; raise RELEARN_STORE_GB", answer.stderr)


@pytest.mark.long
def test_no_cluster_is_reported(local, clone, cluster_of):
    answer = execute(clone, "relearn", "extract")
    assert (
        "wanted the address of a scheduler in DASK_SCHEDULER_ADDRESS, such as tcp://host:8786, got none"
        in answer.stderr
    )
    address, _, _ = cluster_of(0)
    answer = execute(clone, "relearn", "extract", DASK_SCHEDULER_ADDRESS=address)
    assert f"the scheduler at {address} has no workers; `dask worker {address}` starts one" in answer.stderr
    assert read_features(clone) == local


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:1", "tcp://host"])
def test_wrong_address(monkeypatch, address):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    with pytest.raises(NetworkError, match=f"such as tcp://host:8786, got {address}; `dask scheduler` prints it"):
        cluster._connect()


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    with pytest.raises(
        NetworkError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 .*; `dask scheduler` starts one"
    ):
        cluster._connect()


# --- with workers in threads of this process ------------------------------------------------------------------------


class Fake:
    """Stands for an extractor: an image's features are its first bytes."""

    sha256 = "0" * 64

    def __init__(self):
        self.record = SimpleNamespace(model_dump=lambda: {"network_sha256": self.sha256, "weights": "random"})

    def read_image(self, content):
        return np.frombuffer(content[:4], np.uint8)

    def compute_features(self, images):
        return np.array(images, np.float32)


@pytest.fixture
def threads(workspace, monkeypatch):
    """A cluster without workers, whose workers share this process and a fake extractor."""
    import distributed

    fake = Fake()
    monkeypatch.setattr(cluster, "_build_extractor", lambda params: fake)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.1)
    with distributed.LocalCluster(
        n_workers=0,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
    ) as opened:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", opened.scheduler_address)
        yield SimpleNamespace(fake=fake, cluster=opened)


def scale(threads, n_workers):
    threads.cluster.scale(n_workers)
    for _ in range(200):
        if len(threads.cluster.scheduler.workers) == n_workers:
            return
        time.sleep(0.05)
    raise AssertionError(threads.cluster)


def make_rows(n_images):
    rows = []
    for number in range(n_images):
        content = number.to_bytes(4, "big")
        rows.append(ManifestRow(f"{number}.png", "training", "a", hash_bytes(content), 4, 1, 1, "RGB", "PNG"))
    return rows


def read_content(row):
    return int(row.path.removesuffix(".png")).to_bytes(4, "big")


def compute(rows, read=read_content):
    """Yield the hash of each image that is done, and check all features in the end."""
    params = read_params(ROOT / "params.yaml").extract.model_copy(update=VGG16 | {"batch_size": 3})
    with FeatureStore(Path("features.sqlite")) as store:
        feature_set = store.open_feature_set({"a": 1})
        yield from cluster.compute_on_cluster(params, list(map(Input, rows)), read, feature_set)
        for row in rows:
            assert bytes(feature_set.read(row.sha256, np.dtype("<f4")).astype(np.uint8)) == read_content(row)


def test_no_more_images_are_read_than_workers_take(threads):
    scale(threads, 2)
    rows, n_read = make_rows(60), 0

    def read(row):
        nonlocal n_read
        n_read += 1
        return read_content(row)

    n_places = 2 * (2 + 1)
    done = []
    for image in compute(rows, read):
        done.append(image)
        assert n_read - len(done) <= 3 * n_places
    assert sorted(done) == sorted(row.sha256 for row in rows)


def test_batches_of_lost_workers_are_computed_by_one_that_comes_when_all_are_gone(threads):
    scale(threads, 1)
    computing, leaving = threading.Event(), threading.Event()
    compute_features = threads.fake.compute_features

    def wait(images):
        computing.set()
        leaving.wait(20)
        return compute_features(images)

    threads.fake.compute_features = wait
    images = []
    thread = threading.Thread(target=lambda: images.extend(compute(make_rows(12))), daemon=True)
    thread.start()
    assert computing.wait(30)
    scale(threads, 0)
    leaving.set()
    scale(threads, 1)
    thread.join(60)
    assert len(images) == 12


def test_failed_batch_is_repeated(threads):
    scale(threads, 1)
    failures = [OSError("x")] * cluster.N_RETRIES
    read_image = threads.fake.read_image

    def fail(content):
        if failures:
            raise failures.pop()
        return read_image(content)

    threads.fake.read_image = fail
    assert len(list(compute(make_rows(6)))) == 6
    assert not failures


def test_other_network_is_noticed(threads):
    scale(threads, 1)
    found = compute(make_rows(30))
    next(found)
    threads.fake.sha256 = "1" * 64
    with pytest.raises(NetworkError, match=r"wanted a worker's network with the same weights as before \(0{8}\), got"):
        list(found)


def test_deserted_cluster_is_an_error(threads, monkeypatch, caplog):
    scale(threads, 1)
    monkeypatch.setattr(cluster, "DESERTED_SECONDS", 0.5)
    found = compute(make_rows(30))
    next(found)
    scale(threads, 0)
    with pytest.raises(NetworkError, match=r"the cluster has had no workers for 0\.5 seconds; start some; what came"):
        list(found)
    assert "the cluster has no workers; waiting for one" in caplog.text


def test_a_scheduler_that_is_gone_before_its_workers_come_back_is_reported():
    """The client notes that the workers are lost before it notes that the scheduler is."""

    def reconnect(n_workers, timeout):
        raise OSError("Timed out trying to connect to tcp://127.0.0.1:1 after 30 s")

    client = SimpleNamespace(scheduler_info=lambda n_workers: {"workers": {}}, wait_for_workers=reconnect)
    with pytest.raises(NetworkError, match="the scheduler is gone; what came back is in the store, run again"):
        cluster._list_workers(client)
