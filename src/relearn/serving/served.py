"""An exported model as many threads ask it, with one image each."""

import numpy as np

from relearn.inference.classifier import open_session
from relearn.inference.exported import ADVICE, ExportedModel
from relearn.serving.settings import MAX_WORKERS


def count_workers(n_threads: int) -> int:
    """Return how many images are decoded, or run through the model, at a time."""
    return min(n_threads, MAX_WORKERS)


class ServedModel(ExportedModel):
    """An exported model in two sessions of onnxruntime, of all threads and of few.

    While there are fewer images than workers, each run may use all threads. Else every worker has a run of its own, and
    shares with the others what threads are left: none, unless there are more threads than workers. Then one image takes
    longer and all of them together less, because they wait less for each other. Both sessions give the same bits.
    """

    def _open(self, content: bytes, n_threads: int) -> None:
        self._session = self._narrow_session = open_session(content, self._path, n_threads, ADVICE, spins=n_threads > 1)
        if n_threads > 1:
            n_narrow = n_threads - count_workers(n_threads) + 1  # with the worker itself
            self._narrow_session = open_session(content, self._path, n_narrow, ADVICE)

    def predict_one(self, pixels: np.ndarray, *, on_all_cores: bool) -> np.ndarray:
        """Return the probabilities (classes,) of an image from `read_image`.

        Raises
        ------
        IntegrityError
            The model fails, or returns no probabilities.
        """
        row: np.ndarray = self._run(self._session if on_all_cores else self._narrow_session, [pixels])[0]
        return row
