"""`relearn compare`: whether one revision's classifier is better than another's."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relearn import paths
from relearn.errors import ComparisonError
from relearn.evaluation.intervals import draw_resamples, find_percentiles
from relearn.evaluation.paired import Paired, compare_paired
from relearn.runtime.progress import track_progress
from relearn.runtime.text import escape_controls, escape_markdown, format_json
from relearn.stages.evaluate import QUIET_SECONDS, Judged, Metric, prepare_metrics

WORKSPACE = "workspace"
N_RESAMPLES = 2000
N_BINS = 15
SEED = 0
N_IMAGES_SHOWN = 10
MIN_WIDTH = 160

HEADER = ("path", "sha256", "label", "predicted")


# The sha256 of an image, and which of its copies it is.
Image = tuple[str, int]


class Predictions(NamedTuple):
    """What a revision's `reports/predictions.csv` says of each image."""

    classes: list[str]
    rows: dict[Image, list[str]]


class Difference(NamedTuple):
    """A metric of both revisions, and how much the second one's is larger, with its 95 % interval."""

    name: str
    first: float
    second: float
    difference: float
    low: float
    high: float


class Comparison(NamedTuple):
    """All that was found; `only_first` and `only_second` are the images that one alone got right, by path."""

    first: str
    second: str
    n_common: int
    n_only_in_first: int
    n_only_in_second: int
    differences: list[Difference]
    paired: Paired
    only_first: list[dict[str, str]]
    only_second: list[dict[str, str]]

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        paired = self.paired
        counts = (
            f"of {paired.n_images:,} images {paired.n_only_second} right in {self.second} alone, {paired.n_only_first} "
            f"in {self.first} alone; McNemar's exact test: p = {paired.p_value:.3g}"
        )
        match paired.verdict:
            case _ if all(d.difference == d.low == d.high == 0 for d in self.differences):
                sentence = f"{self.first} and {self.second} predict the same."
            case "no clear difference":
                sentence = f"No clear difference in accuracy between {self.first} and {self.second}: {counts}."
            case verdict:
                sentence = f"{self.second} is {verdict} than {self.first}: {counts}."
        clear: dict[str, list[str]] = {"better": [], "worse": []}
        for name, *_, low, high in self.differences:
            if name != "accuracy_score" and not low <= 0 <= high:
                clear["better" if (low > 0) == name.endswith("_score") else "worse"].append(name)
        for verdict, names in clear.items():
            if names:
                sentence += f" By their intervals clearly {verdict}: {', '.join(names)}."
        return sentence


def compare_revisions(first: str, second: str) -> Comparison:
    """Compare what two revisions predicted for the evaluation images that both have.

    Parameters
    ----------
    first, second
        What git calls a revision, or `workspace` for the files as they are.

    Raises
    ------
    ComparisonError
        A revision or its predictions are not there, they have no image in common, or give one another label.
    """
    return compare_predictions(first, second, read_predictions(first), read_predictions(second))


def compare_predictions(first: str, second: str, a: Predictions, b: Predictions) -> Comparison:
    """Compare two classifiers, whatever they are called, on the images that both have predicted.

    Raises
    ------
    ComparisonError
        There is no such image, or one has another label with the other.
    """
    common = sorted(a.rows.keys() & b.rows.keys(), key=lambda image: a.rows[image][0])
    if not common:
        raise ComparisonError(
            f"{paths.PREDICTIONS}: wanted evaluation images that {first} and {second} have in common, got none of "
            f"{len(a.rows):,} and {len(b.rows):,}: they are of different data"
        )
    for image in common:
        if a.rows[image][2] != b.rows[image][2]:
            raise ComparisonError(
                f"{a.rows[image][0]}: {first} has the label {a.rows[image][2]}, {second} {b.rows[image][2]}; what is "
                "right for one is wrong for the other"
            )
    right = [np.array([p.rows[image][2] == p.rows[image][3] for image in common]) for p in (a, b)]

    def list_images(mask: np.ndarray) -> list[dict[str, str]]:
        return [
            {
                "path": b.rows[image][0],
                "label": a.rows[image][2],
                "predicted_first": a.rows[image][3],
                "predicted_second": b.rows[image][3],
            }
            for image, chosen in zip(common, mask, strict=True)
            if chosen
        ]

    return Comparison(
        first,
        second,
        len(common),
        len(a.rows) - len(common),
        len(b.rows) - len(common),
        compute_differences(_judge(a, common), _judge(b, common)),
        compare_paired(*right),
        list_images(right[0] & ~right[1]),
        list_images(right[1] & ~right[0]),
    )


