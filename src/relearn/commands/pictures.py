"""A page of pictures that needs no other file: a card for each image that was asked about."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from relearn.storage.files import write_file

TEMPLATE = Path(__file__).with_name("pictures.html")


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
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        texts=texts,
        cards=cards,
        legend=Markup(legend),  # noqa: S704
    )
    with write_file(path) as file:
        file.write(page.encode())
