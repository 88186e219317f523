"""`reports/evaluation.html`: how good the classifier is, where it is wrong, and why, on one page that loads nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from relearn import paths
from relearn.evaluation.intervals import compute_wilson_interval
from relearn.evaluation.metrics import (
    Judged,
    Measured,
    bin_confidences,
    compute_curves,
    compute_value,
    prepare_metrics,
    score_classes,
)
from relearn.evaluation.predictions import Predictions
from relearn.explanation.drawing import draw_scale
from relearn.inference.classifier import ClassifierRecord
from relearn.params.pipeline import EvaluateParams
from relearn.reporting import charts
from relearn.reporting.image_map import draw_sprite, map_images
from relearn.reporting.mistakes import Mistake, draw, iterate_features, rank_mistakes, show_mistakes
from relearn.reporting.rendering import render_page
from relearn.storage.files import read_csv

N_PICTURED = 200  # more mistakes, with a picture each
N_LISTED = 2000  # more mistakes, by their paths
N_UNSURE = 3  # images of each class that are right, but with the least confidence
MAX_MATRIX_CLASSES = 20  # with more, pairs of classes are listed instead
N_PAIRS = 50
MAX_CURVE_POINTS = 300


class Bar(NamedTuple):
    """A metric: its value, its interval and its baseline, and where they lie on a track, in percent."""

    name: str
    value: float
    low: float
    high: float
    baseline: float
    places: tuple[float, float, float, float]
    is_better_high: bool


class ClassRow(NamedTuple):
    """A class: scores from 0 to 1, and the 95 % interval of the recall."""

    label: str
    n_images: int
    recall: float
    low: float
    high: float
    precision: float
    f1: float


class Pair(NamedTuple):
    """Images of a class that were predicted as a class: some with a picture, some by their paths, `n_left` in neither.

    Of those that are right only a few are shown, and `n_left` is 0.
    """

    label: str
    predicted: str
    n_images: int
    pictured: list[tuple[str, str]]
    listed: list[str]
    n_left: int


def draw_evaluation(
    predictions: Predictions, judged: Judged, measured: Measured, record: ClassifierRecord, params: EvaluateParams
) -> bytes:
    """Return the page.

    Parameters
    ----------
    predictions, judged
        Of the evaluated images, in the order of the manifest.
    """
    mistakes = rank_mistakes(predictions)
    return render_page(
        "evaluation.html",
        judged=judged,
        measured=measured,
        bars=draw_bars(judged, measured, params.n_bins),
        baseline_class=judged.classes[int(np.bincount(judged.labels).argmax())],
        n_mistakes=len(mistakes),
        shown=show_mistakes(predictions, mistakes[: params.n_explained]),
        matrix=draw_matrix(judged) if len(judged.classes) <= MAX_MATRIX_CLASSES else None,
        pairs=draw_pairs(predictions, mistakes),
        classes=rank_classes(judged),
        charts=draw_charts(judged),
        scale=draw_scale(),
        image_map=draw_map(predictions),
        record=record,
        params=params,
    )


def draw_bars(judged: Judged, measured: Measured, n_bins: int) -> list[Bar]:
    """Return the headline metrics beside those of always answering with the shares of the classes."""
    shares = np.bincount(judged.labels, minlength=len(judged.classes)) / len(judged.labels)
    probabilities = np.tile(shares, (len(judged.labels), 1))
    constant = judged._replace(predicted=probabilities.argmax(axis=1), probabilities=probabilities)
    baselines = {name: compute_value(metric, constant) for name, metric in prepare_metrics(constant, n_bins).items()}
    baselines["accuracy_score"] = measured.metrics["majority_baseline_score"]
    bars = []
    for name, (low, high) in measured.intervals.items():
        value, baseline = measured.metrics[name], baselines[name]
        is_better_high = name.endswith("_score")
        longest = max(high, baseline, 1e-9) if name.endswith("_loss") else 1.0
        low_place, value_place, high_place, baseline_place = (
            round(100 * number / longest, 2) for number in (low, value, high, baseline)
        )
        text = name.removesuffix("_score").replace("_", " ")
        places = (low_place, high_place - low_place, value_place, baseline_place)
        bars.append(Bar(text, value, low, high, baseline, places, is_better_high))
    return bars


def rank_classes(judged: Judged) -> list[ClassRow]:
    """Return the classes that have images, those of the lowest recall first."""
    precisions, recalls, f1, n_images = score_classes(judged)
    rows = []
    for column in np.flatnonzero(n_images).tolist():
        n = int(n_images[column])
        low, high = compute_wilson_interval(round(float(recalls[column]) * n), n)
        scores = float(precisions[column]), float(f1[column])
        rows.append(ClassRow(judged.classes[column], n, float(recalls[column]), low, high, *scores))
    return sorted(rows, key=lambda row: (row.recall, row.label))


def draw_matrix(judged: Judged) -> list[list[tuple[int, float]]]:
    """Return for each label and prediction the number of images, and its share of the images of the label."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(judged.labels, judged.predicted, labels=range(len(judged.classes)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [list(zip(*row, strict=True)) for row in zip(counts.tolist(), shares.round(3).tolist(), strict=True)]


