import json

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import change_params, commit, git, init_dvc, render_markdown, write_groups
from relearn import cli, paths
from relearn.commands import compare
from relearn.commands.compare import (
    compare_revisions,
    describe_changes,
    describe_json,
    describe_markdown,
    describe_verdict,
    print_table,
)
from relearn.errors import ComparisonError, IntegrityError, RepositoryError
from relearn.evaluation.comparison import compare_predictions
from relearn.evaluation.paired import compute_paired_interval
from relearn.evaluation.predictions import Predictions, read_predictions, write_predictions
from relearn.storage.files import hash_bytes


def predict(predicted, labels=None, n_images=60, classes=("cat", "dog"), first=0):
    """Write what was predicted for images, each with a probability of 0.8 for that."""
    numbers = range(first, first + n_images)
    labels = [labels[number] if labels else classes[number % len(classes)] for number in numbers]
    answers = [predicted(number, label) for number, label in zip(numbers, labels, strict=True)]
    names = [f"evaluation/{label}/{number}.png" for number, label in zip(numbers, labels, strict=True)]
    rest = 0.2 / (len(classes) - 1)
    probabilities = np.array([[0.8 if name == answer else rest for name in classes] for answer in answers])
    hashes = [hash_bytes(str(number).encode()) for number in numbers]
    write_predictions(paths.PREDICTIONS, Predictions(list(classes), names, hashes, labels, answers, probabilities))


def swap(label):
    return {"cat": "dog", "dog": "cat"}[label]


@pytest.fixture
def revisions(workspace):
    """`bad` is wrong for 20 of 60 images, `good` for 2 of them, the workspace for 3 of which one is another."""
    git(workspace, "init", "--quiet")
    init_dvc(workspace)
    predict(lambda n, label: swap(label) if n < 20 else label)
    commit(workspace)
    git(workspace, "tag", "bad")
    predict(lambda n, label: swap(label) if n < 2 else label)
    commit(workspace)
    git(workspace, "tag", "good")
    predict(lambda n, label: swap(label) if n in (0, 1, 30) else label)
    return workspace


@pytest.mark.slow
def test_groups_are_drawn_if_the_parameters_say_so(revisions, capsys):
    change_params({"evaluate.resample": "groups"})
    with pytest.raises(IntegrityError, match=r"data/splits\.csv: no such file"):
        compare_revisions("bad", "good")
    write_groups({hash_bytes(str(number).encode()): f"{number // 6}" for number in range(60)})
    print_table(compare_revisions("bad", "good"))
    assert "The intervals draw 10 groups, not images.\n" in capsys.readouterr().out


@pytest.mark.slow
def test_better_worse_and_no_clear_difference(revisions):
    better = compare_revisions("bad", "good")
    assert describe_verdict(better) == (
        "good is better than bad in accuracy: of 60 images 18 right in good alone, 0 in bad alone, +0.3000 (95 % "
        "interval +0.1990 to +0.4251); better by a bootstrap interval of its own: balanced_accuracy_score, "
        "macro_f1_score, roc_auc_score, log_loss."
    )
    assert describe_verdict(compare_revisions("good", "bad")).startswith("bad is worse than good in accuracy: ")
    same = compare_revisions("HEAD", "workspace")
    assert describe_verdict(same).startswith(
        "No clear difference in accuracy between HEAD and workspace: of 60 images 0 right in workspace"
    )
    assert [image["path"] for image in same.only_first] == ["evaluation/cat/30.png"]
    assert same.only_first[0] == {
        "path": "evaluation/cat/30.png",
        "label": "cat",
        "predicted_first": "cat",
        "predicted_second": "dog",
    }
    assert same.only_second == []


@pytest.mark.slow
def test_differences_have_paired_intervals(revisions):
    found = {d.name: d for d in compare_revisions("bad", "good").differences}
    accuracy = found["accuracy_score"]
    assert (accuracy.first, accuracy.second) == (pytest.approx(40 / 60), pytest.approx(58 / 60))
    assert accuracy.difference == pytest.approx(0.3)
    assert (accuracy.low, accuracy.high) == compute_paired_interval(60, 0, 18, 0.95)
    assert found["log_loss"].high < 0
    accuracy, *same = compare_revisions("good", "good").differences
    assert accuracy[3:] == (0, *compute_paired_interval(60, 0, 0, 0.95))
    assert all((d.difference, d.low, d.high) == (0, 0, 0) for d in same)
    assert describe_verdict(compare_revisions("good", "good")) == "good and good predict the same."


@pytest.mark.slow
def test_output(revisions, capsys):
    comparison = compare_revisions("bad", "good")
    value = json.loads(describe_json(comparison))
    assert value["paired"]["verdict"] == "better"
    assert len(value["only_second"]) == 18
    assert value["differences"][0]["name"] == "accuracy_score"
    markdown = describe_markdown(comparison)
    assert "| accuracy_score | 0.6667 | 0.9667 | +0.3000 |" in markdown
    assert r"- evaluation/cat/10\.png, cat" in markdown
    print_table(comparison)
    printed = capsys.readouterr().out
    assert "accuracy_score" in printed
    assert "good is better than bad in accuracy" in printed
    assert "  and 8 more; --json lists them" in printed
    sha = git(revisions, "rev-parse", "good").strip()
    print_table(compare_revisions(sha, "workspace"))
    assert f" {sha[:7]} " in capsys.readouterr().out


