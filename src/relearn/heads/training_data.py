"""The training split as the heads read it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.coordinates import Coordinates, Standard, find_coordinates
from relearn.params.heads import TrainParams

LOWEST_SCALE = 0.5  # of a feature, as a share of the mean standard deviation; measured (docs/heads.md)


class TrainingData:
    """The training split in each form that a head reads, made once, on demand.

    Parameters
    ----------
    n_linear_fits
        For how many fits `coordinates` are; None finds uncorrelated columns whatever they cost.
    groups
        Of each training image; by default its own hash, so that copies are a group.

    Attributes
    ----------
    labels, validation_labels : ndarray (rows,) int64
        The index of each row's class in `classes`, which are in alphabetical order.
    n_views, n_images : int
        How many rows of views follow that of each image, and how many images there are.
    groups, n_groups
        The group of each image, and how many there are; `n_groups` is None if no groups were given.
    is_image : ndarray (rows,) bool
        Whether a row is that of an image itself.
    mean, scale : ndarray (n_features,) float64
        What standardizes a feature (`find_standard`); scale is 1 if `train.scale` is false.
    memory_bytes : int
        What a head may take; the splits, as far as they are in memory, have the other half.
    """

    def __init__(
        self,
        training: SplitFeatures,
        validation: SplitFeatures,
        params: TrainParams,
        n_linear_fits: int | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.params = params
        self.training, self.validation = training, validation
        self.classes = sorted(set(training.labels))
        self.labels = np.searchsorted(self.classes, training.labels)
        self.validation_labels = np.searchsorted(self.classes, validation.labels)
        self.n_views = training.n_views
        self.n_images = len(self.labels) // (1 + self.n_views)
        self.n_groups = len(set(groups)) if groups else None
        self.groups = groups or training.sha256[:: 1 + self.n_views]
        self.is_image = np.arange(len(self.labels)) % (1 + self.n_views) == 0
        self.memory_bytes = params.memory_limit_mb * 500_000
        self.n_linear_fits = n_linear_fits
        self.mean, scale, self.variance = find_standard(iterate_finite("training", training))
        for _ in iterate_finite("validation", validation):
            pass
        self.scale = scale if params.scale else np.ones_like(self.mean)
        if not np.any(self.variance):
            raise TrainingError(
                where="training",
                wanted="features that differ between images",
                got=f"the same {len(self.mean):,} for all {self.n_images:,}",
                advice="check extract.layer and extract.weights",
            )

    @cached_property
    def coordinates(self) -> Coordinates:
        """The rows for a linear model."""
        return find_coordinates(
            self.training.blocks,
            Standard(self.mean, self.scale, self.variance),
            len(self.labels),
            self.memory_bytes,
            len(self.classes),
            n_fits=self.n_linear_fits,
        )

    def standardize(self, features: np.ndarray) -> np.ndarray:
        """Return features (images, n_features) standardized, float64."""
        return np.asarray((features - self.mean) / self.scale)

    def compute_sample_weights(self) -> np.ndarray:
        """Return the weight of each row by `train.class_weight`, (rows,) float64.

        The rows of an image share its weight, so that it counts once, and C means the same with any number of views.
        The mean weight of an image is 1 if balanced.
        """
        match self.params.class_weight:
            case None:
                weights = np.ones(len(self.classes))
            case "balanced":
                weights = len(self.labels) / (len(self.classes) * np.bincount(self.labels))
            case dict() as given:
                if set(given) != set(self.classes):
                    raise TrainingError(
                        where="train.class_weight",
                        wanted=f"a weight for each of {', '.join(self.classes)}",
                        got=f"those of {', '.join(given)}",
                        advice="name each class once",
                    )
                weights = np.array([given[name] for name in self.classes])
        return np.asarray(weights[self.labels]) / (1 + self.n_views)


def find_standard(blocks: Iterable[np.ndarray]) -> Standard:
    """Return what standardizes the features of these blocks (rows, n_features): mean, scale and variance.

    The scale of a feature is its standard deviation, but at least half the mean of those of all features. Otherwise a
    feature that is 0 for all training images but one would have a tiny scale, reach thousands in another image, and
    decide its label alone. For the same reason Tusher, Tibshirani and Chu add a term to small standard deviations
    (Significance analysis of microarrays applied to the ionizing radiation response, 2001, doi 10.1073/pnas.091062498).
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for block in blocks:
        scaler.partial_fit(block.astype(np.float64))
    variance = np.asarray(scaler.var_, np.float64)
    deviations = np.sqrt(variance)
    scale = np.maximum(deviations, LOWEST_SCALE * math.fsum(deviations) / len(deviations))
    scale[scale == 0] = 1  # if no feature varies
    return Standard(np.asarray(scaler.mean_, np.float64), scale, variance)


def check_labels(training: list[str], validation: list[str]) -> None:
    """Raise `TrainingError` unless there are classes to learn, and images to choose a head by."""
    if len(set(training)) < 2:
        raise TrainingError(
            where="training",
            wanted="at least 2 classes",
            got=sorted(set(training)),
            advice="add images of another",
        )
    if not validation:
        raise TrainingError(
            where="validation",
            wanted="images to choose a head by",
            got="none",
            advice="raise restructure.fractions.validation",
        )
    if unknown := sorted(set(validation) - set(training)):
        raise TrainingError(
            where="validation",
            wanted="the classes of training",
            got=f"also {unknown}",
            advice="add them to training",
        )


def iterate_finite(split: str, features: SplitFeatures) -> Iterator[np.ndarray]:
    """Yield the blocks of a split; raise `TrainingError` at NaN or infinity."""
    n_rows = 0
    for block in features.blocks:
        if not (finite := np.isfinite(block).all(axis=1)).all():
            image = features.sha256[n_rows + int(np.flatnonzero(~finite)[0])]
            raise TrainingError(
                where=split,
                wanted="finite features",
                got=f"NaN or infinity for image {image}",
                advice="see `dvc repro verify`",
            )
        n_rows += len(block)
        yield block