def draw_pairs(predictions: Predictions, mistakes: Sequence[Mistake]) -> list[Pair]:
    """Return the images of each pair of label and prediction, the most frequent mistake first, what is right last.

    The worst mistake of each pair has a picture, and so have the worst of all, `N_PICTURED` together if there are not
    more pairs.
    """
    has_matrix = len(predictions.classes) <= MAX_MATRIX_CLASSES
    wrong: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in mistakes:
        wrong.setdefault((mistake.label, mistake.predicted), []).append(mistake)
    order = sorted(wrong, key=lambda pair: (-len(wrong[pair]), pair))
    if not has_matrix:
        order = order[:N_PAIRS]
    firsts = [wrong[pair][0] for pair in order]
    others = [mistake for mistake in mistakes if (mistake.label, mistake.predicted) in set(order)]
    ranked = list(dict.fromkeys([*firsts, *others]))
    n_pictured = max(N_PICTURED, len(firsts))
    with_picture, with_path = set(ranked[:n_pictured]), set(ranked[n_pictured : n_pictured + N_LISTED])
    pairs = []
    for label, predicted in order:
        found = wrong[label, predicted]
        pictured = [(mistake.path, draw(mistake.path)) for mistake in found if mistake in with_picture]
        listed = [mistake.path for mistake in found if mistake in with_path]
        n_left = len(found) - len(pictured) - len(listed)
        pairs.append(Pair(label, predicted, len(found), pictured, listed, n_left))
    if not has_matrix:
        return pairs
    confidence = predictions.probabilities.max(axis=1)
    labels = np.array(predictions.labels, object)
    for label in predictions.classes:
        rows = np.flatnonzero(predictions.right & (labels == label))
        unsure = rows[np.argsort(confidence[rows], kind="stable")][:N_UNSURE].tolist()
        if len(rows):
            pictured = [(predictions.paths[row], draw(predictions.paths[row])) for row in unsure]
            pairs.append(Pair(label, label, len(rows), pictured, [], 0))
    return pairs


