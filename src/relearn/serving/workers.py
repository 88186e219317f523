"""Images of many requests to probabilities: a few threads decode one image each and run the model on it.

Images do not share a run of the model: that gained nothing on the two cores where it was measured, and one image would
wait for others (`benchmarks/README.md`). While there are fewer images than threads, a run takes all cores.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from relearn.runtime.threads import Budget, count_threads
from relearn.serving.decoding import LARGE_BYTES, estimate_bytes
from relearn.serving.measurements import Measurements
from relearn.serving.served import ServedModel, count_workers
from relearn.serving.settings import MAX_DECODING_BYTES, MAX_WAITING_IMAGES


class WorkerPool:
    """The threads between requests and models.

    Parameters
    ----------
    max_pixels
        Of one image.
    """

    def __init__(self, measurements: Measurements, max_pixels: int) -> None:
        self._measurements = measurements
        self._max_pixels = max_pixels
        self._budget = Budget(MAX_DECODING_BYTES)
        self._n_workers = count_workers(count_threads())
        self._workers = ThreadPoolExecutor(self._n_workers, "worker")
        self._large_worker = ThreadPoolExecutor(1, "large images")
        self._n_waiting = 0

    @contextmanager
    def hold_places(self, n_images: int) -> Iterator[bool]:
        """Yield whether `n_images` more may wait now; their places are held until the block ends."""
        is_free = self._n_waiting + n_images <= MAX_WAITING_IMAGES
        n_held = n_images if is_free else 0
        self._n_waiting += n_held
        self._measurements.waiting.set(self._n_waiting)
        try:
            yield is_free
        finally:
            self._n_waiting -= n_held
            self._measurements.waiting.set(self._n_waiting)

    async def predict(self, model: ServedModel, content: bytes) -> np.ndarray:
        """Return the probabilities (classes,) of the bytes of an image file.

        Raises
        ------
        ImageError
            It cannot be read; the text is the reason.
        IntegrityError
            The model fails.
        """
        run = asyncio.get_running_loop().run_in_executor
        row = await run(self._workers, self._predict_unless_large, model, content)
        return await run(self._large_worker, self._predict, model, content) if row is None else row

    def _predict_unless_large(self, model: ServedModel, content: bytes) -> np.ndarray | None:
        """Return None for a large image, so that the others do not wait for it."""
        n_bytes = estimate_bytes(content, self._max_pixels)
        if n_bytes > LARGE_BYTES:
            return None
        self._budget.acquire(n_bytes)
        try:
            pixels = model.read_image(content, self._max_pixels)
        finally:
            self._budget.release(n_bytes)
        return self._predict_prepared(model, pixels)

    def _predict(self, model: ServedModel, content: bytes) -> np.ndarray:
        return self._predict_prepared(model, model.read_image(content, self._max_pixels))

    def _predict_prepared(self, model: ServedModel, pixels: np.ndarray) -> np.ndarray:
        # An estimate: places are given back when a client leaves, though the run that it waited for goes on.
        return model.predict_one(pixels, on_all_cores=self._n_waiting < self._n_workers)

    def close(self) -> None:
        """End the threads; nothing may be asked any more, and what the workers have is answered first."""
        self._workers.shutdown()
        self._large_worker.shutdown()
