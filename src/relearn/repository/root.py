"""The root of a repository of relearn, found from any folder of it."""

import re
from pathlib import Path

from relearn.errors import ParamsError
from relearn.paths import PARAMS

PIPELINE = "dvc.yaml"


def find_root(folder: Path) -> Path:
    """Return the nearest folder, this one or one above it, that has params.yaml and a dvc.yaml that runs relearn.

    In the folder itself params.yaml alone is enough, because stages run without DVC.

    Raises
    ------
    ParamsError
        There is none.
    """
    for candidate in (folder, *folder.parents):
        has_params, pipeline = (candidate / PARAMS).is_file(), candidate / PIPELINE
        if has_params and (_runs_relearn(pipeline) if pipeline.is_file() else candidate == folder):
            return candidate
    raise ParamsError(
        where=folder,
        wanted=f"a folder with {PARAMS} and {PIPELINE} of relearn, this one or one above it",
        got="none",
        advice="go to the folder of your clone",
    )


def _runs_relearn(pipeline: Path) -> bool:
    """Return whether a dvc.yaml has a stage of relearn; pretraining/ has one without."""
    return re.search(rb"\brelearn restructure\b", pipeline.read_bytes()) is not None
