"""A repository in which git has all that a retraining makes, and what a retraining does to it."""

import json
import os

from conftest import ROOT, git
from relearn import paths
from relearn.params.pipeline import read_params
from relearn.repository.git import add_worktree, format_message, run_git
from relearn.retraining.publication import publish_record
from relearn.retraining.records import write_record
from relearn.retraining.start import find_start, list_kept_files

PARAMS = read_params(ROOT / "params.yaml").retrain
BRANCH = PARAMS.branch
PIPELINE = """
stages:
  evaluate:
    cmd: x
    outs:
    - data/features
    - data/splits.csv: {cache: false, persist: true}
    - reports/predictions.csv: {cache: false}
    - models/classifier
    metrics:
    - metrics/evaluation.json: {cache: false}
"""
FIRST = {"promoted": True, "verdict": "first", "reason": "there was no production model", "failed_checks": []}
WORSE = {"promoted": False, "verdict": "worse", "reason": "of 10", "failed_checks": []}
BETTER = {"promoted": True, "verdict": "better", "reason": "of 10", "failed_checks": []}
BLOCKED = {"promoted": False, "verdict": "blocked by data", "reason": "1 failed", "failed_checks": ["classes"]}


def write_candidate(folder, number):
    """Write what a run of the pipeline leaves, another one for each number; here git has all of it."""
    files = {
        "data/raw/photos.dvc": f"outs: [{{md5: '{number}', path: photos}}]",
        "dvc.lock": f"lock {number}",
        "data/manifest.csv": f"sha256,split\n{number:064x},training\n{'f' * 64},evaluation\n",
        "data/splits.csv": f"splits {number}",
        "models/classifier/head.onnx": f"head {number}",
        "models/classifier/classifier.json": json.dumps({"record_sha256": str(number)}),
        "metrics/evaluation.json": f"metrics {number}",
        "reports/predictions.csv": f"predictions {number}",
        "reports/validation.json": f"validation {number}",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def retrain(root, number, decision, landing_sha256=None, publish=True, overrides=()):
    """Go through a retraining whose pipeline makes candidate `number`."""
    start = find_start(root, "main", PARAMS)
    worktree = root / "worktree"
    add_worktree(root, worktree, start.base, start.production or start.base, list_kept_files(root, start))
    write_candidate(worktree, number)
    made, version = write_record(root, worktree, start, decision, landing_sha256, overrides=overrides)
    if publish:
        publish_record(root, BRANCH, made, start.tip)
    return made, version


def format_trailers(**changes):
    """Return a message with all the trailers of a record, `In_use` for In-use."""
    trailers = {"Verdict": "better", "In-use": "v1", "Base": "b", "Data-sha256": "none", "Landing-sha256": "none"}
    return format_message("Record", "", trailers | {key.replace("_", "-"): value for key, value in changes.items()})


def note_on_top(root, message, branch=BRANCH):
    """Commit on the branch of records as a person would."""
    git(root, "switch", "--quiet", branch)
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)
    git(root, "switch", "--quiet", "main")


def read_current(root):
    current = root / paths.RELEASE / "current"
    return os.readlink(current).split("/")[-1], (current / "head.onnx").read_text()


def show(root, revision, name):
    return run_git(root, "show", f"{revision}:{name}")


def copy_all(landing, source):
    """Copy what can be taken from a landing folder, which is everything."""
    arrivals, left = landing.copy_in(landing.look(0).ready, source)
    assert left == []
    return arrivals
