"""Which rows of features an image has: its own and, for a training image, those of its augmented views."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from relearn.dataset.manifest import ManifestRow
from relearn.errors import ParamsError
from relearn.networks.augmentation import augment_image
from relearn.params.augmentation import AugmentParams
from relearn.storage.files import hash_bytes


class Input(NamedTuple):
    """What a row of features is computed from: an image, or, with a number above 0, that view of it."""

    row: ManifestRow
    number: int = 0
    augment: AugmentParams | None = None

    @property
    def key(self) -> str:
        """The name of its features in the store, as hexadecimal digits: more of them if it is a view."""
        return self.row.sha256 if self.augment is None else self.row.sha256 + _hash_view(self.augment, self.number)

    def draw(self, prepared: np.ndarray) -> np.ndarray:
        """Return the pixels that go through the network, from those of the image: uint8 of one shape."""
        if self.augment is None:
            return prepared
        return np.asarray(augment_image(Image.fromarray(prepared), self.augment, self.row.sha256, self.number))


class Views(NamedTuple):
    """How many augmented views each training image has, and how they are made."""

    n_views: int = 0
    augment: AugmentParams | None = None

    def check(self) -> None:
        """Raise `ParamsError` if every view would be the image itself."""
        if self.n_views and (self.augment is None or self.augment.is_off):
            raise ParamsError(
                where="augment",
                wanted=f"at least one option that is on, for {self.n_views} views of each training image",
                got="none",
                advice="turn something on, such as augment.horizontal_flip: 0.5, or set extract.views to 0",
            )

    def list_inputs(self, row: ManifestRow) -> list[Input]:
        """Return an image and, if it is in the training split, its views."""
        n_views = self.n_views if row.split == "training" else 0
        return [Input(row), *(Input(row, number, self.augment) for number in range(1, n_views + 1))]

    def list_keys(self, row: ManifestRow) -> list[str]:
        """Return the keys of `list_inputs`."""
        return [item.key for item in self.list_inputs(row)]

    def collect_inputs(self, manifest: Sequence[ManifestRow]) -> dict[str, Input]:
        """Return all inputs by their keys; those of one image follow each other."""
        return {item.key: item for row in manifest for item in self.list_inputs(row)}


NO_VIEWS = Views()


@lru_cache(maxsize=4096)
def _hash_view(augment: AugmentParams, number: int) -> str:
    return hash_bytes(f"{number} {augment.model_dump_json()}".encode())[:32]
