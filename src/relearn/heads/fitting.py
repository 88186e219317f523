"""How each head is fitted; what comes out is a `heads.Head`, the same whatever fitted it."""

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from relearn.errors import TrainingError
from relearn.features.shards import SplitFeatures
from relearn.heads.coordinates import Coordinates, Standard, find_coordinates, plan_memory
from relearn.heads.fitted import Head, LayeredHead, TreeHead
from relearn.heads.logistic import LogisticRegressionProblem
from relearn.params import TrainParams
from relearn.runtime.progress import track_progress
from relearn.runtime.threads import count_threads

Options = dict[str, Any]

QUIET_SECONDS = 3.0  # that the fits of a head may take before they show how far they are

# scikit-learn's own answers against those of what is exported.
ESTIMATOR_TOLERANCE = 1e-6

# Bytes of memory for each number of the training features, the head's own copies included.
NUMBER_BYTES = {"nearest_centroid": 32, "decision_tree": 12, "random_forest": 12, "dense": 24}


class TrainingData:
    """The training split as the heads take it, each form of it made once, when it is asked for.

    Attributes
    ----------
    truth, validation_truth : ndarray (images,) int64
        The number of each image's class in `classes`, which are in alphabetical order.
    mean, scale : ndarray (n_features,) float64
        What standardises a feature; scale is 1 where `train.scale` is false.
    """

    def __init__(self, training: SplitFeatures, validation: SplitFeatures, params: TrainParams) -> None:
        from sklearn.preprocessing import StandardScaler

        self.params = params
        self.training, self.validation = training, validation
        self.classes = sorted(set(training.labels))
        self.truth = np.searchsorted(self.classes, training.labels)
        self.validation_truth = np.searchsorted(self.classes, validation.labels)
        # Half of it is for the splits, so far as they are in memory.
        self.memory_bytes = params.memory_limit_mb * 500_000
        scaler = StandardScaler()
        for block in iterate_finite("training", training):
            scaler.partial_fit(block.astype(np.float64))
        for _ in iterate_finite("validation", validation):
            pass
        self.mean = np.asarray(scaler.mean_, np.float64)
        self.variance = np.asarray(scaler.var_, np.float64)
        self.scale = np.asarray(scaler.scale_, np.float64) if params.scale else np.ones_like(self.mean)
        if not np.any(scaler.var_):
            raise TrainingError(
                f"training: wanted features that tell images apart, got the same {len(self.mean):,} for all "
                f"{len(self.truth):,}; look at extract.layer and extract.weights"
            )

    @cached_property
    def coordinates(self) -> Coordinates:
        """The rows for a linear model."""
        standard = Standard(self.mean, self.scale, self.variance)
        n_rows, n_classes = len(self.truth), len(self.classes)
        return find_coordinates(
            self.training.blocks, standard, n_rows, self.memory_bytes, n_classes, n_fits=self._count_fits()
        )

    def _count_fits(self) -> int | None:
        """Return how many logistic regressions the parameters ask for; None where `linear_svm` reads the rows too."""
        grids = self.params.grids
        if any(head == "linear_svm" for head, _ in grids):
            return None
        n_values = sum(np.size(grid["C"]) for head, grid in grids if head == "logistic_regression")
        return n_values * (self.params.n_folds if self.params.select_by == "folds" else 1)

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Return features (images, n_features) standardised, float64."""
        return np.asarray((features - self.mean) / self.scale)

    def check_memory(self, head: str) -> None:
        """Raise `TrainingError` if a head would need more than it may have."""
        n_rows, n_features = len(self.truth), len(self.mean)
        n_bytes = NUMBER_BYTES.get(head, 0) * n_rows * n_features
        if head == "linear_svm" and not plan_memory(n_rows, n_features, self.memory_bytes, len(self.classes)).hold:
            n_bytes = 2 * 8 * n_rows * n_features
        if n_bytes > self.memory_bytes:
            raise TrainingError(
                f"train: {head} wants {n_bytes / 5e5:,.0f} MB for the features, got train.memory_limit_mb "
                f"{self.params.memory_limit_mb:,}; raise it, or take logistic_regression, which reads them in parts"
            )

    def weigh_rows(self) -> np.ndarray:
        """Return the weight of each row by `train.class_weight`, (images,) float64; their mean is 1 where balanced."""
        n_images = np.bincount(self.truth)
        match self.params.class_weight:
            case None:
                weights = np.ones(len(self.classes))
            case "balanced":
                weights = len(self.truth) / (len(self.classes) * n_images)
            case dict() as given:
                if set(given) != set(self.classes):
                    raise TrainingError(
                        f"train.class_weight: wanted a weight for each of {', '.join(self.classes)}, got those of "
                        f"{', '.join(given)}"
                    )
                weights = np.array([given[name] for name in self.classes])
        return np.asarray(weights[self.truth])


def iterate_finite(split: str, features: SplitFeatures) -> Iterator[np.ndarray]:
    """Yield the blocks of a split; raise `TrainingError` at a number that is none."""
    n_rows = 0
    for block in features.blocks:
        if not (finite := np.isfinite(block).all(axis=1)).all():
            image = features.sha256[n_rows + int(np.flatnonzero(~finite)[0])]
            raise TrainingError(
                f"{split}: wanted finite features, got NaN or infinity for image {image}; see `dvc repro verify`"
            )
        n_rows += len(block)
        yield block


def fit_heads(name: str, candidates: Sequence[Options], data: TrainingData, row_weights: np.ndarray) -> list[Head]:
    """Fit one kind of head once for each of the options, which for `logistic_regression` differ in C alone.

    Parameters
    ----------
    row_weights : ndarray (images,) float64
        Rows of weight 0 are left out.
    """
    if name == "logistic_regression":
        return _fit_logistic_regressions(candidates, data, row_weights)
    heads = (_fit_head(name, options, data, row_weights) for options in candidates)
    return list(track_progress(heads, len(candidates), f"train {name}", "heads", quiet_seconds=QUIET_SECONDS))


def _fit_head(name: str, options: Options, data: TrainingData, row_weights: np.ndarray) -> Head:
    match name:
        case "linear_svm":
            return _fit_linear_svm(options, data, row_weights)
        case "nearest_centroid":
            return _fit_nearest_centroid(options, data, row_weights)
        case "dense":
            return _fit_dense(options, data, row_weights)
        case _:
            return _fit_trees(name, options, data, row_weights)


def _fit_logistic_regressions(candidates: Sequence[Options], data: TrainingData, row_weights: np.ndarray) -> list[Head]:
    tol, max_iter = candidates[0]["tol"], candidates[0]["max_iter"]
    with LogisticRegressionProblem(data.coordinates, data.truth, len(data.classes)) as problem:
        values = [options["C"] for options in candidates]
        steps = problem.iterate_path(values, row_weights, tol, max_iter)
        shown = track_progress(
            steps,
            len(values),
            "train logistic_regression",
            "values of C",
            count=lambda step: step.n_values,
            quiet_seconds=QUIET_SECONDS,
        )
        solutions = {step.solution.C: step.solution for step in shown if step.solution is not None}
    ordered = [solutions[C] for C in values]
    restored = data.coordinates.restore(np.hstack([solution.weights for solution in ordered]))
    coefficients = np.split(restored, len(ordered), axis=1)
    return [
        LayeredHead(data.mean, data.scale, [(w, s.intercepts)], True, s.n_iter, s.converged)
        for s, w in zip(ordered, coefficients, strict=True)
    ]


def _fit_linear_svm(options: Options, data: TrainingData, row_weights: np.ndarray) -> Head:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    present = row_weights > 0
    rows = data.coordinates.load_rows()
    svm = LinearSVC(C=options["C"], tol=options["tol"], max_iter=options["max_iter"], dual=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svm.fit(rows[present], data.truth[present], row_weights[present])
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    weights = data.coordinates.restore(svm.coef_.T)
    head = LayeredHead(data.mean, data.scale, [(weights, svm.intercept_)], False, int(svm.n_iter_), converged)
    first = data.training.blocks[0]
    _check_scores("linear_svm", head.compute_scores(first), svm.decision_function(rows[: len(first)]))
    return head


def _check_scores(name: str, scores: np.ndarray, wanted: np.ndarray) -> None:
    """Raise `TrainingError` if the scores of a head are not those of the estimator that it was made of."""
    difference = np.abs(scores - wanted.reshape(scores.shape)).max()
    if not difference <= ESTIMATOR_TOLERANCE * max(1, np.abs(wanted).max()):
        raise TrainingError(
            f"train.head: {name}: wanted the scores of scikit-learn's estimator, got some that differ by "
            f"{difference:.2g}; set train.scale: true, for the features may be too large or too unlike"
        )


def _fit_nearest_centroid(options: Options, data: TrainingData, row_weights: np.ndarray) -> Head:
    """Fit the centroids c of the standardised rows z; the score of a class is -|z - c|^2 + |z|^2 = 2 z c - |c|^2."""
    from sklearn.neighbors import NearestCentroid

    present = row_weights > 0
    rows = data.standardise(data.training.features[present])
    varies = np.ptp(rows, axis=0) > 0  # of a constant feature the shrinkage would be 0 / 0
    centroid = NearestCentroid(shrink_threshold=options["shrink_threshold"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a feature is constant within each class, which does no harm
        centroid.fit(rows[:, varies], data.truth[present])
    centroids = np.zeros((len(data.classes), len(data.mean)))
    centroids[:, varies] = centroid.centroids_
    if not np.isfinite(centroids).all():
        raise TrainingError(
            f"train.nearest_centroid.shrink_threshold: {options['shrink_threshold']} wants features that vary within a "
            f"class, got {present.sum()} images of {len(data.classes)} classes; take null"
        )
    weights, biases = 2 * centroids.T, -(centroids**2).sum(axis=1)
    if len(data.classes) == 2:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    return LayeredHead(data.mean, data.scale, [(weights, biases)], has_probabilities=False)


def _fit_trees(name: str, options: Options, data: TrainingData, row_weights: np.ndarray) -> Head:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    present = row_weights > 0
    estimator: Any
    if name == "decision_tree":
        estimator = DecisionTreeClassifier(**options, random_state=data.params.seed)
    else:
        estimator = RandomForestClassifier(**options, random_state=data.params.seed, n_jobs=count_threads())
    estimator.fit(data.training.features[present], data.truth[present], row_weights[present])
    if name == "random_forest":
        estimator.n_jobs = 1  # threads would add up the trees' answers in any order
    return TreeHead(estimator)


def _fit_dense(options: Options, data: TrainingData, row_weights: np.ndarray) -> Head:
    from relearn.heads.dense import fit_dense

    present = row_weights > 0
    layers, n_epochs, ended = fit_dense(
        training=data.standardise(data.training.features[present]).astype(np.float32),
        truth=data.truth[present],
        row_weights=row_weights[present],
        validation=data.standardise(data.validation.features).astype(np.float32),
        validation_truth=data.validation_truth,
        n_classes=len(data.classes),
        options=options,
        seed=data.params.seed,
    )
    if len(data.classes) == 2:  # a softmax over two is the logistic function of their difference
        weights, biases = layers[-1]
        layers[-1] = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    return LayeredHead(data.mean, data.scale, layers, True, n_epochs, ended)
