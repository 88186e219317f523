"""Transfer learning in five ways, each as a DVC experiment, and one table. `make strategies` runs them.

Usage: python -m flows.strategies [ARGUMENT OF dvc exp run]...

All use `params.yaml` as it is, but for heads, views and fine-tuning; an argument such as `-S extract.network=...` holds
for all of them. They run in folders of their own, so that the workspace stays as it is, and with a store of features
of their own, so that each pays for what it is the first to need.
"""

import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.child import ROOT, exit_with, run_child
from relearn import paths
from relearn.commands.compare import read_revision
from relearn.errors import RelearnError
from relearn.evaluation.metrics import check_intervals
from relearn.evaluation.paired import compare_paired
from relearn.features.store import FeatureStore
from relearn.networks.tuned import RECORD
from relearn.params.augmentation import AugmentParams
from relearn.params.pipeline import read_params
from relearn.repository.committed import read_committed
from relearn.repository.git import run_git
from relearn.repository.lock import hold_lock
from relearn.storage.files import parse_json

N_VIEWS = 4
N_EPOCHS = 8
# What leaves letters and digits what they are: no flips, no rotation.
SAFE_VIEWS = {"augment.shift": 0.1, "augment.zoom_min": 0.9, "augment.zoom_max": 1.1}


class Strategy(NamedTuple):
    """A way of transfer learning: the name of its experiment, and the parameters in which it differs."""

    name: str
    head: str
    views: int = 0
    epochs: int = 0

    def list_options(self, augment: AugmentParams) -> list[str]:
        """Return the options of `dvc exp run`; for views, `augment` gets safe options if all of it is off."""
        values: dict[str, Any] = {
            "train.head": self.head,
            "train.search": "[]",
            "extract.views": self.views,
            "finetune.epochs": self.epochs,
            "evaluate.by": "split",  # folds cannot judge a network that was tuned
        }
        if self.views and augment.is_off:
            values |= SAFE_VIEWS
        return [part for key, value in values.items() for part in ("-S", f"{key}={value}")]


STRATEGIES = (
    Strategy("strategy-frozen", "logistic_regression"),
    Strategy("strategy-frozen-dense", "dense"),
    Strategy("strategy-views", "logistic_regression", views=N_VIEWS),
    Strategy("strategy-views-dense", "dense", views=N_VIEWS),
    Strategy("strategy-fine-tuned", "logistic_regression", epochs=N_EPOCHS),
)


class Outcome(NamedTuple):
    """What a strategy brought and cost.

    metrics, accuracy_interval : of the evaluation split
    right : (images,) bool, of the same images for all strategies
    seconds, cpu_seconds : of the whole pipeline
    n_images : how many went through the network, views of them too
    tuning : the content of `network.json`
    """

    name: str
    metrics: dict[str, Any]
    accuracy_interval: tuple[float, float]
    right: np.ndarray
    seconds: float
    cpu_seconds: float
    n_images: int
    tuning: dict[str, Any]


def run_strategy(strategy: Strategy, arguments: list[str]) -> Outcome:
    """Run an experiment in place of an earlier one of its name, and return what it brought.

    Raises
    ------
    RelearnError
        It failed; its lines have said why.
    """
    params = read_params(ROOT / paths.PARAMS)
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--force", "--name", strategy.name]
    command += copy_source(find_source(arguments, params.restructure.source))
    command += [*strategy.list_options(params.augment), *arguments]
    head = run_git(ROOT, "rev-parse", "HEAD").strip()
    start, cpu_start, n_before = time.monotonic(), read_cpu_seconds(), count_images()
    code, last_lines = run_child(command, write_line)
    if code:
        raise RelearnError(f"dvc exp run ended with exit code {code}: {last_lines[-1]}", where=strategy.name)
    remove_namesakes(strategy.name, head)
    seconds, cpu_seconds = time.monotonic() - start, read_cpu_seconds() - cpu_start
    tuned_on = read_json_of(strategy.name, paths.FINETUNING_METRICS).get("n_images_below", 0)
    metrics = read_json_of(strategy.name, paths.EVALUATION_METRICS, "accuracy_score", "log_loss")
    return Outcome(
        name=strategy.name,
        metrics=metrics,
        accuracy_interval=read_accuracy_interval(strategy.name, metrics),
        right=read_revision(strategy.name).right,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        n_images=count_images() - n_before + tuned_on,
        tuning=read_json_of(strategy.name, paths.NETWORK / RECORD),
    )


