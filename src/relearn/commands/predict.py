"""`relearn predict`: predictions as a table, JSON or CSV."""

import csv
import logging
import sys
from collections.abc import Sequence

from relearn.inference.addresses import show_name
from relearn.inference.answers import Answers
from relearn.runtime.text import escape_controls, format_json

log = logging.getLogger(__name__)

N_CLASSES_SHOWN = 3


def print_answers(result: Answers, form: str) -> None:
    """Print predictions on stdout as `table`, `json` or `csv`, and log the failures."""
    match form:
        case "json":
            print(format_json(_list_answers(result)))
        case "csv":  # exact for programs, safe on a terminal
            show = escape_controls if sys.stdout.isatty() else str
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(("path", "label", *(show(f"probability_{name}") for name in result.classes)))
            for answer in result.answers:
                writer.writerow((show(answer.path), show(answer.label), *(f"{p:.6f}" for p in answer.probabilities)))
        case _:
            _print_table(result)
    log_failures(result.failures)


def log_failures(failures: Sequence[tuple[str, str]]) -> None:
    """Log what cannot be read, each with the reason."""
    for path, reason in failures:
        log.error("%s: %s", show_name(path), escape_controls(reason))


def _list_answers(result: Answers) -> list[dict[str, object]]:
    return [
        {
            "path": answer.path,
            "label": answer.label,
            "probabilities": dict(zip(result.classes, answer.probabilities, strict=True)),
        }
        for answer in result.answers
    ]


def _print_table(result: Answers) -> None:
    """Print the label of each image, and the probabilities of the most probable classes."""
    classes = [escape_controls(name) for name in result.classes]
    answers = [a._replace(path=escape_controls(a.path), label=escape_controls(a.label)) for a in result.answers]
    width = max((len(answer.path) for answer in answers), default=0)
    label_width = max((len(name) for name in classes), default=0)
    for answer in answers:
        ranked = sorted(zip(classes, answer.probabilities, strict=True), key=lambda pair: -pair[1])
        shown = "  ".join(f"{name} {probability:.1%}" for name, probability in ranked[:N_CLASSES_SHOWN])
        print(f"{answer.path:{width}}  {answer.label:{label_width}}  {shown}")
