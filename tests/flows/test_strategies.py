import json
import subprocess
import sys

import numpy as np
import pytest
from flows.strategies import STRATEGIES, Outcome, copy_source, describe_table, find_source, read_accuracy_interval

from conftest import ROOT, SMALL_SET, execute, git, make_environment, write_small_set
from relearn.errors import IntegrityError
from relearn.params.augmentation import AugmentParams
from relearn.params.pipeline import read_params


def make_outcome(name, right, **tuning):
    metrics = {"accuracy_score": np.mean(right), "log_loss": 0.25}
    return Outcome(
        name, metrics, (0.5, 1.0), np.array(right), 12.4, 20.6, 1234, {"tuned": False, "reason": "epochs is 0"} | tuning
    )


def test_each_row_is_compared_with_the_first():
    first = make_outcome("a", [True] * 4 + [False] * 6)
    better = make_outcome("b", [True] * 10, first_layer="block5", reason="fine-tuning paid")
    assert describe_table([first, better]).splitlines()[2:] == [
        "| a | 0.4000 | 0.5000 to 1.0000 | 0.2500 |  | 12 | 21 | 1,234 |",
        "| b | 1.0000 | 0.5000 to 1.0000 | 0.2500 | 0.031 | 12 | 21 | 1,234 |",
        "",
        "b, from block5 on: fine-tuning paid",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "wanted the key accuracy_score, got none; run"),
        (b'{"accuracy_score": 0.5}', "wanted the low and the high end of accuracy_score, got 0.5; run"),
    ],
)
def test_damaged_intervals_of_an_experiment_are_an_error(monkeypatch, content, message):
    monkeypatch.setattr("flows.strategies.read_committed", lambda *_: content)
    with pytest.raises(IntegrityError, match=rf"^reports/intervals\.json of strategy-views: {message}"):
        read_accuracy_interval("strategy-views", {"accuracy_score": 0.5})


def test_views_get_safe_options_only_if_augment_is_off():
    off = read_params(ROOT / "params.yaml").augment
    views = next(strategy for strategy in STRATEGIES if strategy.views)
    assert "augment.shift=0.1" in views.list_options(off)
    assert "evaluate.by=split" in views.list_options(off)
    on = AugmentParams.model_validate(off.model_dump() | {"horizontal_flip": 0.5})
    assert not any(option.startswith("augment.") for option in views.list_options(on))
    frozen = next(strategy for strategy in STRATEGIES if not strategy.views)
    assert not any(option.startswith("augment.") for option in frozen.list_options(off))


def test_an_argument_may_name_the_source():
    assert find_source(["-S", "train.seed=1"], "data/raw/digits.zip") == "data/raw/digits.zip"
    assert find_source(["-S", "restructure.source=a", "-Srestructure.source=b c"], "x") == "b c"


def test_only_a_source_of_the_project_is_copied():
    assert copy_source("data/raw/photos") == ["--copy-paths", "data/raw/photos"]
    assert copy_source("/srv/photos") == []


@pytest.mark.slow
def test_a_failing_experiment_ends_in_one_line_after_its_own(clone):
    answer = execute(clone, "flows.strategies", "-S", "extract.network=vgg61")
    assert answer.returncode != 0
    assert "extract.network: wanted" in answer.stdout
    assert answer.stderr.startswith("relearn: strategy-frozen: dvc exp run ended with exit code ")
    assert answer.stderr.count("\n") == 1
    assert not (clone / ".relearn" / "strategies").exists()


@pytest.mark.slow
@pytest.mark.long
def test_strategies_are_experiments_and_leave_the_workspace(clone, set_params):
    write_small_set(clone)
    (clone / "images").rename(clone / "data" / "raw" / "own")
    set_params(SMALL_SET | {"finetune.keep": "always"}, clone / "params.yaml")
    # An experiment of this name at another commit.
    git(clone, "update-ref", f"refs/exps/{'0' * 2}/{'0' * 38}/strategy-views", "HEAD")
    git_status = ["git", "status", "--porcelain"]
    before = subprocess.check_output(git_status, cwd=clone)
    # Which git ignores, and params.yaml does not name.
    program = "from flows import strategies as s; s.STRATEGIES = s.STRATEGIES[2::2]; s.main()"
    answer = subprocess.run(
        [sys.executable, "-c", program, "-S", "restructure.source=data/raw/own"],
        cwd=clone,
        env=make_environment(clone),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    table = [line.split("|") for line in answer.stdout.splitlines() if line.startswith("| strategy-")]
    assert [cells[1].strip() for cells in table] == [strategy.name for strategy in STRATEGIES[2::2]]
    # The first pays for the features of 28 images and of four views of 16 of them.
    # Fine-tuning keeps what crosses the cut of 22 images, and then all have new features.
    assert [int(cells[-2].replace(",", "")) for cells in table] == [28 + 64, 22 + 28]
    assert "strategy-fine-tuned, from block2_conv1 on: fine-tuning" in answer.stdout
    assert subprocess.check_output(git_status, cwd=clone) == before
    shown = json.loads(execute(clone, "dvc", "exp", "show", "--json").stdout)
    assert "strategy-fine-tuned" in json.dumps(shown)
    compared = execute(clone, "relearn", "compare", "strategy-views", "strategy-fine-tuned", "--json")
    assert json.loads(compared.stdout)["paired"]["n_images"] == 6
