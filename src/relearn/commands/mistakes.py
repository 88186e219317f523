"""`relearn mistakes`: the evaluation images that the classifier got wrong, on one page."""

from pathlib import Path
from typing import NamedTuple

from relearn.commands.compare import WORKSPACE, read_predictions
from relearn.images.thumbnails import draw_picture
from relearn.runtime.text import escape_markdown
from relearn.storage.files import write_file

TEMPLATE = Path(__file__).with_name("mistakes.html")
N_SHOWN = 500


class Mistake(NamedTuple):
    """An image taken for another class, how sure the classifier was (0 to 1), and its picture as a data URI."""

    path: str
    label: str
    predicted: str
    sureness: float
    uri: str


def find_mistakes(n_shown: int = N_SHOWN) -> tuple[list[Mistake], int, int]:
    """Return the surest mistakes by `reports/predictions.csv`, and the numbers of all mistakes and of all images.

    Raises
    ------
    ComparisonError
        There are no predictions.
    """
    predictions = read_predictions(WORKSPACE)
    wrong = []
    for path, _, label, predicted, *probabilities in predictions.rows.values():
        if label != predicted:
            wrong.append((float(probabilities[predictions.classes.index(predicted)]), path, label, predicted))
    wrong.sort(key=lambda mistake: (-mistake[0], mistake[1]))
    shown = [Mistake(path, label, predicted, p, draw_picture(path)) for p, path, label, predicted in wrong[:n_shown]]
    return shown, len(wrong), len(predictions.rows)


def write_mistakes(path: Path) -> int:
    """Write the page, which needs nothing but itself, and return how many images are wrong."""
    from jinja2 import Environment, StrictUndefined

    shown, n_mistakes, n_images = find_mistakes()
    groups: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in shown:
        groups.setdefault((mistake.label, mistake.predicted), []).append(mistake)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        groups=sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])),
        n_mistakes=n_mistakes,
        n_images=n_images,
        n_shown=N_SHOWN,
    )
    with write_file(path) as file:
        file.write(page.encode())
    return n_mistakes


def describe_markdown(n_shown: int) -> str:
    """Return the surest mistakes as Markdown, each picture in the text itself."""
    shown, n_mistakes, n_images = find_mistakes(n_shown)
    lines = [f"{n_mistakes:,} of {n_images:,} evaluation images are wrong" + "; the surest:" * bool(shown), ""]
    for mistake in shown:
        path, predicted = escape_markdown(mistake.path), escape_markdown(mistake.predicted)
        text = f"{path}, taken for {predicted} ({100 * mistake.sureness:.1f} %)"
        lines += [f"![]({mistake.uri}) {text}" if mistake.uri else text, ""]
    return "\n".join(lines)
