"""Stage `prepare`: CIFAR-10 as arrays, from a folder or an archive of images or from keras.datasets.

The training images are cut into training and validation by the hash of each.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar10 import ARRAYS, CLASSES, N_IMAGES
from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError, RelearnError, SourceError
from relearn.images.decoding import decode_image
from relearn.runtime.backend import import_keras
from relearn.runtime.threads import map_ahead
from relearn.storage.files import hash_bytes, write_file
from settings import PrepareParams, read_settings


class LabeledImage(NamedTuple):
    """An image of CIFAR-10; `pixels` is uint8 of shape (32, 32, 3), `split` train or test."""

    split: str
    sha256: str
    label: str
    pixels: np.ndarray


def read_images(source: Path) -> Iterator[LabeledImage]:
    """Yield the images of a folder or an archive, in its order.

    Raises
    ------
    SourceError
        The source cannot be read, or an image has another size or place.
    """
    if not source.exists():
        raise SourceError(
            f"prepare.source: {source}: no such file or folder in {Path.cwd().name}/; put CIFAR-10 there as "
            "train/CLASS/N.jpg and test/CLASS/N.jpg, or set null in its params.yaml, and keras downloads it"
        )

    def list_files() -> Iterator[tuple[str, bytes]]:
        for file in iterate_source(source):
            if len(parts := file.path.split("/")) >= 3 and parts[-3] in N_IMAGES:
                if file.refusal:
                    raise SourceError(f"{source}: {file.path}: {file.refusal}")
                yield file.path, file.read()

    def decode(file: tuple[str, bytes]) -> LabeledImage:
        path, content = file
        split, label, _ = path.split("/")[-3:]
        try:
            pixels = np.asarray(decode_image(content).rgb)
        except ImageError as error:
            raise SourceError(f"{source}: {path}: {error}") from None
        if pixels.shape != (32, 32, 3) or label not in CLASSES:
            raise SourceError(
                f"{source}: {path}: wanted {split}/CLASS/NAME with 32 x 32 px and a class of {', '.join(CLASSES)}, got "
                f"{label} with {pixels.shape[1]} x {pixels.shape[0]} px; name CIFAR-10 in prepare.source"
            )
        return LabeledImage(split, hash_bytes(content), label, pixels)

    # An archive is read by one thread, in its order; all threads decode.
    return map_ahead(decode, list_files(), 256)


def download_images() -> Iterator[LabeledImage]:
    """Yield the images that keras downloads once.

    Raises
    ------
    SourceError
        They are not on this machine and cannot be downloaded.
    """
    keras = import_keras("float32")
    try:
        parts = keras.datasets.cifar10.load_data()
    except Exception as error:  # noqa: BLE001 (keras.utils.get_file raises no narrower one)
        raise SourceError(
            f"prepare.source: null: CIFAR-10 is not on this machine and cannot be downloaded ({error}); name a folder "
            "or an archive with train/CLASS/N.jpg and test/CLASS/N.jpg"
        ) from None
    for split, (images, labels) in zip(N_IMAGES, parts, strict=True):
        for pixels, label in zip(images, labels.ravel(), strict=True):
            yield LabeledImage(split, hash_bytes(pixels.tobytes()), CLASSES[label], pixels)


def split_images(
    images: Iterable[LabeledImage], validation_fraction: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pixels (images, 32, 32, 3) uint8 and class numbers (images,) int64 of each split, ordered by hash.

    Raises
    ------
    SourceError
        There are not as many images as in CIFAR-10.
    """
    ordered = sorted(images, key=lambda image: (image.sha256, image.label))
    for split, wanted in N_IMAGES.items():
        if (found := sum(image.split == split for image in ordered)) != wanted:
            raise SourceError(f"prepare.source: wanted {wanted:,} images in {split}/CLASS/, got {found:,}")
    limit = int(validation_fraction * 16**8)
    parts: dict[str, list[LabeledImage]] = {"training": [], "validation": [], "test": []}
    for image in ordered:
        held_out = "validation" if int(image.sha256[:8], 16) < limit else "training"
        parts["test" if image.split == "test" else held_out].append(image)
    return {
        split: (np.stack([image.pixels for image in part]), np.array([CLASSES.index(image.label) for image in part]))
        for split, part in parts.items()
    }


def prepare(params: PrepareParams) -> None:
    """Write `data/cifar10.npz` with the arrays SPLIT_pixels and SPLIT_labels of training, validation and test."""
    images = download_images() if params.source is None else read_images(Path(params.source))
    arrays: dict[str, np.ndarray] = {}
    for split, (pixels, labels) in split_images(images, params.validation_fraction).items():
        arrays |= {f"{split}_pixels": pixels, f"{split}_labels": labels}
        print(f"{split}: {len(labels):,} images")
    with write_file(ARRAYS) as file:
        np.savez(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    try:
        prepare(read_settings().prepare)
    except (RelearnError, OSError) as error:
        sys.exit(f"prepare: {error}")
