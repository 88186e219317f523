"""A classifier with its network: loaded once, then asked as often as one likes."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from relearn.errors import IntegrityError, NetworkError
from relearn.inference.answers import Answers, predict_each_file, tabulate_answers
from relearn.inference.classifier import RECORD, read_classifier
from relearn.inference.inputs import ImageLike, check_images, prepare_images
from relearn.networks.extractor import Extractor
from relearn.networks.recipe import ExtractorRecord
from relearn.paths import TUNED_WEIGHTS

log = logging.getLogger(__name__)


class Predictor:
    """A trained classifier, bound to its network and to the way in which it reads images.

    Threads may share one: their batches take turns on the network.

    Parameters
    ----------
    folder
        The classifier's folder. Its hashes are checked before anything in it is parsed.
    weights
        The network's weights file, if it is no longer at the path that the classifier records.
    is_lazy
        Whether the network waits until it is needed.

    Attributes
    ----------
    classes : list of str
        In the order of the probabilities.

    Raises
    ------
    RelearnError
        The classifier is damaged, or its network cannot be built as it was.
    """

    def __init__(self, folder: Path, weights: Path | None = None, *, is_lazy: bool = False) -> None:
        self._classifier = read_classifier(folder)
        self._weights = find_tuned_weights(folder) if weights is None else weights
        self._recorded = read_extractor_record(folder, self._classifier.record.extractor)
        self._network_lock = threading.Lock()
        self.classes = self._classifier.classes
        if not is_lazy:
            self.build_network()

    def build_network(self) -> None:
        """Build the network now, which takes seconds, if it is not there yet."""
        _ = self._extractor

    @cached_property
    def _extractor(self) -> Extractor:
        log.info("loading %s", self._recorded.network)  # for seconds nothing else shows that something happens
        return build_extractor(self._recorded, self._weights)

    @property
    def batch_size(self) -> int:
        """How many images the network sees at once."""
        return self._recorded.batch_size

    def predict(self, images: Iterable[ImageLike]) -> Any:
        """Predict the classes of images.

        Parameters
        ----------
        images : list
            Paths, bytes of image files, images of Pillow, or uint8 arrays (height, width, 3).

        Returns
        -------
        pandas.DataFrame
            One row per image: `path` (missing unless the image was a path), `label`, and the probability of each class
            under its name, in the order of `classes`.

        Raises
        ------
        ImageError
            An image cannot be read; the text says which one, and why.
        """
        images = check_images(images)
        return tabulate_answers(images, self.classes, (self._classify(row) for row in self.features(images)))

    def features(self, images: Iterable[ImageLike]) -> np.ndarray:
        """Compute the features of images, (images, features), of the type that the classifier was trained on.

        Images and errors are those of `predict`.
        """
        images = check_images(images)
        rows = list(self._compute_rows(self._prepare_all(images)))
        return np.array(rows, self._extractor.dtype).reshape(len(images), self._extractor.n_features)

    def predict_files(self, inputs: Sequence[str], *, is_online: bool = False) -> Answers:
        """Predict the images of files, folders and patterns, as `predict_each_file` says."""
        return predict_each_file(
            inputs,
            self.classes,
            prepare=self._prepare,
            classify=lambda images: map(self._classify, self._compute_rows(images)),
            n_ahead=2 * self._extractor.batch_size,
            is_online=is_online,
        )

    def _prepare_all(self, images: Sequence[ImageLike]) -> Iterator[np.ndarray]:
        """Yield images as the network's input; the error about one that cannot be read says which one it is."""
        return prepare_images(images, self._prepare, 2 * self._extractor.batch_size)

    def _prepare(self, image: bytes | Image.Image) -> np.ndarray:
        if isinstance(image, bytes):
            return self._extractor.read_image(image)
        return self._extractor.prepare_image(image)

    def _compute_rows(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        batches = self._extractor.compute_batches(images)
        while True:
            with self._network_lock:
                features = next(batches, None)
            if features is None:
                return
            yield from features

    def _classify(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities (classes,) of one image, which do not depend on the images beside it."""
        return np.asarray(self._classifier.predict_probabilities(features[np.newaxis])[0])


def predict_files(inputs: Sequence[str], folder: Path, weights: Path | None = None) -> Answers:
    """Predict files once; see `Predictor` and its `predict_files`."""
    return Predictor(folder, weights).predict_files(inputs)


def find_tuned_weights(folder: Path) -> Path | None:
    """Return the weights of a tuned network in the folder of what was made by them, if there are some."""
    return folder / TUNED_WEIGHTS if (folder / TUNED_WEIGHTS).is_file() else None


def build_extractor(record: ExtractorRecord, weights: Path | None) -> Extractor:
    """Build the extractor that a record describes, and prove that it is the same.

    Raises
    ------
    IntegrityError
        The network that keras builds here has other weights than the recorded one.
    NetworkError
        The network cannot be built, or `weights` is given though the network needs no file.
    """
    if weights is not None and not record.weights_are_file:
        raise NetworkError(
            where="--weights",
            wanted=f"no file, because the classifier was trained with weights {record.weights}",
            got=weights,
            advice="leave it out",
        )
    path = weights or Path(record.weights)
    if record.weights_are_file and not path.is_file():
        raise NetworkError(
            "no such file",
            where=path,
            advice=f"name with --weights the one that the classifier was trained with (sha256 {record.weights_sha256})",
        )
    moved = {} if weights is None else {"weights": str(weights)}
    extractor = Extractor(record.model_copy(update=moved))
    if extractor.record.network_sha256 != record.network_sha256:
        raise IntegrityError(
            where=record.network,
            wanted=f"network_sha256 {record.network_sha256} ({RECORD})",
            got=extractor.record.network_sha256,
            advice="install the versions that the classifier was trained with",
        )
    if extractor.n_features != record.n_features:
        raise IntegrityError(
            where=record.network,
            wanted=f"{record.n_features:,} features ({RECORD})",
            got=f"{extractor.n_features:,}",
            advice="use a classifier that `relearn train` wrote",
        )
    for name, here, there in (
        ("keras", extractor.record.keras, record.keras),
        ("the backend", extractor.record.backend, record.backend),
        ("pillow", extractor.record.pillow, record.pillow),
    ):
        if here != there:
            log.warning("trained with %s %s, here is %s: last digits may differ", name, there, here)
    return extractor


def read_extractor_record(folder: Path, record: Any, name: str = f"{RECORD}: extractor") -> ExtractorRecord:
    """Check the extractor's record in a `classifier.json`, or in another file that errors call `name`.

    Raises
    ------
    IntegrityError
        A key is missing, unknown or out of range.
    """
    try:
        return ExtractorRecord.model_validate(record)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, (folder / name, *problem["loc"])))
        raise IntegrityError(
            problem["msg"],
            where=key,
            advice="an earlier relearn may have made it: run `dvc repro --force train`, or `make retrain` for one in "
            "release/",
        ) from None
