"""Commands from any folder of a repository, and from none."""

import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import ROOT, draw_image, encode_image
from relearn import cli, paths
from relearn.commands.place import enter_root
from relearn.errors import ParamsError
from relearn.evaluation.metrics import CLASS_HEADER
from relearn.evaluation.predictions import HEADER
from relearn.features.store import open_store
from relearn.inference import predictor
from relearn.inference.answers import Answers
from relearn.storage.files import write_csv, write_json


@pytest.fixture
def below(workspace, monkeypatch):
    """A folder below the root, to stand in; what the commands read is at the root."""
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    write_json(paths.EVALUATION_METRICS, {"n_images": 2, "n_classes": 2, "majority_baseline_score": 0.5})
    write_json(paths.INTERVALS, {})
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, [("a", 1, 0, 0, 0), ("b", 1, 1, 1, 1)])
    write_csv(paths.PREDICTIONS, (*HEADER, "probability_a", "probability_b"), [("a/0.png", "0" * 64, "a", "b", 0, 1)])
    (workspace / "notes" / "deep").mkdir(parents=True)
    monkeypatch.chdir("notes/deep")
    return workspace


def call(*arguments):
    return CliRunner().invoke(cli.app, arguments, catch_exceptions=False)


def test_commands_read_the_files_of_the_root(below):
    assert call("report").output.startswith("2 evaluation images of 2 classes\n")
    os.chdir(below / "notes")
    assert call("mistakes").output == "reports/mistakes.html: 1 mistake\n"
    assert (below / "reports" / "mistakes.html").is_file()


def test_paths_of_arguments_start_where_the_user_is(below):
    page = below / "notes" / "deep" / "page.html"
    assert call("mistakes", "--output", "page.html").output == f"{page}: 1 mistake\n"
    assert page.is_file()


def test_store_is_that_of_the_root(below):
    with pytest.raises(Exception, match=r"\.relearn/features-2\.sqlite: no store there"):
        call("store", "show")
    assert Path.cwd() == below
    with pytest.raises(Exception, match="no store there"), open_store(paths.find_feature_store()):
        pass


def test_predict_reads_images_from_here_and_the_classifier_from_the_root(below, monkeypatch):
    """And prints the paths as they were given."""
    asked = []

    class FakePredictor:
        def __init__(self, folder, weights):
            asked.append((Path.cwd(), folder, weights))

        def predict_files(self, inputs, is_online):
            asked.append((Path.cwd(), inputs, is_online))
            return Answers([], [], [])

    monkeypatch.setattr(predictor, "Predictor", FakePredictor)
    here = Path.cwd()
    Path("x.png").write_bytes(encode_image(draw_image(0)))
    call("predict", "x.png")
    assert asked == [(below, Path("models/classifier"), None), (here, ["x.png"], True)]
    asked.clear()
    Path("mine").mkdir()
    Path("mine/classifier.json").touch()
    call("predict", "--model", "mine", "--weights", "../w.h5", "--offline", "x.png")
    assert asked == [(below, here / "mine", here / "../w.h5"), (here, ["x.png"], False)]


def test_predict_needs_no_repository_if_the_model_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"^mine: wanted a folder with an exported model .*, got no folder"):
        call("predict", "--model", "mine", "x.png")
    with pytest.raises(
        ParamsError, match=r"^/.*: wanted a folder with params.yaml and dvc.yaml of relearn, .* got none"
    ):
        call("predict", "x.png")


def test_lineage_of_a_file_and_a_folder_of_here(below):
    Path("x.png").write_bytes(b"x")
    Path("kept").mkdir()
    write_json(Path("kept/classifier.json"), {"record_sha256": "0"})
    with pytest.raises(Exception, match=r"^git tag"):  # so the file was found
        call("lineage", "--image", "x.png")
    os.chdir(below / "notes" / "deep")
    with pytest.raises(Exception, match=r"^git tag"):
        call("lineage", "kept")


@pytest.mark.parametrize(
    "command", ["restructure", "evaluate", "report", "compare", "mistakes", "lineage", "rollback", "decide", "views"]
)
def test_outside_of_a_repository_commands_say_so(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="this one or one above it, got none; go to the folder of your clone"):
        call(command)


def test_help_and_version_need_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("compare", "--help").exit_code == 0
    assert call("--version").output == f"relearn {version('relearn')}\n"


def test_unknown_key_is_reported_by_commands_that_do_not_need_the_parameters(below, set_params, caplog):
    set_params({"train.hed": "svm"}, below / "params.yaml")
    with caplog.at_level(logging.WARNING, "relearn"):
        assert call("report").exit_code == 0
    (line,) = caplog.messages
    assert line.startswith(
        "warning: params.yaml: 1 error\n  train.hed: unknown key, did you mean head?; known here are head, "
    )


@pytest.mark.parametrize("command", ["restructure", "validate", "finetune", "evaluate", "decide", "views"])
def test_unknown_key_stops_commands_that_need_the_parameters(below, set_params, caplog, command):
    set_params({"train.hed": "svm"}, below / "params.yaml")
    with pytest.raises(ParamsError, match=r"train\.hed: unknown key, did you mean head\?; known here are head, "):
        call(command)
    assert not caplog.messages


def test_at_the_root_paths_stay_as_they_are(workspace):
    assert enter_root() == Path()
    assert Path.cwd() == workspace
