import re

import numpy as np
import pytest

from relearn.errors import ComparisonError
from relearn.evaluation.comparison import compare_predictions
from relearn.evaluation.paired import compute_paired_interval
from relearn.evaluation.predictions import Predictions

OTHER = {"cat": "dog", "dog": "cat"}


def make_predictions(wrong=(), numbers=range(60), classes=("cat", "dog"), change=lambda label: label):
    """Images, every second a cat; those that are wrong are predicted as the other class, all with 0.8."""
    labels = [("cat", "dog")[number % 2] for number in numbers]
    answers = [OTHER[label] if number in wrong else label for number, label in zip(numbers, labels, strict=True)]
    rest = 0.2 / (len(classes) - 1)
    probabilities = np.array([[0.8 if name == answer else rest for name in classes] for answer in answers])
    hashes = [f"{number:064x}" for number in numbers]
    names = [f"{number:02}.png" for number in numbers]
    return Predictions(list(classes), names, hashes, [change(label) for label in labels], answers, probabilities)


def test_differences_have_paired_intervals():
    found = compare_predictions("a", "b", make_predictions(range(20)), make_predictions(range(2)))
    accuracy, *_, log_loss, _ = found.differences
    assert (accuracy.first, accuracy.second) == (pytest.approx(40 / 60), pytest.approx(58 / 60))
    assert (accuracy.low, accuracy.high) == compute_paired_interval(60, 0, 18, 0.95)
    assert log_loss.name == "log_loss"
    assert log_loss.high < 0
    assert (found.paired.n_only_first, found.paired.n_only_second) == (0, 18)
    assert [image["path"] for image in found.only_second] == [f"{number:02}.png" for number in range(2, 20)]
    assert found.only_second[0] == {
        "path": "02.png",
        "label": "cat",
        "predicted_first": "dog",
        "predicted_second": "cat",
    }


def test_groups_are_drawn_if_they_are_given():
    """Twelve images of a group change together, so the interval is wider than that of images."""
    first, second = make_predictions(range(24)), make_predictions()
    groups = {sha256: f"{number // 12}" for number, sha256 in enumerate(first.sha256)}
    found = compare_predictions("a", "b", first, second, groups)
    by_image = compare_predictions("a", "b", first, second)
    assert (found.n_groups, by_image.n_groups) == (5, None)
    accuracy, other = found.differences[0], by_image.differences[0]
    assert accuracy.difference == other.difference
    assert accuracy.high - accuracy.low > 1.5 * (other.high - other.low)


@pytest.mark.parametrize(
    ("n_wrong", "verdict"), [(3, "no clear difference"), (4, "better"), (60, "better"), (0, "no clear difference")]
)
def test_the_interval_of_accuracy_is_the_verdict(n_wrong, verdict):
    """McNemar's exact test calls 4 of 4 no clear difference, beside an interval without 0; it decides nothing here."""
    found = compare_predictions("a", "b", make_predictions(range(n_wrong)), make_predictions())
    low, high = found.differences[0][-2:]
    assert found.verdict == verdict
    assert (low <= 0 <= high) is (verdict == "no clear difference")


def test_only_images_that_both_have_are_compared():
    found = compare_predictions("a", "b", make_predictions(range(30)), make_predictions(numbers=range(20, 70)))
    assert (found.n_common, found.n_only_in_first, found.n_only_in_second) == (40, 20, 10)
    assert found.paired.n_only_second == 10


def test_folds_are_compared_with_folds_alone():
    split = make_predictions()
    folds = make_predictions(range(3))
    folds = folds._replace(paths=[f"training/{path}" for path in folds.paths])
    assert compare_predictions("a", "b", folds, folds).are_out_of_fold
    assert not compare_predictions("a", "b", split, split).are_out_of_fold
    message = (
        "evaluate.by: wanted the same for both, got folds for a and split for b; evaluate one of them again, such as "
        "with `dvc exp run -S evaluate.by=folds`"
    )
    with pytest.raises(ComparisonError, match=re.escape(message)):
        compare_predictions("a", "b", folds, split)


def test_copies_within_the_split_are_images_each():
    once, twice = make_predictions(numbers=range(10)), make_predictions(numbers=[*range(10), 9])
    assert compare_predictions("a", "b", twice, twice).n_common == 11
    assert compare_predictions("a", "b", once, twice).n_only_in_second == 1


def test_order_of_the_rows_does_not_matter():
    first, second = make_predictions([1, 5]), make_predictions([2])
    assert compare_predictions("a", "b", first, second.select(range(59, -1, -1))) == compare_predictions(
        "a", "b", first, second
    )


def test_other_classes_can_be_compared():
    others = make_predictions(classes=("cat", "cow", "dog"))
    assert compare_predictions("a", "b", make_predictions(range(20)), others).paired.verdict == "better"


def test_a_corrected_label_counts_for_both():
    """The first image is a dog now, which neither predicts: both are wrong there, and none is better for it."""
    a = make_predictions()
    corrected = [OTHER[a.labels[0]], *a.labels[1:]]
    b = make_predictions()._replace(labels=corrected)
    found = compare_predictions("a", "b", a, b)
    assert found.n_relabeled == 1
    assert (found.only_first, found.only_second) == ([], [])
    assert found.differences[0].first == found.differences[0].second
    assert compare_predictions("a", "b", a, a).n_relabeled == 0


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(ComparisonError, match="wanted images that a and b have both predicted, got none of 5 and 6; "):
        compare_predictions("a", "b", make_predictions(numbers=range(5)), make_predictions(numbers=range(9, 15)))
    with pytest.raises(ComparisonError, match=r"^00\.png: wanted the label cat of a, got dog in b; compare revisions"):
        compare_predictions("a", "b", make_predictions(), make_predictions(change=OTHER.get))
