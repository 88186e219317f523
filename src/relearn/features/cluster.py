"""Features from the workers of a Dask cluster, to which images travel as bytes.

A task is a batch of the very images and views that one machine would put into it, so that the features are the same.
It needs a resource which only workers with the same recipe as this machine get. So Dask gives it to no other worker,
moves it when its worker is lost, and repeats it when it fails. A worker that hangs counts as lost after the time that
the scheduler's setting `distributed.scheduler.worker-ttl` gives it.
"""

import functools
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np

from relearn.dataset.manifest import ManifestRow
from relearn.errors import ImageError, IntegrityError, NetworkError, OutOfMemory, UnfitFeature, UnlikeWorker
from relearn.features.store import FeatureSet
from relearn.features.views import Input
from relearn.networks.extractor import Extractor
from relearn.networks.reading import group_items
from relearn.networks.recipe import describe_recipe
from relearn.params.networks import NetworkParams
from relearn.runtime.threads import map_ahead
from relearn.storage.files import write_file

log = logging.getLogger(__name__)

WHERE = "extract.executor dask"
ADDRESS = "DASK_SCHEDULER_ADDRESS"
CONNECT_SECONDS = 30
LOOK_SECONDS = 1  # without a result, after which the client looks for new workers
DESERTED_SECONDS = 300
N_RETRIES = 2
KEPT = "what came back is in the store, run again"

# The threads of a worker share one network. They decode images while it computes.
_building = threading.Lock()
_computing = threading.Lock()


