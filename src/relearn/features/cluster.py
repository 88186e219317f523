"""Features by the workers of a Dask cluster, to which images travel as bytes."""

import functools
import logging
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relearn.dataset.manifest import ManifestRow
from relearn.errors import ImageError, IntegrityError, NetworkError, UnfitFeature, UnlikeWorker
from relearn.features.store import Space
from relearn.networks.extractor import Extractor, group_items
from relearn.networks.recipe import describe_recipe
from relearn.params import NetworkParams
from relearn.runtime.threads import map_ahead
from relearn.storage.files import write_file

log = logging.getLogger(__name__)

ADDRESS = "DASK_SCHEDULER_ADDRESS"
CONNECT_SECONDS = 30
LOOK_SECONDS = 10  # after which it is looked whether there are workers at all
FETCH_SECONDS = 30
DESERTED_SECONDS = 300

# Of a worker, whose threads share one network. Images are decoded while it computes.
_building = threading.Lock()
_computing = threading.Lock()


def compute_on_cluster(
    params: NetworkParams, rows: Sequence[ManifestRow], read_content: Callable[[ManifestRow], bytes], space: Space
) -> Iterator[str]:
    """Compute the features of images on a cluster and put them into the store; yield each image's hash after that.

    A task is a batch, of the very images that one machine would put into it, so that the features are the same. Workers
    that compute in another way than this machine get none; those that come later do. A lost worker's tasks are done by
    another. Once every batch is on its way, those that are not back yet are given to another worker as well, and the
    first answer counts.

    Raises
    ------
    NetworkError
        No cluster answers, no worker computes as this machine would, or the last one is gone.
    """
    with _connect() as client, _explain_losses():
        way = describe_recipe(params)
        fields = params.model_dump(include=set(NetworkParams.model_fields))
        weights = client.scatter(Path(params.weights).read_bytes(), broadcast=True) if params.weights_are_file else None
        crew = Crew(client, fields, way)
        waiting: dict[int, list[ManifestRow]] = {}
        arriving = enumerate(group_items(rows, params.batch_size))

        def submit(number: int, without: str | None = None) -> None:
            images = [(row.path, read_content(row)) for row in waiting[number]]
            crew.submit(number, (fields, way, images, weights), without)

        while True:
            while len(crew.tasks) < crew.count_places() and (following := next(arriving, None)) is not None:
                number, waiting[number] = following
                submit(number)
            if not waiting:
                return
            for number, answer in crew.wait():
                if answer is None:
                    submit(number)
                    continue
                features, record = answer
                _check_record(space, record)
                images = [row.sha256 for row in waiting.pop(number)]
                space.add(images, features)
                yield from images
            if len(crew.tasks) < crew.count_places() and (straggler := crew.find_straggler()):
                submit(*straggler)


