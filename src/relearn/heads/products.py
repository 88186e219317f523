"""Products of all rows with weights, computed by several threads, with the same bits for any number of them.

Each product is cut into parts of fixed shapes, and sums have a fixed order; only who computes a part depends on the
threads. To hand a part to a thread takes about 0.1 ms, as long as a small part itself, so each thread gets several at
once, and where there is only one, no part is handed over.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import chain, pairwise
from typing import Protocol, Self, TypeVar

import numpy as np

from relearn.runtime.threads import count_threads

Part = TypeVar("Part")
Result = TypeVar("Result")

N_GROUPS = 16
BLOCK_BYTES = 1024 * 1024  # so that a block is still in a core's cache when its gradient is computed
CHUNK_ROWS = 256
STRIPE_COLUMNS = 256
N_TASKS = 2  # for each thread: if one is held up, another takes over

# Takes rows as a slice and their margins (rows, n_outputs), which it may overwrite; returns as many responses.
Respond = Callable[[slice, np.ndarray], np.ndarray]


class Workers:
    """The threads that compute parts."""

    def __init__(self) -> None:
        self._n_threads = count_threads()
        self._executor = ThreadPoolExecutor(self._n_threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()

    def map(self, function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Return `function(part)` of each, in order."""
        if self._n_threads == 1:
            return [function(part) for part in parts]
        n_parts = max(1, -(-len(parts) // (N_TASKS * self._n_threads)))
        tasks = [parts[first : first + n_parts] for first in range(0, len(parts), n_parts)]
        return list(chain.from_iterable(self._executor.map(lambda task: [function(part) for part in task], tasks)))


class Rows(Protocol):
    """The matrix X of all rows."""

    def multiply(self, weights: np.ndarray, offset: np.ndarray, respond: Respond) -> tuple[np.ndarray, np.ndarray]:
        """Return X' R and the sums of the columns of R, where R = respond(X weights + offset)."""


class HeldRows:
    """Rows in memory, of several responses each."""

    def __init__(self, rows: np.ndarray, n_outputs: int, workers: Workers) -> None:
        self._n_outputs = n_outputs
        self._rows, self._workers = rows, workers
        self._chunks = [slice(first, first + CHUNK_ROWS) for first in range(0, len(rows), CHUNK_ROWS)]
        self._stripes = [slice(first, first + STRIPE_COLUMNS) for first in range(0, rows.shape[1], STRIPE_COLUMNS)]

    def multiply(self, weights: np.ndarray, offset: np.ndarray, respond: Respond) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""
        rows = self._rows
        responses = np.empty((len(rows), self._n_outputs))
        product = np.empty((rows.shape[1], self._n_outputs))

        def _fill(chunk: slice) -> None:
            responses[chunk] = respond(chunk, rows[chunk] @ weights + offset)

        def _multiply(stripe: slice) -> None:
            product[stripe] = (responses.T @ rows[:, stripe]).T  # BLAS reads the long rows in order

        self._workers.map(_fill, self._chunks)
        self._workers.map(_multiply, self._stripes)
        return product, responses.sum(axis=0)


class BlockRows:
    """Rows in blocks, each read once a product: from the disk, or from memory for a single output."""

    def __init__(self, blocks: Sequence[np.ndarray], workers: Workers) -> None:
        self._blocks, self._workers = blocks, workers
        ends = np.cumsum([0, *(len(block) for block in blocks)])
        numbered = list(enumerate(slice(*pair) for pair in pairwise(ends)))
        self._groups = [numbered[g::N_GROUPS] for g in range(min(N_GROUPS, len(numbered)))]

    def multiply(self, weights: np.ndarray, offset: np.ndarray, respond: Respond) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""

        def _multiply_block(part: tuple[int, slice]) -> tuple[np.ndarray, np.ndarray]:
            number, rows = part
            block = np.asarray(self._blocks[number], np.float64)
            responses = respond(rows, block @ weights + offset)
            return block.T @ responses, responses.sum(axis=0)

        return _sum(self._workers.map(lambda group: _sum(map(_multiply_block, group)), self._groups))


def hold_in_blocks(rows: np.ndarray, workers: Workers) -> BlockRows:
    """Return rows of a single output in blocks that fit a core's cache."""
    blocks = np.array_split(rows, max(1, min(len(rows), -(-rows.nbytes // BLOCK_BYTES))))
    return BlockRows(blocks, workers)


def _sum(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return reduce(lambda one, other: (one[0] + other[0], one[1] + other[1]), parts)