def read_predictions(revision: str) -> Predictions:
    """Read `reports/predictions.csv` of a revision.

    Raises
    ------
    ComparisonError
        There is none, or it is not what `evaluate` writes.
    """
    where = f"{paths.PREDICTIONS} of {revision}"
    try:
        header, *rows = list(csv.reader(io.StringIO(_read_text(revision)))) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ComparisonError(f"{where}: wanted CSV in UTF-8, got: {error}; run `dvc repro`") from None
    classes = [name.removeprefix("probability_") for name in header[len(HEADER) :]]
    if tuple(header[: len(HEADER)]) != HEADER or len(classes) < 2 or any(len(row) != len(header) for row in rows):
        raise ComparisonError(f"{where}: wanted rows of {', '.join(HEADER)} and probabilities; run `dvc repro`")
    for row in rows:
        if row[3] not in classes or not _are_probabilities(row[len(HEADER) :]):
            raise ComparisonError(
                f"{where}: {row[0]}: wanted one of {', '.join(classes)} and probabilities that sum to 1, got "
                f"{', '.join(row[3:])}; run `dvc repro`"
            )
    copies: Counter[str] = Counter()
    by_image = {}
    for row in rows:
        by_image[row[1], copies[row[1]]] = row
        copies[row[1]] += 1
    return Predictions(classes, by_image)


def _are_probabilities(cells: list[str]) -> bool:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return False
    return all(0 <= value <= 1 for value in values) and abs(sum(values) - 1) < 1e-3


def _read_text(revision: str) -> str:
    if not revision:
        raise ComparisonError("wanted a revision of git, or `workspace`, got an empty name")
    if escape_controls(revision) != revision:
        raise ComparisonError(f"wanted a revision of git, or `workspace`, got {revision!a}, which git allows for none")
    if revision == WORKSPACE:
        try:
            return Path(paths.PREDICTIONS).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ComparisonError(f"{paths.PREDICTIONS}: no such file; run `dvc repro`") from None
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        text: str = dvc.api.read(str(paths.PREDICTIONS), repo=".", rev=revision, encoding="utf-8")
    except (DvcException, SCMError, FileNotFoundError) as error:
        raise ComparisonError(
            f"{paths.PREDICTIONS} of {revision}: wanted a revision of git that has it, got: "
            f"{' '.join(str(error).split())}"
        ) from None
    return text


def _judge(predictions: Predictions, images: Sequence[Image]) -> Judged:
    rows = [predictions.rows[image] for image in images]
    classes = sorted({*predictions.classes, *(row[2] for row in rows)})
    column = {name: number for number, name in enumerate(classes)}
    probabilities = np.zeros((len(rows), len(classes)))
    probabilities[:, [column[name] for name in predictions.classes]] = [[float(p) for p in row[4:]] for row in rows]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    truth = np.array([column[row[2]] for row in rows])
    return Judged(classes, truth, np.array([column[row[3]] for row in rows]), probabilities)


