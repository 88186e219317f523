"""From the bytes of image files to a batch as a network takes it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from relearn.images.decoding import decode_image, resize_image
from relearn.params.networks import NetworkParams
from relearn.runtime.threads import Item


def group_items(items: Iterable[Item], n_items: int) -> Iterator[list[Item]]:
    """Yield items in lists of `n_items`, the last of which may be shorter."""
    arriving = iter(items)
    while group := list(islice(arriving, n_items)):
        yield group


class ImageReader:
    """Reads images as a network was trained to see them.

    Parameters
    ----------
    preprocess
        The network's: float32 (images, height, width, 3), 0 to 255, to what its first layer takes.
    """

    def __init__(self, params: NetworkParams, preprocess: Callable[[np.ndarray], np.ndarray]) -> None:
        self._params = params
        self._preprocess = preprocess
        self.batch_size = params.batch_size

    def prepare_image(self, rgb: Image.Image) -> np.ndarray:
        """Resize an upright RGB image to the network's input: uint8 of shape (image_size_px, image_size_px, 3)."""
        return resize_image(rgb, self._params.image_size_px, self._params.resize_filter)

    def read_image(self, content: bytes) -> np.ndarray:
        """Decode the bytes of an image file for the network: uint8 of shape (image_size_px, image_size_px, 3)."""
        min_px = self._params.image_size_px if self._params.jpeg_draft else None
        return self.prepare_image(decode_image(content, min_px).rgb)

    def stack_images(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        """Return prepared images as a batch, filled up with black ones to `batch_size`, and how many they are."""
        size = self._params.image_size_px
        # For a whole batch keras would return a view with reversed channels, which the thread that runs the network
        # would have to copy before each batch.
        batch = np.empty((self.batch_size, size, size, 3), np.float32)
        for row, image in zip(batch[: len(images)], images, strict=True):
            row[...] = self._preprocess(image.astype(np.float32))
        if len(images) < self.batch_size:
            batch[len(images) :] = self._preprocess(np.zeros((1, size, size, 3), np.float32))
        return batch, len(images)
