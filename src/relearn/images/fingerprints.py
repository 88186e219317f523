"""Perceptual hashes, which find altered copies of an image, and its contrast."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from relearn.errors import IntegrityError
from relearn.storage.files import write_file

# The parts of an image that a crop of 5 % can leave: left, top, right, bottom, as fractions. The first is the whole.
# The set is its own mirror image.
_CUT = 0.05
WINDOWS = (
    (0, 0, 1, 1),
    (_CUT / 2, _CUT / 2, 1 - _CUT / 2, 1 - _CUT / 2), (_CUT, _CUT, 1 - _CUT, 1 - _CUT),
    (0, 0, 1 - _CUT, 1 - _CUT), (_CUT, 0, 1, 1 - _CUT), (0, _CUT, 1 - _CUT, 1), (_CUT, _CUT, 1, 1),
    (_CUT, 0, 1, 1), (0, 0, 1 - _CUT, 1), (0, _CUT, 1, 1), (0, 0, 1, 1 - _CUT),
)  # fmt: skip

N_HASHES = len(WINDOWS) + 1  # and the mirrored whole
HASH_TERMS = 16  # per side
HASH_BYTES = HASH_TERMS**2 // 8

THUMBNAIL_PX = 64
MIN_SIDE_PX = 16  # smaller images show too little to tell a copy from another image
MIN_CONTRAST = 1.0  # below it the hash would be one of noise


WRITE_AGAIN = "run `dvc repro --force restructure`"


class Fingerprint(NamedTuple):
    """`contrast` is the standard deviation of brightness, 0 to 127.5; `hashes` are as `compute_hashes` returns them."""

    contrast: float
    hashes: bytes


def compute_fingerprint(rgb: Image.Image) -> Fingerprint:
    """Return the fingerprint of an upright RGB image; without hashes if it is too small or too uniform for them."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    thumbnail = rgb.convert("L").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    contrast = round(float(np.asarray(thumbnail).std()), 3)
    has_hashes = min(rgb.size) >= MIN_SIDE_PX and contrast >= MIN_CONTRAST
    return Fingerprint(contrast, compute_hashes(thumbnail).tobytes() if has_hashes else b"")


def compute_hashes(thumbnail: Image.Image) -> np.ndarray:
    """Return the perceptual hashes of a gray thumbnail's windows, and of the mirrored whole.

    Each is ImageHash's `phash`: which of the 16x16 lowest terms of a discrete cosine transform exceed their median.
    The hash of the whole does not survive a crop of 5 %, but the whole of the crop is near a window of its original.

    Returns
    -------
    ndarray of shape (N_HASHES, HASH_BYTES), uint8
        In the order of `WINDOWS`, then the mirrored whole. A row of terms is two bytes, the lowest term first.
    """
    import imagehash

    def _crop(window: tuple[float, float, float, float]) -> Image.Image:
        left, top, right, bottom = (fraction * THUMBNAIL_PX for fraction in window)
        return thumbnail.resize(thumbnail.size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))

    parts = [_crop(window) for window in WINDOWS]
    parts.append(thumbnail.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return np.array([np.packbits(imagehash.phash(part, hash_size=HASH_TERMS).hash) for part in parts])


def write_hashes(path: Path, n_images: int, hashes: Iterable[bytes]) -> None:
    """Write the hashes of images as `.npy`, one row per image, all zero if it has none."""
    shape = (n_images, N_HASHES, HASH_BYTES)
    with write_file(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for content in hashes:
            file.write(content or bytes(N_HASHES * HASH_BYTES))


def read_hashes(path: Path) -> np.ndarray:
    """Map what `write_hashes` wrote into memory: uint8 of shape (images, N_HASHES, HASH_BYTES).

    Raises
    ------
    IntegrityError
        The file is missing, or holds something else.
    """
    try:
        hashes: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise IntegrityError("no such file", where=path, advice="run `dvc repro restructure`") from None
    except (ValueError, EOFError) as error:
        raise IntegrityError(where=path, wanted="an array", got=error, advice=WRITE_AGAIN) from None
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (N_HASHES, HASH_BYTES):
        wanted, got = f"uint8 of shape (images, {N_HASHES}, {HASH_BYTES})", f"{hashes.dtype} of {hashes.shape}"
        raise IntegrityError(where=path, wanted=wanted, got=got, advice=WRITE_AGAIN)
    return hashes
