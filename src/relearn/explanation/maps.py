"""Evidence maps: what each position of the last feature map adds to the score of a class."""

from typing import NamedTuple

import numpy as np

from relearn.explanation.coefficients import Coefficients


class Explanation(NamedTuple):
    """What each place of an image adds to the score of a class.

    label : the class that is explained
    score : of the class before the calibration, see `LinearHead.find_coefficients`; for an estimate the logarithm of
        its probability
    base : the part of the score that no position adds, so that score = base + grid.sum()
    grid : (rows, columns) float64 from the top left; what is positive speaks for the class
    is_exact : False for an estimate, see `occlusion`
    text : where most of the evidence is, in words
    probability : of the class, after the calibration
    """

    label: str
    score: float
    base: float
    grid: np.ndarray
    is_exact: bool
    text: str
    probability: float


def map_evidence(pooling: str, feature_map: np.ndarray, coefficients: Coefficients) -> np.ndarray:
    """Return what each position adds to a linear score, compared with the mean of the training images.

    For `avg` it is the class activation map (Zhou et al. 2016, "Learning deep features for discriminative
    localization"), for `flatten` the same with weights of their own at each position. For `max` a feature counts at the
    position of its maximum, the first of them in a tie.

    Parameters
    ----------
    feature_map : ndarray (height, width, channels)

    Returns
    -------
    ndarray (height, width) float64, whose sum is sum((features - mean) * weights)
    """
    height, width, n_channels = feature_map.shape
    values = feature_map.reshape(-1, n_channels).astype(np.float64)
    mean, weights, _ = coefficients
    if pooling == "flatten":
        evidence = ((values - mean.reshape(values.shape)) * weights.reshape(values.shape)).sum(axis=1)
    elif pooling == "avg":
        evidence = (values - mean) @ weights / len(values)
    else:
        places = values.argmax(axis=0)
        evidence = np.bincount(places, (values.max(axis=0) - mean) * weights, minlength=len(values))
    grid: np.ndarray = evidence.reshape(height, width)
    return grid
