"""An exported model as many threads ask it, with one image each."""

import numpy as np

from relearn.inference.classifier import open_session
from relearn.inference.exported import ADVICE, ExportedModel
from relearn.runtime.threads import count_threads
from relearn.serving.settings import MAX_WORKERS


def count_workers() -> int:
    """Return how many images are decoded, or run through the model, at a time."""
    return min(count_threads(), MAX_WORKERS)


class ServedModel(ExportedModel):
    """An exported model in two sessions of onnxruntime.

    An image that leaves cores unused runs on all of them. With as many images as there are workers each runs on its own
    core, where nothing waits for another thread: one image takes longer, and all of them together less. Both ways give
    the same bits.
    """

    def _open(self, content: bytes, n_threads: int) -> None:
        self._session = self._narrow_session = open_session(content, self._path, n_threads, ADVICE, spins=True)
        if n_threads > 1:
            # All images share the threads of a session, beside the one that each of them has.
            n_shared = n_threads - count_workers() + 1
            self._narrow_session = open_session(content, self._path, n_shared, ADVICE)

    def predict_one(self, pixels: np.ndarray, *, is_alone: bool) -> np.ndarray:
        """Return the probabilities (classes,) of an image from `read_image`; `is_alone` if cores are unused.

        Raises
        ------
        IntegrityError
            The model fails, or returns no probabilities.
        """
        row: np.ndarray = self._run(self._session if is_alone else self._narrow_session, [pixels])[0]
        return row
