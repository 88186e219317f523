"""What an installation without the extras answers: their modules are hidden from a child process."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from conftest import ROOT, draw_image, encode_image, write_images
from inference.exports import write_export
from relearn.commands.extras import MODULES, describe_missing
from relearn.storage.files import write_json
from test_setup import list_imports, normalize, read_declared

# Without rich, which is in every installation, because typer shows its errors with it.
EXTRA = sorted({*MODULES["pipeline"], *MODULES["serve"]} - {"rich"})
RUN = "from relearn.cli import main; main()"
HIDE = "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split())); "
SHOW = (
    "import atexit, sys; names = sys.argv.pop(1).split(); "
    "atexit.register(lambda: print([name for name in names if name in sys.modules])); "
)


def relearn(*arguments, before=HIDE):
    command = [sys.executable, "-c", before + RUN, " ".join(EXTRA), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A folder outside of any repository, with a photo."""
    monkeypatch.chdir(tmp_path)
    Path("x.png").write_bytes(encode_image(draw_image(0)))


def test_modules_are_those_that_the_code_imports():
    distributions, declared = packages_distributions(), read_declared()
    imported = {module for file in (ROOT / "src").rglob("*.py") for module in list_imports(file)}
    for extra, modules in MODULES.items():
        ours = {m for m in imported if declared[extra] & set(map(normalize, distributions.get(m, ())))}
        assert ours <= set(modules)
        if extra == "pipeline":
            assert ours == set(modules)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ModuleNotFoundError("No module named 'sklearn'", name="sklearn"), "`pipeline`, got .* without sklearn; "),
        (ModuleNotFoundError("No module named 'sklearn.svm'", name="sklearn.svm"), "`pipeline`, .* without sklearn; "),
        (ModuleNotFoundError("No module named 'scipy.x'", name="scipy.x"), None),
        (
            ModuleNotFoundError("No module named 'fastapi'", name="fastapi"),
            "`serve`, got .* without fastapi; ",
        ),
        (ModuleNotFoundError("No module named 'relearn.x'", name="relearn.x"), None),
        (ModuleNotFoundError("No module named 'x'", name="x"), None),
        (ImportError("cannot import name 'x' from 'sklearn'", name="sklearn"), None),
    ],
)
def test_only_a_missing_module_of_an_extra_is_named(monkeypatch, error, wanted):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    found = describe_missing(error)
    assert (found is None) if wanted is None else re.search(wanted, found)


def test_prediction_with_an_exported_model_needs_no_extra(away):
    write_export(Path("model"))
    answer = relearn("predict", "--model", "model", "x.png")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.split()[:2] in (["x.png", "blue"], ["x.png", "red"])


def test_prediction_with_an_exported_model_imports_none_that_is_installed(away):
    write_export(Path("model"))
    answer = relearn("predict", "--model", "model", "x.png", before=SHOW)
    assert answer.stdout.splitlines()[1:] == ["[]"], answer.stderr


def test_a_stage_names_the_extra(workspace, set_params):
    set_params({"restructure.source": "source", "restructure.layout": "class_folders"})
    write_images(Path("source"), ["a/1.png", "b/2.png"])
    answer = relearn("restructure")
    assert (answer.returncode, answer.stdout) == (6, "")
    assert answer.stderr.startswith("relearn: wanted the extra `pipeline`, got an installation without ")
    assert answer.stderr.count("\n") == 1


def test_a_classifier_without_keras_is_one_line(away):
    write_json(Path("model/classifier.json"), {})
    answer = relearn("predict", "--model", "model", "x.png")
    assert (answer.returncode, answer.stdout) == (6, "")
    wanted = "wanted an exported model, or keras for the network of this classifier, got neither; run `relearn export`"
    assert answer.stderr.startswith(f"relearn: model: {wanted}")
    assert answer.stderr.count("\n") == 1
