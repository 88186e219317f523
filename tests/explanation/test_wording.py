import numpy as np
import pytest

from relearn.explanation.wording import describe_evidence


def describe(*places, size=7, spread=0.0):
    grid = np.full((size, size), spread)
    for row, column in places:
        grid[row, column] += 1
    return describe_evidence("food", grid, is_exact=True)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((0, 0), "the upper left"),
        ((1, 6), "the upper right"),
        ((6, 0), "the lower left"),
        ((6, 6), "the lower right"),
        ((3, 3), "the center"),
    ],
)
def test_the_place_of_one_position(place, name):
    assert describe(place) == f"most of the evidence for food is in {name}"


@pytest.mark.parametrize(
    ("places", "name"),
    [
        ([(0, 0), (0, 6)], "the upper half"),
        ([(6, 0), (6, 6)], "the lower half"),
        ([(0, 0), (6, 0)], "the left half"),
        ([(0, 6), (6, 6)], "the right half"),
    ],
)
def test_two_corners_are_a_half(places, name):
    assert describe(*places) == f"most of the evidence for food is in {name}"


def test_even_evidence_is_spread():
    assert describe(spread=1.0) == "the evidence for food is spread over the image"
    assert describe((0, 0), (6, 6), (0, 6), (6, 0)) == "the evidence for food is spread over the image"


def test_evidence_against_the_class_is_not_for_it():
    grid = np.full((7, 7), -1.0)
    assert describe_evidence("food", grid, is_exact=True) == "no place speaks for food"
    grid[6, 0] = 0.1
    assert describe_evidence("food", grid, is_exact=True) == "most of the evidence for food is in the lower left"


def test_one_position_is_the_whole_image():
    assert describe((0, 0), size=1) == "the whole image speaks for food"


def test_an_estimate_says_so():
    assert describe_evidence("food", np.eye(2), is_exact=False).endswith(" (an estimate)")
