"""Images of many requests to probabilities: decoded in threads, and run through the model together, in one thread.

While the model is busy, what arrives waits, and runs together afterwards. An image that finds it idle runs at once,
unless others are being decoded just then: it waits for these, for a few milliseconds at most.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from relearn.errors import RelearnError
from relearn.inference.exported import ExportedModel
from relearn.runtime.threads import Budget, count_threads
from relearn.serving.decoding import LARGE_BYTES, estimate_bytes
from relearn.serving.measurements import Measurements
from relearn.serving.settings import MAX_DECODING_BYTES, MAX_DECODING_THREADS, MAX_WAITING_IMAGES

WAIT_SECONDS = 0.003


class _Decoded(NamedTuple):
    model: ExportedModel
    pixels: np.ndarray
    answer: "Future[np.ndarray]"


class Batcher:
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
        self._decoders = ThreadPoolExecutor(min(count_threads(), MAX_DECODING_THREADS), "decode")
        self._large_decoder = ThreadPoolExecutor(1, "decode large")
        self._n_waiting = self._n_decoding = 0
        self._queue: SimpleQueue[_Decoded | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run_batches, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether images are still answered."""
        return self._thread.is_alive()

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

    async def predict(self, model: ExportedModel, content: bytes) -> np.ndarray:
        """Return the probabilities (classes,) of the bytes of an image file.

        Raises
        ------
        ImageError
            It cannot be read; the text is the reason.
        IntegrityError
            The model fails.
        """
        self._n_decoding += 1
        try:
            run = asyncio.get_running_loop().run_in_executor
            pixels = await run(self._decoders, self._decode, model, content)
            if pixels is None:
                pixels = await run(self._large_decoder, model.read_image, content, self._max_pixels)
        finally:
            self._n_decoding -= 1
        answer: Future[np.ndarray] = Future()
        answer.set_running_or_notify_cancel()  # so that only the model's thread ends it
        self._queue.put(_Decoded(model, pixels, answer))
        return await asyncio.wrap_future(answer)

    def _decode(self, model: ExportedModel, content: bytes) -> np.ndarray | None:
        """Return the pixels; None of a large image, so that the others do not wait for it."""
        n_bytes = estimate_bytes(content, self._max_pixels)
        if n_bytes > LARGE_BYTES:
            return None
        self._budget.acquire(n_bytes)
        try:
            return model.read_image(content, self._max_pixels)
        finally:
            self._budget.release(n_bytes)

    def _run_batches(self) -> None:
        waiting = self._queue.get()
        while waiting is not None:
            batch, waiting = self._gather_batch(waiting)
            self._measurements.batches.observe(len(batch))
            try:
                rows = batch[0].model.predict_probabilities([image.pixels for image in batch])
            except (RelearnError, MemoryError) as error:
                for image in batch:
                    image.answer.set_exception(error)
            else:
                for image, row in zip(batch, rows, strict=True):
                    image.answer.set_result(row)
            waiting = waiting or self._queue.get()

    def _gather_batch(self, first: _Decoded) -> tuple[list[_Decoded], _Decoded | None]:
        """Return what runs together, all for one model, and the next image if it is for another model."""
        batch = [first]
        deadline = time.monotonic() + WAIT_SECONDS
        while len(batch) < first.model.batch_size:
            seconds = deadline - time.monotonic() if self._n_decoding else 0
            try:
                image = self._queue.get(seconds > 0, max(seconds, 0))
            except Empty:
                break
            if image is None:
                self._queue.put(None)
                break
            if image.model is not first.model:
                return batch, image
            batch.append(image)
        return batch, None

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        self._decoders.shutdown()
        self._large_decoder.shutdown()
        self._queue.put(None)
        self._thread.join()
