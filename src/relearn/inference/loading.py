"""What a folder is predicted with: its exported model, else its classifier with the network of keras."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from relearn.errors import IntegrityError, NetworkError
from relearn.inference.classifier import RECORD
from relearn.inference.exported import RECORD as EXPORT_RECORD
from relearn.inference.exported import ExportedModel, find_folder, is_export
from relearn.paths import CLASSIFIER

if TYPE_CHECKING:
    from relearn.inference.predictor import Predictor


def load_model(path: Path, weights: Path | None = None) -> "ExportedModel | Predictor":
    """Load the exported model of a folder, or its classifier if it has none.

    Parameters
    ----------
    path
        The folder, or the `model.onnx` in it.
    weights
        The network's weights file, if it is no longer at the path that the classifier records.

    Raises
    ------
    RelearnError
        What is there is missing or damaged, or its network cannot be built as it was.
    NetworkError
        `weights` is given for an exported model, or keras is not installed for a classifier.
    """
    folder = find_folder(path)
    if is_export(folder):
        return load_exported(folder, weights)
    check_keras(folder)
    if folder.resolve() != CLASSIFIER.resolve() and not (folder / RECORD).is_file():
        wanted = f"a folder with an exported model ({EXPORT_RECORD}) or a classifier ({RECORD})"
        got = "neither" if folder.is_dir() else "a file" if folder.exists() else "no folder"
        raise IntegrityError(where=folder, wanted=wanted, got=got, advice="`relearn export -o FOLDER` makes one")
    from relearn.inference.predictor import Predictor

    return Predictor(folder, weights)


def load_exported(folder: Path, weights: Path | None = None) -> ExportedModel:
    """Load an exported model, for which no weights file may be given."""
    if weights is not None:
        wanted = f"no file, because {folder} has an exported model, which holds its weights"
        raise NetworkError(where="--weights", wanted=wanted, got=weights, advice="leave it out")
    return ExportedModel(folder)


def check_keras(folder: Path) -> None:
    """Raise `NetworkError` if a folder has a classifier, and keras, which builds its network, is not installed."""
    if (folder / RECORD).is_file() and find_spec("keras") is None:
        raise NetworkError(
            where=folder,
            wanted="an exported model, or keras for the network of this classifier",
            got="neither",
            advice="run `relearn export` where it was trained, or `pip install '.[pipeline,cpu]'` in a clone",
        )
