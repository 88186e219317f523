"""`relearn explain`: which places of an image speak for its class, in words and on a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn.commands.lines import print_lines
from relearn.commands.pictures import Card, Figure, write_pictures
from relearn.dataset.source_files import SourceFile
from relearn.errors import ImageError, ParamsError
from relearn.explanation.drawing import draw_explanation, draw_photo, draw_scale
from relearn.explanation.explainer import Explainer
from relearn.explanation.maps import Explanation
from relearn.inference.addresses import show_name
from relearn.inference.inputs import find_all_files, read_content
from relearn.networks.reading import group_items
from relearn.runtime.text import count_nouns, escape_controls

PICTURE_PX = 224
HOW_TO_READ = (
    "Orange places speak for the class, blue ones against it. The strongest color of each picture is its own, so "
    "colors of two pictures cannot be compared."
)
EXACT = (
    "A place counts by how far it differs from the average training image. What all places add, and what no place adds "
    "(the base), is the score of the class."
)
ESTIMATE = "This is an estimate: how far the probability falls if a part of the image is hidden."


class Explained(NamedTuple):
    """An image, its pixels as the network sees them, and why it has its class."""

    path: str
    pixels: np.ndarray
    explanation: Explanation


def explain_files(
    explainer: Explainer, files: Sequence[SourceFile], label: str | None, failures: list[tuple[str, str]]
) -> Iterator[Explained]:
    """Explain a class of the images in files, one batch of the network at a time.

    Parameters
    ----------
    label
        The class; None for the one that is predicted for each image.
    failures
        Gets a pair of the path and the reason for what cannot be read.
    """

    def _read() -> Iterator[tuple[str, np.ndarray]]:
        for file in files:
            try:
                pixels = explainer.prepare(read_content(file))
            except ImageError as error:
                failures.append((file.path, str(error)))
            else:
                yield file.path, pixels

    for group in group_items(_read(), explainer.batch_size):
        explanations = explainer.explain([pixels for _, pixels in group], [label] * len(group))
        for item, explanation in zip(group, explanations, strict=True):
            yield Explained(*item, explanation)


def print_explained(
    explainer: Explainer, inputs: Sequence[str], label: str | None, page: Path | None, *, is_online: bool
) -> list[tuple[str, str]]:
    """Print for each image that arguments name its path, its class with the probability, and where the evidence is.

    Parameters
    ----------
    inputs, is_online
        As in `Predictor.predict_files`.
    label
        The class; None for the one that is predicted for each image.
    page
        Where a page with the maps is written, if at all.

    Returns
    -------
    failures
        What cannot be read, each a pair of the path and the reason.

    Raises
    ------
    ParamsError
        The classifier has no such class.
    """
    if label is not None and label not in explainer.classes:
        wanted = f"one of {', '.join(explainer.classes)}"
        raise ParamsError(where="--label", wanted=wanted, got=escape_controls(label))
    files, failures = find_all_files(inputs, is_online=is_online)
    width = max((len(show_name(file.path)) for file in files), default=0)
    label_width = max(len(escape_controls(name)) for name in explainer.classes)
    cards, kinds = [], {}
    for explained in explain_files(explainer, files, label, failures):
        path, found = show_name(explained.path), explained.explanation
        shown = f"{escape_controls(found.label):{label_width}}  {found.probability:6.1%}"
        print_lines(f"{path:{width}}  {shown}  {escape_controls(found.text)}")
        if page:
            cards.append(draw_card(explained))
            kinds[found.is_exact] = EXACT if found.is_exact else ESTIMATE
    if page:
        title = f"What {count_nouns(len(cards), 'image')} {'was' if len(cards) == 1 else 'were'} judged by"
        write_pictures(page, title, [HOW_TO_READ, *kinds.values()], cards, legend=draw_scale())
        print_lines(f"{page}: {count_nouns(len(cards), 'map')}")
    return failures


def draw_card(explained: Explained) -> Card:
    """Draw an image as the network sees it, without and with its map."""
    path, pixels, found = explained
    photo = Figure(draw_photo(pixels, PICTURE_PX), "the image as the network sees it", [show_name(path)])
    painted = Figure(draw_explanation(pixels, found, PICTURE_PX), found.text, [_describe_score(found)])
    title = f"{found.label} {found.probability:.1%}"
    return Card(title, f"{found.text[:1].upper()}{found.text[1:]}.", [photo, painted])


def _describe_score(found: Explanation) -> str:
    if not found.is_exact:
        return f"log probability {found.score:.2f}"
    return f"score {found.score:.2f} = base {found.base:.2f} + places {found.grid.sum():.2f}"
