"""Two classifiers compared on the same images: each metric's difference with its interval, of which one decides."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import numpy as np

from relearn.errors import ComparisonError
from relearn.evaluation.intervals import CONFIDENCE, bootstrap
from relearn.evaluation.metrics import Judged, Metric, judge, prepare_metrics
from relearn.evaluation.paired import Paired, compare_paired, compute_paired_interval
from relearn.evaluation.predictions import Predictions

N_RESAMPLES = 2000
N_BINS = 15
SEED = 0


class Difference(NamedTuple):
    """A metric of both classifiers, and how much the second one's is larger, with its 95 % interval."""

    name: str
    first: float
    second: float
    difference: float
    low: float
    high: float


class DifferingImage(TypedDict):
    """An image that one of the classifiers alone predicted right."""

    path: str
    label: str
    predicted_first: str
    predicted_second: str


class Comparison(NamedTuple):
    """Two classifiers, by their names, on the images that both have predicted.

    n_only_in_first, n_only_in_second : images that the other has not predicted
    n_relabeled : images that have another label in the second, which counts for both
    differences : accuracy first, with its paired score interval (unless groups are drawn); the others by the bootstrap
    only_first, only_second : images that one alone predicted right, by path
    n_groups : how many groups the common images are in, if the bootstrap drew groups
    are_out_of_fold : whether both have predicted each image by a head that was not fitted on it (`evaluate.by: folds`)
    caveat : why the predictions are not those of the revisions' parameters and data; empty if they are
    """

    first: str
    second: str
    n_common: int
    n_only_in_first: int
    n_only_in_second: int
    differences: list[Difference]
    paired: Paired
    only_first: list[DifferingImage]
    only_second: list[DifferingImage]
    n_groups: int | None = None
    caveat: str = ""
    are_out_of_fold: bool = False
    n_relabeled: int = 0

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no clear difference` in accuracy, by its interval: the second, compared with the first.

        A retraining decides by the same interval.
        """
        accuracy = self.differences[0]
        if accuracy.low <= 0 <= accuracy.high:
            return "no clear difference"
        return "better" if accuracy.low > 0 else "worse"


def compare_predictions(
    first: str, second: str, a: Predictions, b: Predictions, groups: Mapping[str, str] | None = None
) -> Comparison:
    """Compare two classifiers, called `first` and `second`, on the images that both have predicted.

    Parameters
    ----------
    groups
        The group of each image by its SHA-256, if the bootstrap shall draw groups.

    An image whose label was corrected in between is judged by its label in the second, for both.

    Raises
    ------
    ComparisonError
        They have no image in common; or more than half have different labels, or any if the classes differ; or one
        alone has predicted in folds.
    """
    check_same_way(first, second, a, b)
    rows_a, rows_b = _find_rows(a), _find_rows(b)
    common = sorted(rows_a.keys() & rows_b.keys(), key=lambda image: a.paths[rows_a[image]])
    if not common:
        raise ComparisonError(
            wanted=f"images that {first} and {second} have both predicted",
            got=f"none of {len(rows_a):,} and {len(rows_b):,}",
            advice="compare revisions with the same evaluation images",
        )
    a, b = a.select(rows_a[image] for image in common), b.select(rows_b[image] for image in common)
    relabeled = [labels for labels in zip(a.paths, a.labels, b.labels, strict=True) if labels[1] != labels[2]]
    if relabeled and (2 * len(relabeled) > len(common) or set(a.classes) != set(b.classes)):
        path, label, other = relabeled[0]
        raise ComparisonError(
            where=path,
            wanted=f"the label {label} of {first}",
            got=f"{other} in {second}",
            advice="compare revisions with the same labels",
        )
    a = a._replace(labels=b.labels)
    right, other_right = a.right, b.right
    judged, other_judged = _judge_both(a, b)
    if groups is not None:
        judged = judged._replace(groups=np.unique([groups[sha256] for sha256 in a.sha256], return_inverse=True)[1])
    paired = compare_paired(right, other_right)
    differences = compute_differences(judged, other_judged)
    if groups is None:
        low, high = compute_paired_interval(len(common), paired.n_only_first, paired.n_only_second, CONFIDENCE)
        differences[0] = differences[0]._replace(low=low, high=high)
    return Comparison(
        first,
        second,
        len(common),
        len(rows_a) - len(common),
        len(rows_b) - len(common),
        differences,
        paired,
        _list_images(a, b, right & ~other_right),
        _list_images(a, b, other_right & ~right),
        None if judged.groups is None else len(np.unique(judged.groups)),
        are_out_of_fold=a.are_out_of_fold,
        n_relabeled=len(relabeled),
    )


def check_same_way(first: str, second: str, a: Predictions, b: Predictions) -> None:
    """Raise `ComparisonError` if one predicted the evaluation split, and the other all images in folds."""
    kinds = ["folds" if predictions.are_out_of_fold else "split" for predictions in (a, b)]
    if kinds[0] != kinds[1]:
        raise ComparisonError(
            where="evaluate.by",
            wanted="the same for both",
            got=f"{kinds[0]} for {first} and {kinds[1]} for {second}",
            advice=f"evaluate one of them again, such as with `dvc exp run -S evaluate.by={kinds[0]}`",
        )


def _find_rows(predictions: Predictions) -> dict[tuple[str, int], int]:
    """Return the row of each image, which is called by its sha256 and the number of its copy."""
    copies: Counter[str] = Counter()
    rows = {}
    for row, sha256 in enumerate(predictions.sha256):
        rows[sha256, copies[sha256]] = row
        copies[sha256] += 1
    return rows


def _list_images(a: Predictions, b: Predictions, chosen: np.ndarray) -> list[DifferingImage]:
    return [
        {
            "path": b.paths[row],
            "label": a.labels[row],
            "predicted_first": a.predicted[row],
            "predicted_second": b.predicted[row],
        }
        for row in np.flatnonzero(chosen)
    ]


def _judge_both(*both: Predictions) -> list[Judged]:
    """Judge predictions for the same images, each among its own classes and those of the labels."""
    judged = []
    for predictions in both:
        classes = sorted({*predictions.classes, *predictions.labels})
        probabilities = np.zeros((len(predictions.labels), len(classes)))
        probabilities[:, [classes.index(name) for name in predictions.classes]] = predictions.probabilities
        judged.append(judge(classes, predictions.labels, probabilities, predictions.predicted))
    return judged


def compute_differences(first: Judged, second: Judged) -> list[Difference]:
    """Compute each metric for both, and the percentiles of a paired bootstrap of the difference, stratified by class.

    It draws groups if `first` has them. Paired: each resample draws images, and uses both predictions of each (Efron
    and Tibshirani 1993, chapter 8).
    """
    metrics, others = _prepare(first), _prepare(second)

    def _compute_both(drawn: np.ndarray) -> np.ndarray:
        return np.stack([[metric(drawn) for metric in prepared.values()] for prepared in (metrics, others)])

    def _subtract(drawn: np.ndarray) -> np.ndarray:
        return np.asarray(np.diff(_compute_both(drawn), axis=0)[0].T)

    low, high = bootstrap(first.labels, _subtract, N_RESAMPLES, SEED, "compare", groups=first.groups)
    found = _compute_both(np.arange(len(first.labels))[np.newaxis])[:, :, 0].T
    return [
        Difference(name, float(a), float(b), float(b - a), float(low[number]), float(high[number]))
        for number, (name, (a, b)) in enumerate(zip(metrics, found, strict=True))
    ]


def _prepare(judged: Judged) -> dict[str, Metric]:
    right = judged.labels == judged.predicted
    return {"accuracy_score": lambda drawn: right[drawn].mean(axis=1), **prepare_metrics(judged, N_BINS)}
