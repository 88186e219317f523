"""Which images are in the dataset, and in which split."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from relearn.dataset.inspections import Inspection
from relearn.dataset.manifest import COPY_KEPT, SPLITS, Exclusion
from relearn.dataset.source_files import N_NAMED
from relearn.params.data import Fractions, RestructureParams


class SourceImage(NamedTuple):
    """An image of the source that can be decoded."""

    path: str
    split: str | None
    label: str
    seen: Inspection


def choose_split(sha256: str, fractions: Fractions) -> str:
    """Return the split of an image by its content alone.

    The hash, read as a number in [0, 1), falls into evaluation, validation or training. So an image keeps its split
    whatever is added or removed, and its copies share it.
    """
    position = int(sha256[:13], 16) / 16**13  # 52 bits: exact in a float
    if position < fractions.evaluation:
        return "evaluation"
    if position < fractions.evaluation + fractions.validation:
        return "validation"
    return "training"


def split_images(images: Iterable[SourceImage], params: RestructureParams) -> tuple[list[SourceImage], list[Exclusion]]:
    """Return the images of the dataset, each with its split, and those that are excluded.

    1. Images of the same bytes under different labels are all excluded: one of the labels is wrong.
    2. If the source names no split, the content's hash decides (`choose_split`). If it names splits but no image is in
       validation, validation is cut from training in the same way.
    3. Images of the same bytes in several splits stay only in the last of training, validation, evaluation (unless
       `duplicates` is `keep`). Copies within one split stay.

    The result does not depend on the order of `images`.
    """
    copies: defaultdict[str, list[SourceImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        copies[image.seen.sha256].append(image)
    excluded = _remove_ambiguous(copies)
    has_validation = any(image.split == "validation" for group in copies.values() for image in group)
    from_training = Fractions(validation=params.fractions.validation, evaluation=0.0)
    kept: list[SourceImage] = []
    for sha256, group in copies.items():
        placed = []
        for image in group:
            split = image.split or choose_split(sha256, params.fractions)
            if image.split == "training" and not has_validation:
                split = choose_split(sha256, from_training)
            placed.append(image._replace(split=split))
        last = max(placed, key=lambda image: SPLITS.index(str(image.split)))
        for image in placed:
            if image.split == last.split or params.duplicates == "keep":
                kept.append(image)
            else:
                excluded.append(Exclusion(image.path, f"{COPY_KEPT}: {last.path}, kept in {last.split}"))
    return kept, excluded


def _remove_ambiguous(copies: dict[str, list[SourceImage]]) -> list[Exclusion]:
    """Remove the groups of the same bytes that have several labels, and return their exclusions."""
    excluded: list[Exclusion] = []
    for sha256, group in list(copies.items()):
        first = {image.label: image.path for image in reversed(group)}
        if len(first) > 1:
            names = ", ".join(f"{label} ({path})" for label, path in list(first.items())[: -N_NAMED - 1 : -1])
            excluded += [Exclusion(image.path, f"same bytes under different labels: {names}") for image in group]
            del copies[sha256]
    return excluded
