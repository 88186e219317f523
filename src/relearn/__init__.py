"""Reproducible transfer learning for image classification.

`load` returns a trained classifier, `load_features` the features that classifiers are trained on. Each imports what it
needs when it is called, so that `relearn --help` does not pay for it.
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relearn.explanation.explainer import Explainer
    from relearn.features.arrays import Features
    from relearn.inference.exported import ExportedModel

__all__ = ["__version__", "load", "load_features"]

__version__: str


def load(
    folder: "str | PathLike[str]" = "models/classifier", weights: "str | PathLike[str] | None" = None
) -> "Explainer | ExportedModel":
    """Load a classifier, whose `predict`, `features` and `explain` take images, or an exported model with `predict`.

    Parameters
    ----------
    folder
        What `relearn train` or `relearn export` wrote; of a folder with both it is the classifier. The `model.onnx` of
        an export is that one.
    weights
        The network's weights file, if it is no longer at the path that the classifier records.

    Raises
    ------
    relearn.errors.RelearnError
        The classifier is missing or damaged, or its network cannot be built as it was.
    """
    from pathlib import Path

    from relearn.inference.classifier import RECORD
    from relearn.inference.exported import find_folder, is_export
    from relearn.inference.loading import check_keras, load_exported

    path, moved = Path(folder), None if weights is None else Path(weights)
    exported = find_folder(path)
    if exported != path or (is_export(path) and not (path / RECORD).is_file()):
        return load_exported(exported, moved)
    check_keras(path)
    from relearn.explanation.explainer import Explainer

    return Explainer(path, moved, is_lazy=False)


def load_features(
    split: str | None = None, folder: "str | PathLike[str]" = "data/features", *, views: bool = False
) -> "Features":
    """Load the features, labels, paths and hashes of the images of one split, or of all.

    Parameters
    ----------
    split
        `training`, `validation` or `evaluation`.
    folder
        What `relearn extract` wrote; `manifest.csv` stands beside it.
    views
        Whether the rows of an image's augmented views (`extract.views`) follow its own; only training images have some.

    Raises
    ------
    relearn.errors.RelearnError
        There is no such split, or a file is missing or damaged.
    """
    from pathlib import Path

    from relearn.features.arrays import read_arrays

    return read_arrays(Path(folder), split, views)


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("relearn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