class Crew:
    """The workers that compute as the machine that asks would, and the tasks that they have.

    Attributes
    ----------
    tasks : dict
        Of each task that is on its way the number of its batch, and the only workers it may go to, if not all may.
    """

    def __init__(self, client: Any, fields: dict[str, Any], way: dict[str, Any]) -> None:
        self._client = client
        self._fields, self._way = fields, way
        self._differing: dict[str, str] = {}  # of each worker that was asked, in what it differs, or nothing
        self._last_seen = time.monotonic()
        self.tasks: dict[Any, tuple[int, list[str] | None]] = {}
        self._found: dict[str, int] = {}
        self._looked = -math.inf

    def find_workers(self) -> dict[str, int]:
        """Return the address and the number of threads of each that was there a second ago.

        Raises
        ------
        NetworkError
            There are workers, and all of them compute in another way.
        """
        if time.monotonic() - self._looked < 1:
            return self._found
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        if new := [address for address in there if address not in self._differing]:
            answers = self._client.run(compare_ways, self._fields, self._way, workers=new, on_error="return")
            for address, answer in answers.items():
                self._differing[address] = str(answer) if answer else ""
                if answer:
                    log.warning("worker %s gets no images: %s", address, answer)
        if there and all(self._differing.get(address) for address in there):
            raise NetworkError(
                f"extract.executor dask: wanted a worker that computes as this machine would, got {len(there)} that "
                f"do not; the first: {next(iter(self._differing.values()))}; use workers of one kind and version"
            )
        self._found = {address: one["nthreads"] for address, one in there.items() if not self._differing.get(address)}
        self._looked = time.monotonic()
        return self._found

    def submit(self, number: int, arguments: tuple[Any, ...], without: str | None) -> None:
        """Send a batch to a worker that may have it, other than `without`."""
        there = sorted(self.find_workers().keys() - {without})
        workers = there if without or any(self._differing.values()) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a batch of photos is large
            task = self._client.submit(compute_batch, *arguments, pure=False, workers=workers)
        self.tasks[task] = number, workers

    def wait(self) -> Iterator[tuple[int, Any]]:
        """Yield the batches that came back, by number, with what came; with None those that are to be sent again."""
        import distributed

        try:
            done, _ = distributed.wait(list(self.tasks), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
        except TimeoutError:
            self.look_for_anybody()
            here = self.find_workers().keys()
            for task in [task for task, (_, workers) in self.tasks.items() if workers and not here & set(workers)]:
                yield self._drop(task), None
            return
        for task in done:
            if task not in self.tasks:
                continue  # its double was among those that came back
            try:
                answer = task.result(timeout=FETCH_SECONDS)
            except UnlikeWorker as error:
                log.warning("%s", error)
                answer = None
            except TimeoutError:  # its worker was done, and does not hand it over
                answer = None
            yield self._drop(task), answer

    def _drop(self, task: Any) -> int:
        """Forget a task and its doubles; return the number of their batch."""
        number = self.tasks[task][0]
        doubles = [other for other, (its, _) in self.tasks.items() if its == number]
        self._client.cancel([other for other in doubles if other is not task])
        for other in doubles:
            del self.tasks[other]
        return number

    def find_straggler(self) -> tuple[int, str] | None:
        """Return a batch that one worker alone has, and that worker, if there is another one."""
        numbers = [number for number, _ in self.tasks.values()]
        holders = {key: worker for worker, keys in self._client.processing().items() for key in keys}
        for task, (number, _) in self.tasks.items():
            if (
                numbers.count(number) == 1
                and (holder := holders.get(task.key))
                and self.find_workers().keys() - {holder}
            ):
                return number, holder
        return None

    def count_places(self) -> int:
        """Return how many batches may be on their way: one for each thread, and one a worker that waits there."""
        workers = self.find_workers()
        return max(1, sum(workers.values()) + len(workers))

    def look_for_anybody(self) -> None:
        """Say that there is no worker, and raise `NetworkError` where there was none for long."""
        if self.find_workers():
            self._last_seen = time.monotonic()
            return
        if time.monotonic() - self._last_seen > DESERTED_SECONDS:
            raise NetworkError(
                f"extract.executor dask: the cluster has had no workers for {DESERTED_SECONDS} seconds; what came back "
                "is in the store; start some and run again"
            )
        log.warning("the cluster has no workers; waiting for one")


def _connect() -> Any:
    address = os.environ.get(ADDRESS, "")
    if not re.fullmatch(r"(tcp|tls|ucx|wss?)://\S+:\d+", address):
        raise NetworkError(
            f"extract.executor dask: wanted the address of a scheduler in {ADDRESS}, such as tcp://host:8786, got "
            f"{address or 'none'}; `dask scheduler` prints it"
        )
    try:
        import distributed
    except ImportError:
        raise NetworkError("extract.executor dask: distributed is not installed; `pip install distributed`") from None
    # It would print a traceback for each connection that is lost; what that means is said here.
    for name in logging.root.manager.loggerDict:
        if name.startswith(("distributed", "tornado", "asyncio")):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        client: Any = distributed.Client(address, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise NetworkError(
            f"{ADDRESS}: no scheduler answers at {address} ({error}); `dask scheduler` starts one"
        ) from None
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        raise NetworkError(f"{ADDRESS}: the scheduler at {address} has no workers; `dask worker {address}` starts one")
    return client


@contextmanager
def _explain_losses() -> Iterator[None]:
    import distributed

    kept = "what came back is in the store, run again"
    try:
        yield
    except distributed.KilledWorker as error:
        raise NetworkError(
            f"extract.executor dask: the same batch ended several workers, the last {error.last_worker.address}; give "
            f"them more memory, or lower extract.batch_size; {kept}"
        ) from None
    except (CancelledError, distributed.comm.CommClosedError) as error:
        log.debug("%s", error)
        raise NetworkError(f"extract.executor dask: the scheduler is gone; {kept}") from None


def _check_record(space: Space, record: dict[str, Any]) -> None:
    """Keep the record of the first answer, and raise `NetworkError` if another network answers than the one before."""
    if space.record is None:
        space.set_record(record)
    elif space.record["network_sha256"] != record["network_sha256"]:
        raise NetworkError(
            f"extract.weights {record['weights']}: a worker's network has other weights than the one before "
            f"(network_sha256 {record['network_sha256'][:8]}, not {space.record['network_sha256'][:8]}); give all "
            f"workers the same file, or `relearn store prune {space.name[:8]}`"
        )


def compare_ways(fields: dict[str, Any], way: dict[str, Any]) -> str:
    """Return, on a worker, in what its way to compute differs from the one that is wanted, or nothing."""
    own = describe_recipe(NetworkParams.model_validate(fields))
    differing = [name for name in way if own.get(name) != way[name]]
    if not differing:
        return ""
    wanted, got = (", ".join(f"{name} {found.get(name)}" for name in differing) for found in (way, own))
    return f"it computes in another way: wanted {wanted}, got {got}"


def compute_batch(
    fields: dict[str, Any], way: dict[str, Any], images: list[tuple[str, bytes]], weights: bytes | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute, on a worker, the features of one batch; return them and the extractor's record.

    Parameters
    ----------
    images
        Path and bytes of each.
    weights
        The bytes of the weights file, where there is one.

    Raises
    ------
    NetworkError
        This worker computes in another way than the machine that asks, or cannot build the network.
    MemoryError
        It has none for a batch of this size.
    IntegrityError
        An image is none.
    """
    from distributed import get_worker

    worker = get_worker()
    try:
        if differing := compare_ways(fields, way):
            raise UnlikeWorker(f"worker {worker.address}: {differing}")
        if weights is not None:
            # keras goes by how the name ends.
            path = Path(worker.local_directory) / f"{fields['weights_sha256']}-{Path(fields['weights']).name}"
            if not path.exists():
                with write_file(path) as file:
                    file.write(weights)
            fields = {**fields, "weights": str(path)}
        with _building:
            extractor = _build_extractor(NetworkParams.model_validate(fields).model_dump_json())
        prepared = list(map_ahead(functools.partial(_read_image, extractor), images, len(images)))
        with _computing:
            return extractor.compute_features(prepared), extractor.record.model_dump()
    except UnfitFeature as error:
        raise NetworkError(f"{images[error.row][0]}: {error}") from None
    except UnlikeWorker:
        raise
    except NetworkError as error:
        raise NetworkError(f"extract.executor dask: on worker {worker.address}: {error}") from None


def _read_image(extractor: Extractor, image: tuple[str, bytes]) -> np.ndarray:
    path, content = image
    try:
        return extractor.read_image(content)
    except ImageError as error:
        raise IntegrityError(f"{path}: {error}, though the manifest lists it; run `dvc repro -f`") from None


@functools.lru_cache(maxsize=1)
def _build_extractor(params: str) -> Extractor:
    return Extractor(NetworkParams.model_validate_json(params))
