import numpy as np
import pytest

from relearn.evaluation.predictions import Predictions
from relearn.reporting.mistakes import rank_mistakes


def test_the_lowest_probability_of_the_label_comes_first():
    """Not the highest of the predicted class: the third is surer of its answer, but less wrong."""
    probabilities = np.array([[0.9, 0.1, 0], [0.45, 0.05, 0.5], [0.2, 0.2, 0.6], [0.0, 0.6, 0.4], [0.5, 0.5, 0]])
    predictions = Predictions(
        ["a", "b", "c"],
        list("vwxyz"),
        list("vwxyz"),
        ["a", "b", "a", "c", "new"],
        ["a", "c", "c", "b", "a"],
        probabilities,
    )
    found = rank_mistakes(predictions)
    assert [mistake.path for mistake in found] == ["z", "w", "x", "y"]
    assert [mistake.label_probability for mistake in found] == [0, 0.05, 0.2, 0.4]
    assert [mistake.confidence for mistake in found] == [0.5, 0.5, 0.6, 0.6]
    assert found[1].loss == pytest.approx(-np.log(0.05))
    assert np.isfinite(found[0].loss)
