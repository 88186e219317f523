"""`relearn compare`: whether one revision's classifier is better than another's."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.errors import AbsentFile, ComparisonError, ParamsError, RepositoryError
from relearn.evaluation.comparison import Comparison, DifferingImage, compare_predictions
from relearn.evaluation.predictions import Predictions, parse_predictions, read_predictions
from relearn.params.pipeline import read_params
from relearn.repository.committed import read_committed
from relearn.repository.status import list_changes
from relearn.runtime.text import count_nouns, escape_controls, escape_markdown, format_json

WORKSPACE = "workspace"
N_IMAGES_SHOWN = 10
N_CHANGES = 5
MIN_WIDTH = 160


def compare_revisions(first: str, second: str) -> Comparison:
    """Compare what two revisions predicted for the evaluation images that both have.

    Parameters
    ----------
    first, second
        What git calls a revision, or `workspace` for the files as they are.

    Raises
    ------
    ComparisonError
        There is no such revision, they have no image in common, or an image has different labels.
    IntegrityError
        Predictions are missing or damaged.
    """
    a, b = read_revision(first), read_revision(second)
    comparison = compare_predictions(first, second, a, b, read_drawn_groups(a))
    return comparison._replace(caveat=describe_changes()) if WORKSPACE in (first, second) else comparison


def read_drawn_groups(predictions: Predictions) -> dict[str, str] | None:
    """Return the group of each image by its SHA-256, if `evaluate.resample` is groups; None if images are drawn.

    Raises
    ------
    IntegrityError
        `data/splits.csv` is missing or damaged.
    """
    with suppress(ParamsError):  # the command line has warned
        if read_params(paths.PARAMS).evaluate.resample == "groups":
            images = predictions.sha256
            return dict(zip(images, read_groups(paths.SPLITS, images) or images, strict=True))
    return None


def describe_changes() -> str:
    """Return in what the workspace differs from what its predictions were made with; empty if in nothing."""
    try:
        changes = list_changes(Path())
    except RepositoryError as error:
        return f"Whether the predictions of the workspace are up to date is not known: {error}."
    if not changes:
        return ""
    more = f" and {len(changes) - N_CHANGES:,} more" if changes[N_CHANGES:] else ""
    return (
        f"The predictions of the workspace were made before these changed: {', '.join(changes[:N_CHANGES])}{more}; "
        "`make repro` updates them."
    )


def read_revision(revision: str) -> Predictions:
    """Read `reports/predictions.csv` of a revision.

    Raises
    ------
    ComparisonError
        There is no such revision, or it has no such file.
    IntegrityError
        The file of the workspace is missing, or a file is damaged.
    """
    if revision == WORKSPACE:
        return read_predictions(paths.PREDICTIONS)
    where = f"{paths.PREDICTIONS} of {revision}"
    try:
        content = read_committed(Path(), revision, paths.PREDICTIONS)
    except AbsentFile as error:
        raise ComparisonError(
            where=where,
            wanted="a revision of git that has it",
            got=error,
            advice="name another; `git log` and `git tag` list them",
        ) from None
    return parse_predictions(content, where)


def describe_verdict(comparison: Comparison) -> str:
    """Return the verdict in a sentence: the interval of accuracy in the table decides; other metrics are named."""
    first, second, paired = comparison.first, comparison.second, comparison.paired
    accuracy, *others = comparison.differences
    if not (paired.n_only_first or paired.n_only_second) and all(d.low == d.high == 0 for d in others):
        return f"{first} and {second} predict the same."
    if comparison.verdict == "no clear difference":
        sentence = f"No clear difference in accuracy between {first} and {second}"
    else:
        sentence = f"{second} is {comparison.verdict} than {first} in accuracy"
    sentence += (
        f": of {count_nouns(paired.n_images, 'image')} {paired.n_only_second:,} right in {second} alone, "
        f"{paired.n_only_first:,} in {first} alone, {accuracy.difference:+.4f} (95 % interval {accuracy.low:+.4f} to "
        f"{accuracy.high:+.4f})"
    )
    clear: dict[str, list[str]] = {"better": [], "worse": []}
    for name, *_, low, high in others:
        if not low <= 0 <= high:
            clear["better" if (low > 0) == name.endswith("_score") else "worse"].append(name)
    for verdict, names in clear.items():
        if names:
            sentence += f"; {verdict} by a bootstrap interval of its own: {', '.join(names)}"
    return f"{sentence}."


def describe_json(comparison: Comparison) -> str:
    """Return all of it as JSON."""
    paired = comparison.paired
    value: dict[str, Any] = comparison._asdict() | {
        "differences": [difference._asdict() for difference in comparison.differences],
        "paired": {**paired._asdict(), "verdict": comparison.verdict},
        "sentence": describe_verdict(comparison),
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
    lines += ["", escape_markdown(comparison.caveat)] * bool(comparison.caveat)
    lines += ["", describe_verdict(comparison)]
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
    if comparison.caveat:
        print(escape_controls(comparison.caveat))
    print(describe_verdict(comparison))
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


def _list_groups(comparison: Comparison) -> list[tuple[str, list[DifferingImage]]]:
    groups = [
        (f"Right in {comparison.first} alone", comparison.only_first),
        (f"Right in {comparison.second} alone", comparison.only_second),
    ]
    return [(title, images) for title, images in groups if images]


def _describe_rest(comparison: Comparison) -> list[str]:
    rests = ((comparison.first, comparison.n_only_in_first), (comparison.second, comparison.n_only_in_second))
    drawn = [] if comparison.n_groups is None else [f"The intervals draw {comparison.n_groups:,} groups, not images."]
    if comparison.are_out_of_fold:
        drawn.append("Both in folds (evaluate.by): each image was predicted by a head that was not fitted on it.")
    if comparison.n_relabeled:
        images = count_nouns(comparison.n_relabeled, "image")
        drawn.append(f"Another label in {comparison.second}, which counts for both: {images}.")
    return drawn + [
        f"{count_nouns(n, 'evaluation image')} of {name} not compared: missing in the other" for name, n in rests if n
    ]
