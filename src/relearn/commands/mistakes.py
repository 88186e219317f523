"""`relearn mistakes`: the evaluation images that the classifier got wrong, on one page."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from relearn import paths
from relearn.evaluation.predictions import read_predictions
from relearn.images.thumbnails import draw_picture
from relearn.runtime.text import escape_markdown
from relearn.storage.files import write_file

TEMPLATE = Path(__file__).with_name("mistakes.html")
N_SHOWN = 500
N_KINDS_SHOWN = 10  # pairs of label and prediction


class Mistake(NamedTuple):
    """An image that was predicted wrong, the probability of the predicted class, and its picture as a data URI."""

    path: str
    label: str
    predicted: str
    confidence: float
    uri: str


def find_mistakes(n_shown: int = N_SHOWN) -> tuple[list[Mistake], int, int]:
    """Return the most confident mistakes of `reports/predictions.csv`, and the numbers of all mistakes and images.

    Raises
    ------
    IntegrityError
        There are no predictions, or they are damaged.
    """
    predictions = read_predictions(paths.PREDICTIONS)
    wrong = []
    for row, is_right in enumerate(predictions.right):
        if not is_right:
            predicted = predictions.predicted[row]
            confidence = float(predictions.probabilities[row, predictions.classes.index(predicted)])
            wrong.append((confidence, predictions.paths[row], predictions.labels[row], predicted))
    wrong.sort(key=lambda mistake: (-mistake[0], mistake[1]))
    shown = [Mistake(path, label, predicted, p, draw_picture(path)) for p, path, label, predicted in wrong[:n_shown]]
    return shown, len(wrong), len(predictions.paths)


def write_mistakes(path: Path) -> int:
    """Write the page, which needs no other file, and return the number of mistakes."""
    from jinja2 import Environment, StrictUndefined

    shown, n_mistakes, n_images = find_mistakes()
    kinds = Counter((mistake.label, mistake.predicted) for mistake in shown)
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        mistakes=shown,
        kinds=ranked[:N_KINDS_SHOWN],
        n_more=len(ranked[N_KINDS_SHOWN:]),
        n_mistakes=n_mistakes,
        n_images=n_images,
        n_shown=N_SHOWN,
    )
    with write_file(path) as file:
        file.write(page.encode())
    return n_mistakes


def describe_markdown(n_shown: int) -> str:
    """Return the most confident mistakes as Markdown, each picture in the text itself."""
    shown, n_mistakes, n_images = find_mistakes(n_shown)
    lines = [f"{n_mistakes:,} of {n_images:,} evaluation images are wrong" + "; the most confident:" * bool(shown), ""]
    for mistake in shown:
        path, predicted = escape_markdown(mistake.path), escape_markdown(mistake.predicted)
        text = f"{path}, predicted as {predicted} ({100 * mistake.confidence:.1f} %)"
        lines += [f"![]({mistake.uri}) {text}" if mistake.uri else text, ""]
    return "\n".join(lines)
