"""A classifier that explains its scores: exactly if its head is linear, else by an estimate."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from relearn.errors import ParamsError
from relearn.explanation.coefficients import LinearHead, read_linear_head
from relearn.explanation.maps import Explanation, map_evidence
from relearn.explanation.occlusion import estimate_evidence, hide_boxes, list_boxes
from relearn.explanation.wording import describe_evidence
from relearn.inference.classifier import read_head
from relearn.inference.inputs import ImageLike, check_images, read_image
from relearn.inference.predictor import Predictor
from relearn.networks.reading import group_items


class Explainer(Predictor):
    """A predictor that also returns what each place of an image adds to the score of a class.

    Parameters
    ----------
    folder, weights, is_lazy
        As for `Predictor`, but by default the network waits until it is needed.
    """

    def __init__(self, folder: Path, weights: Path | None = None, *, is_lazy: bool = True) -> None:
        super().__init__(folder, weights, is_lazy=is_lazy)
        content = read_head(self._classifier.path, self._classifier.record)
        self._head = read_linear_head(content, len(self.classes))

    @property
    def needs_network(self) -> bool:
        """Whether `explain` runs the network even if it is given the features."""
        return self._head is None or self._recorded.pooling != "flatten" or self._recorded.feature_map is None

    @property
    def is_exact(self) -> bool:
        """Whether the maps of `explain` add up to the score, and are no estimates."""
        return self._head is not None and self._find_map_shape() is not None

    def explain(
        self,
        images: Iterable[ImageLike],
        labels: Iterable[str | None] | None = None,
        features: np.ndarray | None = None,
    ) -> list[Explanation]:
        """Explain a class of each image.

        The maps are exact if the head is linear in the features and the layer has positions: they add up to the score.
        Otherwise they are estimates, for which the network runs 50 times per image.

        Parameters
        ----------
        images : list
            Those of `predict`.
        labels : list of str or None, optional
            The class that is explained, for each image; None for the predicted one.
        features : ndarray (images, n_features), optional
            As `extract` stored them. Where `needs_network` is False no image is opened then.

        Raises
        ------
        ParamsError
            A label is no class of the classifier, or there are more or fewer labels or features than images.
        ImageError
            An image cannot be read; the text says which one, and why.
        """
        images = check_images(images)
        wanted = list(repeat(None, len(images)) if labels is None else labels)
        self._check(images, wanted, features)
        shape = self._find_map_shape() if self._head is not None else None
        if self._head is None or shape is None:
            return list(self._estimate(images, wanted))
        if self._recorded.pooling == "flatten":
            rows = self.features(images) if features is None else features
            found: Iterable[tuple[np.ndarray, np.ndarray]] = ((row.reshape(shape), row) for row in rows)
        else:
            found = self._compute_maps(images)
        return [self._map(self._head, *arrays, label) for arrays, label in zip(found, wanted, strict=True)]

    def prepare(self, image: ImageLike) -> np.ndarray:
        """Return the pixels that the network sees: uint8 of shape (image_size_px, image_size_px, 3).

        Raises
        ------
        ImageError
            It cannot be read; the text is the reason alone.
        """
        return self._prepare(read_image(image))

    def _find_map_shape(self) -> tuple[int, ...] | None:
        recorded = self._recorded.feature_map
        return tuple(recorded) if recorded is not None else self._extractor.map_shape

    def _compute_maps(self, images: Sequence[ImageLike]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in group_items(self._prepare_all(images), self._extractor.batch_size):
            with self._network_lock:
                maps, rows = self._extractor.compute_maps(group)
            yield from zip(maps, rows, strict=True)

    def _map(self, head: LinearHead, feature_map: np.ndarray, row: np.ndarray, label: str | None) -> Explanation:
        probabilities = self._classify(row)
        chosen = label or self._classifier.predict_labels(probabilities[np.newaxis])[0]
        number = self.classes.index(chosen)
        coefficients = head.find_coefficients(number)
        grid = map_evidence(self._recorded.pooling, feature_map, coefficients)
        score = coefficients.bias + float(grid.sum())
        text = describe_evidence(chosen, grid, is_exact=True)
        return Explanation(chosen, score, coefficients.bias, grid, True, text, float(probabilities[number]))

    def _estimate(self, images: Sequence[ImageLike], labels: Sequence[str | None]) -> Iterator[Explanation]:
        n_rows = 1 + len(list_boxes(self._recorded.image_size_px))
        rows = self._compute_rows(chain.from_iterable(map(hide_boxes, self._prepare_all(images))))
        for label in labels:
            probabilities = self._classifier.predict_probabilities(np.array(list(islice(rows, n_rows))))
            chosen = label or self._classifier.predict_labels(probabilities)[0]
            shares = probabilities[:, self.classes.index(chosen)]
            score, grid = estimate_evidence(shares)
            text = describe_evidence(chosen, grid, is_exact=False)
            yield Explanation(chosen, score, score - float(grid.sum()), grid, False, text, float(shares[0]))

    def _check(self, images: list[ImageLike], labels: list[str | None], features: np.ndarray | None) -> None:
        if len(labels) != len(images):
            raise ParamsError(where="labels", wanted=f"one for each of {len(images)} images", got=len(labels))
        for label in labels:
            if label is not None and label not in self.classes:
                raise ParamsError(where="labels", wanted=f"None or one of {', '.join(self.classes)}", got=repr(label))
        wanted = (len(images), self._recorded.n_features)
        if features is not None and features.shape != wanted:
            raise ParamsError(where="features", wanted=f"an array of shape {wanted}", got=features.shape)