def test_names_are_not_live(capsys):
    """Neither in Markdown nor on a terminal; JSON has them exactly."""
    revision, label, path = "a|b<img>", "<img src=x onerror=alert(1)>", "evaluation/![](http:host)\u202e.png"

    def answer(predicted):
        hashes = [f"{n:064x}" for n in range(9)]
        probabilities = np.tile([0.9, 0.1], (9, 1))
        return Predictions([label, "dog"], [path] * 9, hashes, [label] * 9, [predicted] * 9, probabilities)

    comparison = compare_predictions(revision, "\x1b[2J", answer(label), answer("dog"))
    shown, tags = render_markdown(describe_markdown(comparison))
    assert f"Right in {revision} alone" in shown
    assert f"{path}, {label}".replace("\u202e", r"\u202e") in shown
    assert tags == {"table", "thead", "tbody", "tr", "th", "td", "p", "ul", "li"}
    print_table(comparison)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    text = describe_json(comparison)
    assert "\u202e" not in text
    assert json.loads(text)["only_first"][0]["path"] == path


def test_a_workspace_whose_parameters_changed_is_named_everywhere(workspace, monkeypatch, capsys):
    predict(lambda n, label: label)
    changes = ["extract.network"]
    monkeypatch.setattr(compare, "list_changes", lambda _: changes)
    comparison = compare_revisions("workspace", "workspace")
    told = (
        "The predictions of the workspace were made before these changed: extract.network; `make repro` updates them."
    )
    print_table(comparison)
    assert f"\n{told}\n" in capsys.readouterr().out
    assert told in render_markdown(describe_markdown(comparison))[0]
    assert json.loads(describe_json(comparison))["caveat"] == told
    changes.extend(f"train.key{number}" for number in range(6))
    assert "extract.network, train.key0, train.key1, train.key2, train.key3 and 2 more; `make" in describe_changes()
    changes.clear()
    assert describe_changes() == ""
    print_table(compare_revisions("workspace", "workspace"))
    assert "make repro" not in capsys.readouterr().out

    def fail(_):
        raise RepositoryError("busy", where="dvc status")

    monkeypatch.setattr(compare, "list_changes", fail)
    assert (
        describe_changes() == "Whether the predictions of the workspace are up to date is not known: dvc status: busy."
    )


@pytest.mark.slow
def test_images_that_one_lacks_are_counted(revisions, capsys):
    predict(lambda n, label: label, n_images=50, first=20)
    comparison = compare_revisions("good", "workspace")
    assert (comparison.n_common, comparison.n_only_in_first, comparison.n_only_in_second) == (40, 20, 10)
    print_table(comparison)
    assert "20 evaluation images of good not compared: missing in the other" in capsys.readouterr().out
    predict(lambda n, label: label, n_images=5, first=1000)
    with pytest.raises(
        ComparisonError, match="wanted images that good and workspace have both predicted, got none of 60 and 5; "
    ):
        compare_revisions("good", "workspace")


def test_folds_are_named(workspace, capsys):
    predict(lambda n, label: label)
    split = read_predictions(paths.PREDICTIONS)
    folds = split._replace(paths=[path.replace("evaluation/", "training/") for path in split.paths])
    line = "Both in folds (evaluate.by): each image was predicted by a head that was not fitted on it.\n"
    print_table(compare_predictions("a", "b", folds, folds))
    assert capsys.readouterr().out.endswith(line)
    print_table(compare_predictions("a", "b", split, split))
    assert line not in capsys.readouterr().out


@pytest.mark.slow
def test_copies_within_the_split_are_images_each(revisions):
    text = paths.PREDICTIONS.read_text()
    paths.PREDICTIONS.write_text(text + text.splitlines()[-1].replace("/59.png", "/59_copy.png") + "\n")
    comparison = compare_revisions("workspace", "workspace")
    assert comparison.n_common == 61
    assert compare_revisions("good", "workspace").n_only_in_second == 1


@pytest.mark.slow
def test_other_classes_can_be_compared(revisions):
    predict(lambda n, label: label, labels=["cat", "dog"] * 30, classes=("cat", "cow", "dog"))
    assert compare_revisions("bad", "workspace").paired.verdict == "better"


@pytest.mark.slow
def test_what_cannot_be_compared_is_an_error(revisions):
    with pytest.raises(
        ComparisonError, match=r"predictions\.csv of nothing: wanted a revision of git that has it, got "
    ):
        compare_revisions("nothing", "workspace")
    predict(lambda n, label: label, labels=["dog", "cat"] * 30)
    with pytest.raises(ComparisonError, match=r"0\.png: wanted the label cat of good, got dog in workspace; compare"):
        compare_revisions("good", "workspace")
    paths.PREDICTIONS.write_text("a,b\n1,2\n")
    commit(revisions)
    for revision in ("HEAD", "workspace"):
        with pytest.raises(
            IntegrityError, match=r"predictions\.csv.*: wanted the columns path, sha256, .*, got a, b; "
        ):
            compare_revisions("good", revision)
    paths.PREDICTIONS.unlink()
    with pytest.raises(IntegrityError, match=r"predictions\.csv: no such file; run `dvc repro`"):
        compare_revisions("good", "workspace")


@pytest.mark.slow
def test_command(revisions):
    run = CliRunner().invoke
    assert "No clear difference in accuracy between HEAD and workspace" in run(cli.app, ["compare"]).stdout
    assert json.loads(run(cli.app, ["compare", "bad", "good", "--json"]).stdout)["paired"]["n_only_second"] == 18
    assert run(cli.app, ["compare", "bad", "--md"]).stdout.startswith("| | bad | workspace | difference |")
    assert run(cli.app, ["compare", "--md", "--json"]).exit_code == 2
    assert compare.WORKSPACE == "workspace"
