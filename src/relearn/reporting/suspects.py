"""The page of labels to look at first, which writes the lines of `data/corrections.csv`."""

from collections.abc import Sequence
from typing import NamedTuple

from relearn.dataset.corrections import ACTIONS, Correction
from relearn.dataset.manifest import ManifestRow
from relearn.explanation.drawing import draw_scale
from relearn.features.neighbors import Neighbor
from relearn.reporting.mistakes import LARGE_PX, Evidence, draw, explain_images, find_pictured_neighbors, read_rows
from relearn.reporting.rendering import render_page

N_NEIGHBORS = 5


class Suspect(NamedTuple):
    """An image whose label is doubtful, and the class that is likelier.

    margin : the probability of the label minus that of the suggested class, -1 to 1
    p_wrong : the estimated probability that the label is wrong; None for an evaluation image
    """

    image: ManifestRow
    suggested: str
    margin: float
    p_label: float
    p_suggested: float
    p_wrong: float | None


class Card(NamedTuple):
    """A suspect with its picture, what speaks for the suggested class, and the most similar training images."""

    suspect: Suspect
    uri: str
    evidence: Evidence | None
    neighbors: list[tuple[Neighbor, str]]


def draw_suspects(
    classes: Sequence[str], suspects: Sequence[Suspect], evaluation: Sequence[Suspect], texts: Sequence[str]
) -> bytes:
    """Return the page; `texts` are paragraphs at its head.

    Raises
    ------
    IntegrityError
        The features are missing or damaged.
    """
    cards = draw_cards([*suspects, *evaluation])
    return render_page(
        "suspects.html",
        classes=classes,
        texts=texts,
        lists=[cards[: len(suspects)], cards[len(suspects) :]],
        columns=",".join(Correction._fields),
        actions=ACTIONS,
        scale=draw_scale(),
    )


def draw_cards(suspects: Sequence[Suspect]) -> list[Card]:
    """Return the suspects with what the page shows of each."""
    if not suspects:
        return []
    images = [suspect.image for suspect in suspects]
    hashes = [image.sha256 for image in images]
    features = read_rows(hashes)
    neighbors = find_pictured_neighbors(features, N_NEIGHBORS, hashes)
    names = [image.path for image in images]
    evidence = explain_images(names, [suspect.suggested for suspect in suspects], features)
    pictures = [draw(name, LARGE_PX) for name in names]
    return [Card(*parts) for parts in zip(suspects, pictures, evidence, neighbors, strict=True)]
