import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from conftest import commit, git, render_markdown
from relearn import cli, paths
from relearn.commands import compare
from relearn.commands.compare import HEADER, compare_revisions, describe_json, describe_markdown, print_table
from relearn.errors import ComparisonError
from relearn.evaluation.paired import compare_paired
from relearn.storage.files import hash_bytes, write_csv


def write_predictions(predicted, labels=None, n_images=60, classes=("cat", "dog"), first=0):
    """Write what was predicted for images, each with a probability of 0.8 for that."""
    rows = []
    for number in range(first, first + n_images):
        label = labels[number] if labels else classes[number % len(classes)]
        answer = predicted(number, label)
        rest = 0.2 / (len(classes) - 1)
        shares = [f"{0.8 if name == answer else rest:.6f}" for name in classes]
        rows.append((f"evaluation/{label}/{number}.png", hash_bytes(str(number).encode()), label, answer, *shares))
    write_csv(paths.PREDICTIONS, (*HEADER, *(f"probability_{name}" for name in classes)), rows)


def swap(label):
    return {"cat": "dog", "dog": "cat"}[label]


@pytest.fixture
def revisions(workspace):
    """`bad` is wrong for 20 of 60 images, `good` for 2 of them, the workspace for 3 of which one is another."""
    git(workspace, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=workspace, check=True)
    write_predictions(lambda n, label: swap(label) if n < 20 else label)
    commit(workspace)
    git(workspace, "tag", "bad")
    write_predictions(lambda n, label: swap(label) if n < 2 else label)
    commit(workspace)
    git(workspace, "tag", "good")
    write_predictions(lambda n, label: swap(label) if n in (0, 1, 30) else label)
    return workspace


def test_mcnemar_is_a_binomial_test_of_the_images_that_differ():
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:3], second[3:15] = True, True
    first[50:], second[50:] = True, True
    found = compare_paired(first, second)
    assert (found.n_images, found.n_only_first, found.n_only_second) == (100, 3, 12)
    assert found.p_value == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert found.verdict == "better"
    assert compare_paired(second, first).verdict == "worse"
    assert compare_paired(first, first) == (100, 0, 0, 1.0)
    assert compare_paired(first, first).verdict == "no clear difference"


def test_five_that_differ_one_way_are_no_clear_difference_and_six_are():
    right = np.ones(50, bool)
    for n_wrong, verdict in ((5, "no clear difference"), (6, "worse")):
        assert compare_paired(right, np.arange(50) >= n_wrong).verdict == verdict


