"""The nearest centroid."""

import warnings
from dataclasses import dataclass

import numpy as np

from relearn.errors import TrainingError
from relearn.heads.fitted import LayeredHead
from relearn.heads.options import Options
from relearn.heads.training_data import TrainingData


@dataclass(frozen=True)
class NearestCentroidOptions(Options):
    """Those of `relearn.params.heads.NearestCentroidParams`."""

    shrink_threshold: float | None


def fit_nearest_centroid(
    options: NearestCentroidOptions, data: TrainingData, sample_weights: np.ndarray
) -> LayeredHead:
    """Fit the centroids c of the standardized rows z; the score of a class is -|z - c|^2 + |z|^2 = 2 z c - |c|^2.

    Of the sample weights only 0 counts: such rows are left out.
    """
    from sklearn.neighbors import NearestCentroid

    present = sample_weights > 0
    rows = data.standardize(data.training.features[present])
    varies = np.ptp(rows, axis=0) > 0  # for a constant feature the shrinkage would be 0 / 0
    centroid = NearestCentroid(shrink_threshold=options.shrink_threshold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a feature that is constant within each class does no harm
        centroid.fit(rows[:, varies], data.labels[present])
    centroids = np.zeros((len(data.classes), len(data.mean)))
    centroids[:, varies] = centroid.centroids_
    if not np.isfinite(centroids).all():
        raise TrainingError(
            where=f"train.nearest_centroid.shrink_threshold {options.shrink_threshold}",
            wanted="features that vary within a class",
            got=f"{(present & data.is_image).sum()} images of {len(data.classes)} classes",
            advice="set it to null",
        )
    weights, biases = 2 * centroids.T, -(centroids**2).sum(axis=1)
    if len(data.classes) == 2:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    return LayeredHead(data.mean, data.scale, [(weights, biases)], has_probabilities=False)