def draw_charts(judged: Judged) -> list[tuple[str, Markup, str]]:
    """Return the title, the drawing and an explanation of each chart."""
    curves = compute_curves(judged)
    pooled = f"Of {judged.classes[1]}." if len(judged.classes) == 2 else "All decisions of one class against the rest."
    false_rate, true_rate = charts.make_unit_axis("false positive rate"), charts.make_unit_axis("true positive rate")
    recall, precision = charts.make_unit_axis("recall"), charts.make_unit_axis("precision")
    confidence, accuracy = charts.make_unit_axis("mean confidence"), charts.make_unit_axis("accuracy")
    diagonal = np.array([[0.0, 0.0], [1.0, 1.0]])
    bins = bin_confidences(judged, 10)
    points, sizes = np.array([row[:2] for row in bins]), [row[2] for row in bins]
    drawn = [
        (
            "ROC",
            charts.draw_chart(
                "ROC curve",
                false_rate,
                true_rate,
                charts.draw_line(diagonal, false_rate, true_rate, "diagonal"),
                charts.draw_line(thin(np.column_stack(curves.roc)), false_rate, true_rate),
            ),
            f"{pooled} The dashed line is chance.",
        ),
        (
            "Precision and recall",
            charts.draw_chart(
                "Precision and recall curve",
                recall,
                precision,
                charts.draw_line(thin(np.column_stack(curves.precision_recall)), recall, precision),
            ),
            pooled,
        ),
        (
            "Calibration",
            charts.draw_chart(
                "Calibration",
                confidence,
                accuracy,
                charts.draw_line(diagonal, confidence, accuracy, "diagonal"),
                charts.draw_points(points, sizes, confidence, accuracy),
            ),
            "Above the dashed line it is too modest, below it too sure. A circle is as large as its number of images.",
        ),
    ]
    return drawn + draw_score_by_c()


def draw_score_by_c() -> list[tuple[str, Markup, str]]:
    """Return the chart of the validation accuracy against C, if the head has a C and several were tried."""
    columns = ("C", "log10_C", "accuracy", "accuracy_ci95_low", "accuracy_ci95_high", "log_loss")
    rows = read_csv(paths.SCORE_BY_C, columns)
    if len(rows) < 2:
        return []
    values = np.array([[float(cell) for cell in row[1:5]] for row in rows])
    x = charts.make_axis("log10 of C", values[:, 0], sorted({float(n) for n in values[:, 0].round()}))
    y = charts.make_axis("validation accuracy", values[:, 1:])
    band = charts.draw_band(values[:, [0, 2, 3]], x, y)
    chart = charts.draw_chart("Validation accuracy against C", x, y, band, charts.draw_line(values[:, :2], x, y))
    return [("Score against C", chart, "C was chosen on validation images; the band is the 95 % interval.")]


def thin(points: np.ndarray) -> np.ndarray:
    """Return at most `MAX_CURVE_POINTS` of the points of a curve, both ends included."""
    kept: np.ndarray = np.unique(np.linspace(0, len(points) - 1, min(len(points), MAX_CURVE_POINTS)).round())
    return np.asarray(points[kept.astype(np.int64)])


def draw_map(predictions: Predictions) -> dict[str, Any] | None:
    """Return what the template needs to draw the evaluation images as points; None if they cannot be placed."""
    found = map_images(iterate_features(predictions), len(predictions.paths))
    if found is None:
        return None
    rows = found.rows.tolist()
    names = sorted(set(predictions.labels))
    labels = [names.index(predictions.labels[row]) for row in rows]
    right = predictions.right[found.rows].tolist()
    sprite = draw_sprite([predictions.paths[row] for row in rows])
    marks: dict[tuple[int, bool], list[str]] = {}
    for (x, y), label, is_right in zip(found.points.tolist(), labels, right, strict=True):
        marks.setdefault((label, is_right), []).append(
            f"M{x} {y}h0" if is_right else f"M{x - 7} {y - 7}l14 14m0-14l-14 14"
        )
    return {
        "n_points": len(rows),
        "share": found.share,
        "height": int(found.points[:, 1].max()),
        "marks": [(label, is_right, "".join(parts)) for (label, is_right), parts in sorted(marks.items())],
        "labels": names,
        "sprite": sprite,
        "data": {
            "points": found.points.ravel().tolist(),
            "texts": [
                predictions.labels[row]
                + (
                    ""
                    if predictions.labels[row] == predictions.predicted[row]
                    else f", predicted as {predictions.predicted[row]}"
                )
                for row in rows
            ],
        },
    }
