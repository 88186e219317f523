"""`relearn explain`: which places of an image speak for its class, in words and on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn.commands.pictures import Card, Figure, write_pictures
from relearn.errors import ImageError, ParamsError
from relearn.explanation.drawing import draw_explanation, draw_photo, draw_scale
from relearn.explanation.explainer import Explainer
from relearn.explanation.maps import Explanation
from relearn.inference.inputs import find_files, read_content
from relearn.runtime.text import count_nouns, escape_controls

PICTURE_PX = 224
HOW_TO_READ = (
    "Orange places speak for the class, blue ones against it, compared with the average training image. The strongest "
    "color of each picture is its own, so colors of two pictures cannot be compared.",
)
EXACT = "What all places add, and what no place adds (the base), is the score of the class."
ESTIMATE = "This is an estimate: how far the probability falls if a part of the image is hidden."


class Explained(NamedTuple):
    """An image, its pixels as the network sees them, and why it has its class."""

    path: str
    pixels: np.ndarray
    explanation: Explanation


def explain_files(
    explainer: Explainer, inputs: Sequence[str], label: str | None = None, *, is_online: bool = False
) -> tuple[list[Explained], list[tuple[str, str]]]:
    """Explain a class of the images that arguments name, as in `Predictor.predict_files`.

    Parameters
    ----------
    label
        The class; by default the one that is predicted for each image.

    Returns
    -------
    explained, failures
        What cannot be read is a pair of its path and the reason.

    Raises
    ------
    ParamsError
        The classifier has no such class.
    """
    if label is not None and label not in explainer.classes:
        wanted = f"one of {', '.join(explainer.classes)}"
        raise ParamsError(where="--label", wanted=wanted, got=escape_controls(label))
    pixels: dict[str, np.ndarray] = {}
    failures = []
    for name in inputs:
        files = find_files(name, is_online=is_online)
        if not files:
            failures.append((name, "no such file, or none in that folder"))
        for file in files:
            try:
                pixels[file.path] = explainer.prepare(read_content(file))
            except ImageError as error:
                failures.append((file.path, error.args[0]))
    explanations = explainer.explain(list(pixels.values()), [label] * len(pixels))
    return [Explained(*item, e) for item, e in zip(pixels.items(), explanations, strict=True)], failures


def describe_explained(explained: Sequence[Explained]) -> list[str]:
    """Return a line for each image: its path, its class with the probability, and where the evidence is."""
    width = max((len(item.path) for item in explained), default=0)
    label_width = max((len(item.explanation.label) for item in explained), default=0)
    return [
        f"{path:{width}}  {found.label:{label_width}}  {found.probability:6.1%}  {found.text}"
        for path, _, found in explained
    ]


def write_explained(path: Path, explained: Sequence[Explained]) -> None:
    """Write the page: each image as the network sees it, without and with its map."""
    cards = []
    for name, pixels, found in explained:
        title = f"{found.label} {found.probability:.1%}"
        photo = Figure(draw_photo(pixels, PICTURE_PX), "the image as the network sees it", [name])
        painted = Figure(draw_explanation(pixels, found, PICTURE_PX), found.text, [_describe_score(found)])
        cards.append(Card(title, f"{found.text[:1].upper()}{found.text[1:]}.", [photo, painted]))
    kinds = {found.is_exact: EXACT if found.is_exact else ESTIMATE for _, _, found in explained}
    title = f"What {count_nouns(len(explained), 'image')} {'was' if len(explained) == 1 else 'were'} judged by"
    write_pictures(path, title, [*HOW_TO_READ, *kinds.values()], cards, legend=draw_scale())


def _describe_score(found: Explanation) -> str:
    if not found.is_exact:
        return f"log probability {found.score:.2f}"
    return f"score {found.score:.2f} = base {found.base:.2f} + places {found.grid.sum():.2f}"