def compute_on_cluster(
    params: NetworkParams,
    inputs: Sequence[Input],
    read_content: Callable[[ManifestRow], bytes],
    feature_set: FeatureSet,
) -> Iterator[str]:
    """Compute features on a cluster and add them to the store; yield each key after that.

    As many batches are on their way as the workers have threads, and one more per worker. An image travels once for
    all its views in a batch.

    Raises
    ------
    NetworkError
        No cluster answers, no worker has the same recipe, or the last worker is gone.
    """
    import distributed

    with _connect() as client, _explain_losses():
        resource = f"relearn-{client.id}"
        weights = Path(params.weights).read_bytes() if params.weights_are_file else None
        request = (resource, params, describe_recipe(params), weights)
        differences: dict[str, str] = {}
        batches = group_items(inputs, params.batch_size)
        tasks: dict[Any, list[Input]] = {}
        while True:
            n_places, stayed = _admit_workers(client, request, differences)
            if not stayed:  # Dask does not look at waiting tasks again when a worker gets a resource
                client.cancel(list(tasks))
                batches, tasks = chain(list(tasks.values()), batches), {}
            while len(tasks) < n_places and (batch := next(batches, None)):
                groups = [list(group) for _, group in groupby(batch, lambda item: item.row.sha256)]
                contents = [(group, read_content(group[0].row)) for group in groups]
                options = {"pure": False, "retries": N_RETRIES, "resources": {resource: 1}}
                tasks[client.submit(compute_batch, params, contents, **options)] = batch
            if n_places and not tasks:
                return
            try:
                done, _ = distributed.wait(list(tasks), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
            except TimeoutError:
                continue
            for task in done:
                features, record = task.result()
                _check_record(feature_set, record)
                keys = [item.key for item in tasks.pop(task)]
                feature_set.add(keys, features)
                yield from keys


def _admit_workers(client: Any, request: tuple[Any, ...], differences: dict[str, str]) -> tuple[int, bool]:
    """Give new workers the resource, or note in what they differ.

    Return how many tasks the workers take, one per thread and one per worker that waits there, and whether one of them
    had the resource before.
    """
    resource = request[0]
    before = _list_workers(client)
    lacking = {address for address, worker in before.items() if resource not in worker["resources"]}
    if new := lacking - differences.keys():
        answers = client.run(admit_worker, *request, workers=list(new), on_error="return")
        for address, answer in answers.items():
            if answer:
                differences[address] = str(answer)
                log.warning("worker %s gets no images: %s", address, answer)
    there = _list_workers(client)
    if there and there.keys() <= differences.keys():
        raise UnlikeWorker(
            where=WHERE,
            wanted="a worker with the same recipe as this machine",
            got=f"{len(there)} with another; the first: {differences[next(iter(there))]}",
            advice="use workers of one kind and version",
        )
    n_threads = {address: worker["nthreads"] for address, worker in there.items() if resource in worker["resources"]}
    return sum(n_threads.values()) + len(n_threads), bool(n_threads.keys() - lacking)


def _list_workers(client: Any) -> dict[str, Any]:
    """Return what the scheduler knows of each worker, by address; wait for one if there is none."""
    if workers := client.scheduler_info(n_workers=-1)["workers"]:
        return dict(workers)
    log.warning("the cluster has no workers; waiting for one")
    try:
        client.wait_for_workers(1, DESERTED_SECONDS)
    except TimeoutError:
        problem = f"the cluster has had no workers for {DESERTED_SECONDS} seconds"
        raise NetworkError(problem, where=WHERE, advice=f"start some; {KEPT}") from None
    except OSError as error:  # the client tried to reach the scheduler again
        raise _describe_loss(error) from None
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def _connect() -> Any:
    address = os.environ.get(ADDRESS, "")
    if not re.fullmatch(r"(tcp|tls|ucx|wss?)://\S+:\d+", address):
        wanted = f"the address of a scheduler in {ADDRESS}, such as tcp://host:8786"
        raise NetworkError(where=WHERE, wanted=wanted, got=address or "none", advice="`dask scheduler` prints it")
    try:
        import distributed
    except ImportError:
        raise NetworkError("distributed is not installed", where=WHERE, advice="`pip install distributed`") from None
    # It would print a traceback for each lost connection, and warn of large batches.
    warnings.filterwarnings("ignore", "Sending large graph")
    for name in logging.root.manager.loggerDict:
        if name.startswith(("distributed", "tornado", "asyncio")):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        client: Any = distributed.Client(address, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        problem = f"no scheduler answers at {address} ({error})"
        raise NetworkError(problem, where=ADDRESS, advice="`dask scheduler` starts one") from None
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        problem = f"the scheduler at {address} has no workers"
        raise NetworkError(problem, where=ADDRESS, advice=f"`dask worker {address}` starts one")
    return client


@contextmanager
def _explain_losses() -> Iterator[None]:
    import distributed

    try:
        yield
    except distributed.KilledWorker as error:
        problem = f"the same batch ended several workers, the last {error.last_worker.address}"
        advice = f"give them more memory, or lower extract.batch_size; {KEPT}"
        raise NetworkError(problem, where=WHERE, advice=advice) from None
    except (CancelledError, distributed.comm.CommClosedError) as error:
        raise _describe_loss(error) from None


def _describe_loss(error: BaseException) -> NetworkError:
    log.debug("%s", error)
    return NetworkError("the scheduler is gone", where=WHERE, advice=KEPT)


def _check_record(feature_set: FeatureSet, record: dict[str, Any]) -> None:
    """Keep the record of the first answer; raise `NetworkError` if a later one is from another network."""
    if feature_set.record is None:
        feature_set.set_record(record)
    elif feature_set.record["network_sha256"] != record["network_sha256"]:
        raise NetworkError(
            where=f"extract.weights {record['weights']}",
            wanted=f"a worker's network with the same weights as before ({feature_set.record['network_sha256'][:8]})",
            got=f"others ({record['network_sha256'][:8]})",
            advice=f"give all workers the same file, or `relearn store prune {feature_set.name[:8]}`",
        )


async def admit_worker(
    resource: str, params: NetworkParams, recipe: dict[str, Any], weights: bytes | None, dask_worker: Any
) -> str:
    """Let this worker take part if it has the recipe; return the difference, or an empty text."""
    own = describe_recipe(params)
    if differing := [name for name in recipe if own.get(name) != recipe[name]]:
        wanted, got = (", ".join(f"{name} {found.get(name)}" for name in differing) for found in (recipe, own))
        return f"it has another recipe: wanted {wanted}, got {got}"
    if weights is not None:
        with write_file(_place_weights(params, dask_worker)) as file:
            file.write(weights)
    await dask_worker.set_resources(**{resource: dask_worker.state.nthreads})
    return ""


def _place_weights(params: NetworkParams, worker: Any) -> Path:
    # keras goes by how the name ends.
    return Path(worker.local_directory) / f"{params.weights_sha256}-{Path(params.weights).name}"


def compute_batch(params: NetworkParams, images: list[tuple[list[Input], bytes]]) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute, on a worker, the features of views of images of which it gets the bytes.

    Returns
    -------
    features, record
        One row per view; the extractor's record.

    Raises
    ------
    NetworkError
        The worker cannot build the network, or a feature is not finite.
    MemoryError
        The worker has too little memory for a batch of this size.
    IntegrityError
        The bytes are not an image.
    """
    from distributed import get_worker

    worker = get_worker()
    if params.weights_are_file:
        params = params.model_copy(update={"weights": str(_place_weights(params, worker))})
    try:
        with _building:
            extractor = _build_extractor(params)
        prepared = list(chain(*map_ahead(functools.partial(_read_views, extractor), images, len(images))))
        with _computing:
            return extractor.compute_features(prepared), extractor.record.model_dump()
    except UnfitFeature as error:
        inputs = [item for group, _ in images for item in group]
        raise NetworkError(str(error), where=inputs[error.row].row.path) from None
    except NetworkError as error:
        raise NetworkError(f"on worker {worker.address}: {error}", where=WHERE) from None


def _read_views(extractor: Extractor, image: tuple[list[Input], bytes]) -> list[np.ndarray]:
    group, content = image
    path = group[0].row.path
    try:
        prepared = extractor.read_image(content)
    except OutOfMemory as error:
        raise OutOfMemory(str(error), where=path, advice="use workers with more memory") from None
    except ImageError as error:
        raise IntegrityError(
            f"{error}, though the manifest lists it", where=path, advice="run `dvc repro -f`"
        ) from None
    return [item.draw(prepared) for item in group]


@functools.lru_cache(maxsize=1)
def _build_extractor(params: NetworkParams) -> Extractor:
    return Extractor(params)
