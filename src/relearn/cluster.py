"""Features by the workers of a Dask cluster, to which images travel as bytes."""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from relearn.errors import NetworkError
from relearn.manifest import ManifestRow
from relearn.networks import Extractor, describe_way, group_items
from relearn.params import NetworkParams
from relearn.store import Space
from relearn.threads import map_ahead

log = logging.getLogger(__name__)

ADDRESS = "DASK_SCHEDULER_ADDRESS"
CONNECT_SECONDS = 30
N_AHEAD = 2  # batches a worker: one that it computes, and one that is on its way

_building = threading.Lock()


def compute_on_cluster(
    params: NetworkParams, rows: Sequence[ManifestRow], read_content: Callable[[ManifestRow], bytes], space: Space
) -> Iterator[str]:
    """Compute the features of images on a cluster and put them into the store; yield each image's hash after that.

    A task is a batch, of the very images that one machine would put into it, so that the features are the same. A lost
    worker's tasks are done by another. Once every batch is on its way, those that are not back yet are given to another
    worker as well, and the first answer counts.

    Raises
    ------
    NetworkError
        No cluster answers, or a worker computes in another way than this machine would.
    """
    with _connect() as client:
        import distributed

        way = describe_way(params)
        fields = params.model_dump(include=set(NetworkParams.model_fields))
        numbers: dict[str, int] = {}
        waiting: dict[int, tuple[list[ManifestRow], list[Any]]] = {}
        tasks: Any = distributed.as_completed(loop=client.loop)  # type: ignore[no-untyped-call]

        def submit(number: int, batch: list[ManifestRow]) -> None:
            contents = [read_content(row) for row in batch]
            task = client.submit(compute_batch, fields, way, contents, pure=False)
            numbers[task.key] = number
            waiting.setdefault(number, (batch, []))[1].append(task)
            tasks.add(task)

        arriving = enumerate(group_items(rows, params.batch_size))
        for number, batch in islice(arriving, N_AHEAD * max(1, len(client.scheduler_info()["workers"]))):
            submit(number, batch)
        for task in tasks:
            number = numbers.pop(task.key)
            if number not in waiting:
                continue  # its double was first
            features, record = task.result()
            batch, doubles = waiting.pop(number)
            client.cancel([double for double in doubles if double is not task])
            if space.record is None:
                space.set_record(record)
            images = [row.sha256 for row in batch]
            space.add(images, features)
            yield from images
            following = next(arriving, None)
            if following is not None:
                submit(*following)
            elif straggling := [number for number, (_, doubles) in waiting.items() if len(doubles) == 1]:
                submit(straggling[0], waiting[straggling[0]][0])
            if not waiting:
                return


def _connect() -> Any:
    address = os.environ.get(ADDRESS)
    if not address:
        raise NetworkError(
            f"extract.executor dask: wanted the address of a scheduler in {ADDRESS}, such as tcp://host:8786, got "
            "none; `dask scheduler` prints it"
        )
    try:
        import distributed
    except ImportError:
        raise NetworkError("extract.executor dask: distributed is not installed; `pip install distributed`") from None
    try:
        client: Any = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise NetworkError(
            f"{ADDRESS}: no scheduler answers at {address} ({error}); `dask scheduler` starts one"
        ) from None
    if not client.scheduler_info()["workers"]:
        client.close()
        raise NetworkError(f"{ADDRESS}: the scheduler at {address} has no workers; `dask worker {address}` starts one")
    return client


def compute_batch(
    fields: dict[str, Any], way: dict[str, Any], contents: list[bytes]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute, on a worker, the features of one batch of images; return them and the extractor's record.

    Raises
    ------
    NetworkError
        This worker's hardware, versions or code are not those of the machine that asks.
    """
    params = NetworkParams.model_validate(fields)
    own = describe_way(params)
    if own != way:
        differing = [name for name in way if own.get(name) != way[name]]
        raise NetworkError(
            f"extract.executor dask: the worker {os.uname().nodename} computes in another way: wanted "
            f"{', '.join(f'{name} {way[name]}' for name in differing)}, got "
            f"{', '.join(str(own.get(name)) for name in differing)}; use workers of one kind and version"
        )
    with _building:  # the threads of a worker share one network
        extractor = _build_extractor(params.model_dump_json())
        images = list(map_ahead(extractor.read_image, contents, len(contents)))
        return extractor.compute_features(images), extractor.record.model_dump()


@functools.lru_cache(maxsize=1)
def _build_extractor(params: str) -> Extractor:
    return Extractor(NetworkParams.model_validate_json(params))
