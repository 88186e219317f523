"""A folder that `relearn export` wrote: network and head as one ONNX model, asked without keras."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from relearn.errors import IntegrityError
from relearn.images.decoding import decode_image, resize_image
from relearn.images.limits import MAX_PIXELS
from relearn.inference.answers import Answers, predict_each_file, tabulate_answers
from relearn.inference.classifier import check_classes, check_sum, hash_record, name_errors, open_session
from relearn.inference.inputs import ImageLike, check_images, prepare_images
from relearn.inference.model_screening import BATCH_SIZE, MAX_MODEL_BYTES, check_model
from relearn.runtime.threads import count_threads
from relearn.storage.files import hash_bytes, read_json

MODEL = "model.onnx"
RECORD = "model.json"
FILES = (MODEL, RECORD, "README.md")
ADVICE = "export the classifier again with `relearn export`"
MAX_RECORD_BYTES = 2**24


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Proof(BaseModel, frozen=True, strict=True, allow_inf_nan=False):
    """What was measured before the model got its name, on the same pixels.

    Attributes
    ----------
    split
        Of the images that both were asked about.
    n_same
        How many have the same label by the model and by the network of keras in float32 with its head.
    max_difference
        Between their probabilities.
    n_right_before, n_right
        How many labels are right by the network and head, and by the model.
    p_value
        McNemar's exact test of the two; 1 if no label differs.
    """

    split: str
    n_images: int
    n_same: int
    max_difference: float
    n_right_before: int
    n_right: int
    p_value: float


class ExportRecord(BaseModel, frozen=True, strict=True, allow_inf_nan=False):
    """The content of `model.json`, in the order of its keys, without the hash of the record itself.

    Attributes
    ----------
    classes
        In the order of the probabilities.
    version
        The tag of the classifier's release, such as v3; None if it was never promoted.
    classifier_sha256
        The `record_sha256` of the `classifier.json` that was exported.
    image_size_px, resize_filter, jpeg_draft
        How an image is brought to the model's input; as in `extract`.
    any_size
        Whether the model resizes by itself.
    n_features
        What the network computes from an image.
    has_features
        Whether the model returns them too, as `features`.
    quantization
        `int8` if weights and activations of the network are 8-bit integers.
    network
        Name, layer, pooling, origin and hash of the weights, and their license as far as it is known.
    proof, proof_any_size
        Of the model given pixels of its size, and given whole images; the second only if it takes any size.
    """

    model_sha256: Sha256
    classes: list[str]
    version: str | None
    classifier_sha256: Sha256
    image_size_px: Annotated[int, Field(ge=1, le=4096)]
    resize_filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    jpeg_draft: bool
    any_size: bool
    n_features: Annotated[int, Field(ge=1)]
    has_features: bool
    quantization: Literal["none", "int8"]
    network: dict[str, str | None]
    proof: Proof
    proof_any_size: Proof | None
    versions: dict[str, str]


class ExportedModel:
    """An exported classifier: images in, probabilities out. Threads may share one.

    An image gets the same bits whatever else is in its batch and whatever the number of threads.

    Parameters
    ----------
    folder
        What `relearn export` wrote. The hashes are checked before anything in it is parsed.
    n_threads
        Of one run of the model; by default one per core.

    Attributes
    ----------
    record : ExportRecord
    classes : list of str
        In the order of the probabilities.

    Raises
    ------
    IntegrityError
        A file is missing or damaged, or the model is none that `relearn export` could have written.
    """

    batch_size = BATCH_SIZE

    def __init__(self, folder: Path, n_threads: int | None = None) -> None:
        if folder.is_symlink():  # both files of one version, even if `release/current` is switched in between
            folder = folder.resolve()
        self.record = read_export_record(folder)
        self.classes = list(self.record.classes)
        self._path = folder / MODEL
        self._open(read_model(self._path, self.record), n_threads or count_threads())

    def _open(self, content: bytes, n_threads: int) -> None:
        self._session = open_session(content, self._path, n_threads, ADVICE)

    def read_image(self, image: bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode the bytes of an image file as `extract` does: uint8 of shape (image_size_px, image_size_px, 3).

        A file of more than `max_pixels` is refused. An upright RGB image of Pillow is only resized.

        Raises
        ------
        ImageError
            It cannot be read; the text is the reason.
        """
        size_px = self.record.image_size_px
        if isinstance(image, bytes):
            image = decode_image(image, size_px if self.record.jpeg_draft else None, max_pixels).rgb
        return resize_image(image, size_px, self.record.resize_filter)

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the probability of each class of images from `read_image`: (images, classes) float32.

        Raises
        ------
        IntegrityError
            The model fails, or returns no probabilities.
        """
        return self._run(self._session, images)

    def _run(self, session: Any, images: Sequence[np.ndarray]) -> np.ndarray:
        with name_errors(self._path, ADVICE):
            (answer,) = session.run(["probabilities"], {"image": np.stack(images)})
        return check_sum(np.asarray(answer), (len(images), len(self.classes)), self._path, ADVICE)

    def predict(self, images: Iterable[ImageLike]) -> Any:
        """Predict the classes of images: those of `Predictor.predict`, in the same data frame.

        Raises
        ------
        ImageError
            An image cannot be read; the text says which one, and why.
        RelearnError
            pandas is not installed.
        """
        images = check_images(images)
        prepared = prepare_images(images, self.read_image, 2 * self.batch_size)
        return tabulate_answers(images, self.classes, self._classify_all(prepared))

    def predict_files(self, inputs: Sequence[str], *, is_online: bool = False) -> Answers:
        """Predict the images of files, folders and patterns, as `predict_each_file` says."""
        return predict_each_file(
            inputs,
            self.classes,
            prepare=self.read_image,
            classify=self._classify_all,
            n_ahead=2 * self.batch_size,
            is_online=is_online,
        )

    def _classify_all(self, images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        while group := list(islice(images, self.batch_size)):
            yield from self.predict_probabilities(group)


def find_folder(path: Path) -> Path:
    """Return the folder of a model that is named by it, or by the `model.onnx` of an export.

    Raises
    ------
    IntegrityError
        That file is not there, or no `model.json` beside it.
    """
    if path.name != MODEL or path.is_dir():
        return path
    if not path.exists():
        raise IntegrityError("no such file", where=path, advice="`relearn export -o FOLDER` makes one")
    if not is_export(path.parent):
        advice = "keep the files of an export together"
        raise IntegrityError(where=path, wanted=f"{RECORD} beside it", got="none", advice=advice)
    return path.parent


def is_export(folder: Path) -> bool:
    """Return whether a folder holds what `relearn export` writes."""
    return (folder / RECORD).is_file()


def read_export_record(folder: Path) -> ExportRecord:
    """Read `model.json`; its hash is checked before its values are.

    Raises
    ------
    IntegrityError
        The file is missing, its hash is wrong, or a value is missing or not what it has to be.
    """
    path = folder / RECORD
    if not path.is_file():
        raise IntegrityError("no exported model there", where=folder, advice="make one with `relearn export`")
    if (n_bytes := path.stat().st_size) > MAX_RECORD_BYTES:
        raise IntegrityError(where=path, wanted=f"at most {MAX_RECORD_BYTES:,} bytes", got=f"{n_bytes:,}")
    content = read_json(path, ("record_sha256", *ExportRecord.model_fields))
    wanted = content.pop("record_sha256")
    if hash_record(content) != wanted:
        wanted_text = f"the record of sha256 {ascii(wanted)[:80]}"
        raise IntegrityError(where=path, wanted=wanted_text, got="another, changed by hand", advice=ADVICE)
    try:
        record = ExportRecord.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = f"{path}: {'.'.join(map(str, problem['loc']))[:80]}"
        raise IntegrityError(problem["msg"], where=where, got=ascii(problem["input"])[:80], advice=ADVICE) from None
    check_classes(path, record.classes, ADVICE)
    return record


def read_model(path: Path, record: ExportRecord) -> bytes:
    """Read the model of a record.

    Raises
    ------
    IntegrityError
        The file is missing or has another hash, or `check_model` refuses it.
    """
    if not path.is_file():
        raise IntegrityError("no such file", where=path, advice=ADVICE)
    if (n_bytes := path.stat().st_size) > MAX_MODEL_BYTES:
        raise IntegrityError(where=path, wanted=f"at most {MAX_MODEL_BYTES:,} bytes", got=f"{n_bytes:,}", advice=ADVICE)
    content = path.read_bytes()
    if (found := hash_bytes(content)) != record.model_sha256:
        wanted = f"sha256 {record.model_sha256} ({RECORD})"
        raise IntegrityError(where=path, wanted=wanted, got=found, advice=ADVICE)
    try:
        size_px = None if record.any_size else record.image_size_px
        check_model(content, record.classes, record.n_features, size_px, has_features=record.has_features)
    except IntegrityError as error:
        raise IntegrityError(str(error), where=path, advice=ADVICE) from None
    return content
