"""`relearn views`: training images beside augmented views of them, on one page."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from relearn import paths
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.features.computation import read_content
from relearn.features.views import Views
from relearn.images.decoding import decode_image, resize_image
from relearn.images.thumbnails import encode_picture
from relearn.params.augmentation import AugmentParams
from relearn.params.networks import NetworkParams
from relearn.storage.files import write_file

TEMPLATE = Path(__file__).with_name("views.html")
N_VIEWS = 8


class Example(NamedTuple):
    """An image of the training split, and pictures of it and of its views as data URIs."""

    path: str
    label: str
    uris: list[str]


def choose_images(manifest: Sequence[ManifestRow], n_images: int) -> list[ManifestRow]:
    """Return training images, as many of each class as of the others as far as there are some."""
    by_class: dict[str, list[ManifestRow]] = {}
    for row in manifest:
        if row.split == "training":
            by_class.setdefault(row.label, []).append(row)
    rounds = zip_longest(*(by_class[label] for label in sorted(by_class)))
    return [row for row in chain.from_iterable(rounds) if row is not None][:n_images]


def draw_example(row: ManifestRow, params: NetworkParams, views: Views) -> Example:
    """Draw an image and its views as the network sees them.

    Raises
    ------
    IntegrityError
        The image is missing or differs from the manifest.
    ImageError
        It cannot be read.
    """
    rgb = decode_image(read_content(row), params.image_size_px if params.jpeg_draft else None).rgb
    prepared = resize_image(rgb, params.image_size_px, params.resize_filter)
    pictures = [Image.fromarray(item.draw(prepared)) for item in views.list_inputs(row)]
    return Example(row.path, row.label, list(map(encode_picture, pictures)))


def write_views(path: Path, params: NetworkParams, augment: AugmentParams, n_images: int) -> int:
    """Write the page, which needs no other file, and return the number of images on it.

    Raises
    ------
    ParamsError
        All of `augment` is off.
    """
    from jinja2 import Environment, StrictUndefined

    views = Views(N_VIEWS, augment)
    views.check()
    examples = [draw_example(row, params, views) for row in choose_images(read_manifest(paths.MANIFEST), n_images)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        examples=examples,
        n_views=N_VIEWS,
        augment=augment.model_dump(),
        size=params.image_size_px,
    )
    with write_file(path) as file:
        file.write(page.encode())
    return len(examples)
