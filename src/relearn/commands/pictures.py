"""A page of pictures that needs no other file: a card for each image that was asked about."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from relearn.reporting.rendering import render_page
from relearn.storage.files import write_file


class Figure(NamedTuple):
    """A picture as a data URI, what a screen reader says in its place, and the lines below it."""

    uri: str
    alt: str
    lines: Sequence[str]


class Card(NamedTuple):
    """An image that was asked about: what is said about it, and its pictures."""

    title: str
    text: str
    figures: Sequence[Figure]


def write_pictures(path: Path, title: str, texts: Sequence[str], cards: Sequence[Card], *, legend: str = "") -> None:
    """Write the page.

    Parameters
    ----------
    texts
        Paragraphs below the title.
    legend
        Markup that is trusted.
    """
    page = render_page("pictures.html", title=title, texts=texts, cards=cards, legend=legend)
    with write_file(path) as file:
        file.write(page)
