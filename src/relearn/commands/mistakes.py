"""`relearn mistakes`: the evaluation images that the classifier got wrong, on one page."""

from collections import Counter
from pathlib import Path

from relearn import paths
from relearn.evaluation.predictions import read_predictions
from relearn.explanation.drawing import draw_scale
from relearn.reporting.mistakes import draw, rank_mistakes, show_mistakes
from relearn.reporting.rendering import render_page
from relearn.runtime.text import escape_markdown
from relearn.storage.files import write_file

N_SHOWN = 48  # with their evidence and similar images
N_OTHERS = 500  # with a picture
N_KINDS_SHOWN = 10  # pairs of label and prediction


def write_mistakes(path: Path) -> int:
    """Write the page, which needs no other file, and return the number of mistakes.

    Raises
    ------
    IntegrityError
        There are no predictions, or they are damaged.
    """
    predictions = read_predictions(paths.PREDICTIONS)
    mistakes = rank_mistakes(predictions)
    kinds = Counter((mistake.label, mistake.predicted) for mistake in mistakes)
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    others = mistakes[N_SHOWN : N_SHOWN + N_OTHERS]
    page = render_page(
        "mistakes.html",
        n_mistakes=len(mistakes),
        n_images=len(predictions.paths),
        n_left=max(0, len(mistakes) - N_SHOWN - N_OTHERS),
        kinds=ranked[:N_KINDS_SHOWN],
        n_more=len(ranked[N_KINDS_SHOWN:]),
        shown=show_mistakes(predictions, mistakes[:N_SHOWN]),
        others=[(mistake, draw(mistake.path)) for mistake in others],
        scale=draw_scale(),
    )
    with write_file(path) as file:
        file.write(page)
    return len(mistakes)


def describe_markdown(n_shown: int) -> str:
    """Return the worst mistakes as Markdown, each with its picture and its evidence map in the text itself."""
    predictions = read_predictions(paths.PREDICTIONS)
    mistakes = rank_mistakes(predictions)
    found = f"{len(mistakes):,} of {len(predictions.paths):,} evaluated images are wrong"
    lines = [found + "; the worst:" * bool(mistakes), ""]
    for mistake, uri, evidence, _ in show_mistakes(predictions, mistakes[:n_shown]):
        path, predicted = escape_markdown(mistake.path), escape_markdown(mistake.predicted)
        text = f"{path}, predicted as {predicted} ({100 * mistake.confidence:.1f} %)"
        pictures = [f"![]({picture})" for picture in (uri, evidence.uri if evidence else "") if picture]
        text += f"; {escape_markdown(evidence.text)}" if evidence else ""
        lines += [" ".join([*pictures, text]), ""]
    return "\n".join(lines)
