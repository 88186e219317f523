"""`relearn mistakes`: the evaluation images that the classifier got wrong, on one page."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from relearn import paths
from relearn.evaluation.predictions import read_predictions
from relearn.explanation.drawing import draw_scale
from relearn.reporting.mistakes import Mistake, Shown, draw, rank_mistakes, show_mistakes
from relearn.reporting.rendering import render_page
from relearn.runtime.text import escape_markdown
from relearn.storage.files import write_file

N_SHOWN = 48  # with their evidence and similar images
N_OTHERS = 500  # with a picture
N_KINDS_SHOWN = 10  # pairs of label and prediction


class Found(NamedTuple):
    """All mistakes of the last evaluation, the worst first, and the first `N_SHOWN` with what explains them."""

    mistakes: list[Mistake]
    n_images: int
    shown: list[Shown]


def find_mistakes() -> Found:
    """Find the mistakes of `reports/predictions.csv`.

    Raises
    ------
    IntegrityError
        There are no predictions, or they or the features are damaged.
    """
    predictions = read_predictions(paths.PREDICTIONS)
    mistakes = rank_mistakes(predictions)
    return Found(mistakes, len(predictions.paths), show_mistakes(predictions, mistakes[:N_SHOWN]))


def write_mistakes(path: Path, found: Found) -> None:
    """Write the page, which needs no other file."""
    kinds = Counter((mistake.label, mistake.predicted) for mistake in found.mistakes)
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    others = found.mistakes[N_SHOWN : N_SHOWN + N_OTHERS]
    page = render_page(
        "mistakes.html",
        n_mistakes=len(found.mistakes),
        n_images=found.n_images,
        n_left=max(0, len(found.mistakes) - N_SHOWN - N_OTHERS),
        kinds=ranked[:N_KINDS_SHOWN],
        n_more=len(ranked[N_KINDS_SHOWN:]),
        shown=found.shown,
        others=[(mistake, draw(mistake.path)) for mistake in others],
        scale=draw_scale(),
    )
    with write_file(path) as file:
        file.write(page)


def describe_markdown(found: Found, n_shown: int, *, has_pictures: bool = True) -> str:
    """Return the worst mistakes as Markdown, each with its picture and its evidence map in the text itself.

    Without pictures it can be read on a terminal; their text would fill hundreds of lines.
    """
    count = f"{len(found.mistakes):,} of {found.n_images:,} evaluated images are wrong"
    lines = [count + "; the worst:" * bool(found.mistakes), ""]
    for mistake, uri, evidence, _ in found.shown[:n_shown]:
        path, predicted = escape_markdown(mistake.path), escape_markdown(mistake.predicted)
        text = f"{path}, predicted as {predicted} ({100 * mistake.confidence:.1f} %)"
        uris = (uri, evidence.uri if evidence else "") if has_pictures else ()
        pictures = [f"![]({picture})" for picture in uris if picture]
        text += f"; {escape_markdown(evidence.text)}" if evidence else ""
        lines += [" ".join([*pictures, text]), ""]
    return "\n".join(lines)
