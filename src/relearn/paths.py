"""Where the stages meet: every path that more than one of them knows, relative to the repository's root."""

import os
from pathlib import Path

from relearn.errors import ParamsError

PARAMS = Path("params.yaml")


def find_cache() -> Path:
    """Return the folder of what saves time and may be deleted: `RELEARN_CACHE`, or `.relearn` of the main repository.

    A worktree of git and the folder of a DVC experiment share it with the repository that they came from.
    """
    if named := os.environ.get("RELEARN_CACHE"):
        try:
            return Path(named).expanduser()
        except RuntimeError:
            raise ParamsError(
                where="RELEARN_CACHE", wanted="a folder", got=f"{named!r}, the home of nobody", advice="set another"
            ) from None
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.parts[-2:] == ("tmp", "exps") and folder.parent.parent.name == ".dvc":
            return folder.parent.parent.parent / ".relearn"
    if not Path(".git").is_file():
        return Path(".relearn")
    try:
        link = os.fsdecode(Path(".git").read_bytes())  # gitdir: MAIN/.git/worktrees/NAME
    except OSError:
        return Path(".relearn")
    git = Path(link.removeprefix("gitdir:").strip())
    is_worktree = git.parent.name == "worktrees" and len(git.parents) > 2 and "\0" not in link
    return git.parents[2] / ".relearn" if is_worktree else Path(".relearn")


def find_inspections() -> Path:
    """Return the database of what was seen of images."""
    return find_cache() / "inspections-1.sqlite"


def find_feature_store() -> Path:
    """Return the database of features."""
    return find_cache() / "features-2.sqlite"


RELEASE = Path("release")

DATASET = Path("data/dataset")
MANIFEST = Path("data/manifest.csv")
SIGHTINGS = Path("data/sightings.csv")
HASHES = Path("data/hashes.npy")
EXCLUDED = Path("data/excluded.csv")
CORRECTED = Path("data/corrected.csv")
SPLITS = Path("data/splits.csv")
SOURCE = Path("data/source.json")

VALIDATION_REPORT = Path("reports/validation.json")
VALIDATION_PAGE = Path("reports/validation.html")

NETWORK = Path("models/network")
TUNED_WEIGHTS = "network.weights.h5"  # there, and beside what was made by them: features, classifier
FINETUNING_METRICS = Path("metrics/finetuning.json")

FEATURES = Path("data/features")
VERIFICATION_REPORT = Path("reports/verification.json")

CLASSIFIER = Path("models/classifier")
EXPORTED = Path("models/exported")
TRAINING_METRICS = Path("metrics/training.json")
SEARCH = Path("reports/search.csv")

EVALUATION_METRICS = Path("metrics/evaluation.json")
INTERVALS = Path("reports/intervals.json")
PREDICTIONS = Path("reports/predictions.csv")
EVALUATION_PAGE = Path("reports/evaluation.html")
CLASS_REPORT = Path("reports/classes.csv")
SUSPECTS = Path("reports/suspects.csv")
SUSPECTS_PAGE = Path("reports/suspects.html")
MISTAKES_PAGE = Path("reports/mistakes.html")
VIEWS_PAGE = Path("reports/views.html")

PLOTS = Path("reports/plots")
FINETUNING_CURVE = PLOTS / "finetuning.csv"
SCORE_BY_C = PLOTS / "score_by_c.csv"
CONFUSION = PLOTS / "confusion.csv"
ROC = PLOTS / "roc.csv"
PRECISION_RECALL = PLOTS / "precision_recall.csv"
CALIBRATION = PLOTS / "calibration.csv"