def compute_differences(first: Judged, second: Judged) -> list[Difference]:
    """Compute each metric for both, and the percentiles of a paired bootstrap of the difference, stratified by class.

    Paired: each resample draws images, and takes both answers of each (Efron and Tibshirani 1993, chapter 8).
    """
    metrics, others = _prepare(first), _prepare(second)

    def compute_both(drawn: np.ndarray) -> np.ndarray:
        return np.stack([[compute(drawn) for compute in prepared.values()] for prepared in (metrics, others)])

    resamples = draw_resamples(first.truth, N_RESAMPLES, SEED)
    shown = track_progress(resamples, N_RESAMPLES, "compare", "resamples", count=len, quiet_seconds=QUIET_SECONDS)
    resampled = np.concatenate([np.diff(compute_both(drawn), axis=0)[0] for drawn in shown], axis=1)
    low, high = find_percentiles(resampled.T)
    found = compute_both(np.arange(len(first.truth))[np.newaxis])[:, :, 0].T
    return [
        Difference(name, float(a), float(b), float(b - a), float(low[number]), float(high[number]))
        for number, (name, (a, b)) in enumerate(zip(metrics, found, strict=True))
    ]


def _prepare(judged: Judged) -> dict[str, Metric]:
    right = judged.truth == judged.predicted
    return {"accuracy_score": lambda drawn: right[drawn].mean(axis=1), **prepare_metrics(judged, N_BINS)}


def describe_json(comparison: Comparison) -> str:
    """Return all of it as JSON."""
    paired = comparison.paired
    value: dict[str, Any] = comparison._asdict() | {
        "differences": [difference._asdict() for difference in comparison.differences],
        "paired": {**paired._asdict(), "verdict": paired.verdict},
        "sentence": comparison.sentence,
    }
    return format_json(value)


def describe_markdown(comparison: Comparison) -> str:
    """Return a table and the verdict as Markdown, in which names show as they are."""
    comparison = comparison._replace(first=escape_markdown(comparison.first), second=escape_markdown(comparison.second))
    lines = [
        f"| | {comparison.first} | {comparison.second} | difference | 95 % interval |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {' | '.join(row)} |" for row in _tabulate(comparison)]
    lines += ["", comparison.sentence]
    for title, images in _list_groups(comparison):
        lines += ["", f"{title}:", ""]
        lines += [f"- {escape_markdown(image['path'])}, {escape_markdown(image['label'])}" for image in images]
    return "\n".join([*lines, *_describe_rest(comparison)])


def print_table(comparison: Comparison) -> None:
    """Print a table and the verdict on the terminal."""
    from rich.console import Console
    from rich.table import Table

    comparison = comparison._replace(first=escape_controls(comparison.first), second=escape_controls(comparison.second))
    names = [re.sub(r"^([0-9a-f]{7})[0-9a-f]{33}$", r"\1", name) for name in (comparison.first, comparison.second)]
    table = Table("", *names, "difference", "95 % interval", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    for row in _tabulate(comparison):
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, MIN_WIDTH)  # rather a line too long than a number cut short
    console.print(table)
    print(comparison.sentence)
    for title, images in _list_groups(comparison):
        print(f"{title}:")
        for image in images[:N_IMAGES_SHOWN]:
            print(escape_controls(f"  {image['path']}: {image['label']}"))
        if len(images) > N_IMAGES_SHOWN:
            print(f"  and {len(images) - N_IMAGES_SHOWN} more; --json lists them")
    for line in _describe_rest(comparison):
        print(line)


def _tabulate(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (d.name, f"{d.first:.4f}", f"{d.second:.4f}", f"{d.difference:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}")
        for d in comparison.differences
    ]


def _list_groups(comparison: Comparison) -> list[tuple[str, list[dict[str, str]]]]:
    groups = [
        (f"Right in {comparison.first} alone", comparison.only_first),
        (f"Right in {comparison.second} alone", comparison.only_second),
    ]
    return [(title, images) for title, images in groups if images]


def _describe_rest(comparison: Comparison) -> list[str]:
    rests = ((comparison.first, comparison.n_only_in_first), (comparison.second, comparison.n_only_in_second))
    return [
        f"{n:,} evaluation images of {name} are not compared, for the other has not got them" for name, n in rests if n
    ]