@pytest.mark.slow
def test_better_worse_and_no_clear_difference(revisions):
    better = compare_revisions("bad", "good")
    assert better.sentence == (
        "good is better than bad: of 60 images 18 right in good alone, 0 in bad alone; "
        "McNemar's exact test: p = 7.63e-06. "
        "By their intervals clearly better: balanced_accuracy_score, macro_f1_score, roc_auc_score, log_loss."
    )
    assert compare_revisions("good", "bad").sentence.startswith("bad is worse than good: ")
    same = compare_revisions("HEAD", "workspace")
    assert same.sentence.startswith(
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
    # Of 60 paired differences 18 are 1 and the rest 0: their mean has a deviation of sqrt(0.3 * 0.7 / 60).
    half = 1.96 * np.sqrt(0.3 * 0.7 / 60)
    assert (accuracy.low, accuracy.high) == (pytest.approx(0.3 - half, abs=0.03), pytest.approx(0.3 + half, abs=0.03))
    assert found["log_loss"].high < 0
    same = {d.name: d for d in compare_revisions("good", "good").differences}
    assert all((d.difference, d.low, d.high) == (0, 0, 0) for d in same.values())
    assert compare_revisions("good", "good").sentence == "good and good predict the same."


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
    assert "good is better than bad" in printed
    assert "  and 8 more; --json lists them" in printed
    sha = git(revisions, "rev-parse", "good").strip()
    print_table(compare_revisions(sha, "workspace"))
    assert f" {sha[:7]} " in capsys.readouterr().out


def test_names_are_not_live(capsys):
    """Neither in Markdown nor on a terminal; JSON has them exactly."""
    revision, label, path = "a|b<img>", "<img src=x onerror=alert(1)>", "evaluation/![](http:host)\u202e.png"

    def predict(answer):
        rows = {(f"{n:064x}", 0): [path, f"{n:064x}", label, answer, "0.9", "0.1"] for n in range(9)}
        return compare.Predictions([label, "dog"], rows)

    comparison = compare.compare_predictions(revision, "\x1b[2J", predict(label), predict("dog"))
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


@pytest.mark.parametrize("cells", [(-1, 2), ("nan", 1), ("inf", "-inf"), (0.5, 0.4), ("x", 1)])
def test_what_are_no_probabilities_is_told(workspace, cells):
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_a", "probability_b"), [("0.png", "0" * 64, "a", "a", *cells)])
    with pytest.raises(ComparisonError, match=r"0\.png: wanted one of a, b and probabilities that sum to 1, got a, "):
        compare.read_predictions(compare.WORKSPACE)


@pytest.mark.slow
def test_images_that_one_has_not_got_are_told(revisions, capsys):
    write_predictions(lambda n, label: label, n_images=50, first=20)
    comparison = compare_revisions("good", "workspace")
    assert (comparison.n_common, comparison.n_only_in_first, comparison.n_only_in_second) == (40, 20, 10)
    print_table(comparison)
    assert "20 evaluation images of good are not compared, for the other has not got them" in capsys.readouterr().out
    write_predictions(lambda n, label: label, n_images=5, first=1000)
    with pytest.raises(
        ComparisonError, match=r"wanted evaluation images that good and workspace have in common, got no"
    ):
        compare_revisions("good", "workspace")


@pytest.mark.slow
def test_copies_within_the_split_are_images_each(revisions):
    text = paths.PREDICTIONS.read_text()
    paths.PREDICTIONS.write_text(text + text.splitlines()[-1].replace("/59.png", "/59_copy.png") + "\n")
    comparison = compare_revisions("workspace", "workspace")
    assert comparison.n_common == 61
    assert compare_revisions("good", "workspace").n_only_in_second == 1


@pytest.mark.slow
def test_other_classes_can_be_compared(revisions):
    write_predictions(lambda n, label: label, labels=["cat", "dog"] * 30, classes=("cat", "cow", "dog"))
    assert compare_revisions("bad", "workspace").paired.verdict == "better"


@pytest.mark.slow
def test_what_cannot_be_compared_is_told(revisions):
    with pytest.raises(
        ComparisonError, match=r"predictions\.csv of nothing: wanted a revision of git that has it, got: "
    ):
        compare_revisions("nothing", "workspace")
    write_predictions(lambda n, label: label, labels=["dog", "cat"] * 30)
    with pytest.raises(
        ComparisonError, match=r"0\.png: good has the label cat, workspace dog; what is right for one is"
    ):
        compare_revisions("good", "workspace")
    paths.PREDICTIONS.write_text("a,b\n1,2\n")
    with pytest.raises(
        ComparisonError, match=r"of workspace: wanted rows of path, sha256, label, predicted and probab"
    ):
        compare_revisions("good", "workspace")
    for text in ("", ",".join(HEADER) + "\n"):
        paths.PREDICTIONS.write_text(text)
        with pytest.raises(
            ComparisonError, match="of workspace: wanted rows of path, sha256, label, predicted and proba"
        ):
            compare_revisions("good", "workspace")
    paths.PREDICTIONS.write_bytes(b"\xff\xfe")
    with pytest.raises(ComparisonError, match="of workspace: wanted CSV in UTF-8, got: "):
        compare_revisions("good", "workspace")
    header = ",".join((*HEADER, "probability_cat", "probability_dog"))
    for cells in ("cow,0.5,0.5", "cat,x,0.5", "cat,0,0", "cat,nan,0.5"):
        paths.PREDICTIONS.write_text(f"{header}\n1.png,{'0' * 64},cat,{cells}\n")
        with pytest.raises(
            ComparisonError, match=r"1\.png: wanted one of cat, dog and probabilities that sum to 1, got "
        ):
            compare_revisions("good", "workspace")
    with pytest.raises(ComparisonError, match="wanted a revision of git, or `workspace`, got an empty name"):
        compare_revisions("", "workspace")
    paths.PREDICTIONS.unlink()
    with pytest.raises(ComparisonError, match=r"predictions\.csv: no such file; run `dvc repro`"):
        compare_revisions("good", "workspace")


@pytest.mark.slow
def test_command(revisions):
    run = CliRunner().invoke
    assert "No clear difference in accuracy between HEAD and workspace" in run(cli.app, ["compare"]).stdout
    assert json.loads(run(cli.app, ["compare", "bad", "good", "--json"]).stdout)["paired"]["n_only_second"] == 18
    assert run(cli.app, ["compare", "bad", "--md"]).stdout.startswith("| | bad | workspace | difference |")
    assert run(cli.app, ["compare", "--md", "--json"]).exit_code == 2
    assert compare.WORKSPACE == "workspace"