def find_source(arguments: list[str], source: str) -> str:
    """Return the source of the images: `restructure.source`, unless an argument sets it."""
    key = "restructure.source="
    named = [text.partition(key)[2] for text in arguments if text.removeprefix("-S").startswith(key)]
    return named[-1] if named else source


def copy_source(source: str) -> list[str]:
    """Return what lets `dvc exp run` bring the source along: Git may ignore it, and DVC would leave it behind.

    DVC fails to copy an absolute path, and needs no copy of it.
    """
    return [] if Path(source).is_absolute() else ["--copy-paths", source]


def remove_namesakes(name: str, head: str) -> None:
    """Remove experiments of this name that began at another commit than `head`; else the name would be ambiguous."""
    kept = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    for reference in run_git(ROOT, "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}").split():
        if reference != kept:
            run_git(ROOT, "update-ref", "-d", reference)


def read_json_of(revision: str, path: Path, *keys: str) -> dict[str, Any]:
    """Return the content of a JSON file of an experiment, which has at least the keys given."""
    return parse_json(read_committed(ROOT, revision, path), f"{path} of {revision}", keys)


def read_accuracy_interval(revision: str, metrics: dict[str, Any]) -> tuple[float, float]:
    """Return the interval of the accuracy of an experiment with these metrics."""
    intervals = read_json_of(revision, paths.INTERVALS, "accuracy_score")
    return check_intervals(intervals, metrics, f"{paths.INTERVALS} of {revision}")["accuracy_score"]


def read_cpu_seconds() -> float:
    """Return the seconds of all cores that the children which have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def count_images() -> int:
    """Return how many images and views the store of features holds."""
    with FeatureStore(paths.find_feature_store()) as store:
        return sum(feature_set.n_images + feature_set.n_views for feature_set in store.list_feature_sets())


def describe_table(outcomes: list[Outcome]) -> str:
    """Return one row per strategy as Markdown, each against the first by McNemar's exact test."""
    lines = [
        "| experiment | accuracy | 95 % interval | log loss | p | seconds | CPU seconds | images through the network |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = outcomes[0]
    for outcome in outcomes:
        metrics, (low, high) = outcome.metrics, outcome.accuracy_interval
        p_value = "" if outcome is first else f"{compare_paired(first.right, outcome.right).p_value:.2g}"
        lines.append(
            f"| {outcome.name} | {metrics['accuracy_score']:.4f} | {low:.4f} to {high:.4f} | "
            f"{metrics['log_loss']:.4f} | {p_value} | {outcome.seconds:.0f} | "
            f"{outcome.cpu_seconds:.0f} | {outcome.n_images:,} |"
        )
    notes = [
        f"{outcome.name}, from {outcome.tuning['first_layer']} on: {outcome.tuning['reason']}"
        for outcome in outcomes
        if "first_layer" in outcome.tuning
    ]
    return "\n".join([*lines, "", *notes])


def write_line(line: str) -> None:
    """Write a line to the terminal as it comes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run all strategies; the table has those that ended, also if one fails or this is interrupted."""
    cache = ROOT / ".relearn" / "strategies"
    outcomes: list[Outcome] = []
    try:
        with hold_lock(cache.with_suffix(".lock"), "make strategies"):
            shutil.rmtree(cache, ignore_errors=True)  # of a killed run
            os.environ["RELEARN_CACHE"] = str(cache)  # of this process and of all that it starts
            try:
                for strategy in STRATEGIES:
                    write_line(f"{strategy.name}:")
                    outcomes.append(run_strategy(strategy, sys.argv[1:]))
            finally:
                shutil.rmtree(cache, ignore_errors=True)
                if outcomes:
                    write_line(f"\n{describe_table(outcomes)}")
    except RelearnError as error:
        exit_with(error)


if __name__ == "__main__":
    main()
