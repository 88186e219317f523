import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import write_images
from relearn import cli, paths
from relearn.errors import IntegrityError, SourceError
from relearn.evaluation.metrics import CLASS_HEADER
from relearn.stages import restructure
from relearn.storage.files import write_csv, write_json


def relearn(*arguments, **options):
    command = [sys.executable, "-m", "relearn", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_lists_the_stages():
    answer = CliRunner().invoke(cli.app, ["--help"])
    for name in ("restructure", "validate", "finetune", "extract", "train", "evaluate", "predict"):
        assert name in answer.output


def test_stage_runs_from_its_command(workspace, set_params):
    set_params({"restructure.source": "source"})
    write_images(Path("source"), ["a/1.png", "b/2.png"])
    answer = relearn("restructure")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert answer.stderr.startswith("source: 2 images kept")


def test_stage_runs_the_code_of_the_current_folder(workspace):
    """As in the temporary folder of an experiment, or in a second clone with the first one's environment active."""
    package = Path("src/relearn")
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print('theirs', *sys.argv[1:])")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = relearn("restructure", env=environment)
    assert (answer.returncode, answer.stdout) == (0, "theirs restructure\n"), answer.stderr


def test_command_refuses_the_code_of_another_clone(workspace):
    Path("src/relearn").mkdir(parents=True)
    Path("src/relearn/cli.py").touch()
    with pytest.raises(
        IntegrityError, match=r"wanted the code of this folder, .*, got that of .*; run `make setup`, then"
    ):
        cli.app(["restructure"], standalone_mode=False)
    assert not paths.MANIFEST.exists()


@pytest.mark.parametrize("command", ["restructure", "validate", "finetune", "extract", "train", "evaluate"])
def test_bad_params_end_in_one_line(workspace, set_params, command):
    set_params({"train.logistic_regression.C": [-1]})
    answer = relearn(command)
    assert answer.returncode == 3
    message = "train.logistic_regression.C.0: wanted greater than or equal to 0.000000001, got -1"
    assert answer.stderr == f"relearn: params.yaml: 1 error\n  {message}\n"


def test_missing_source_ends_in_one_line(workspace):
    answer = relearn("restructure")
    assert answer.returncode == 4
    expected = "data/raw/digits.zip: no such file or folder; put the images there, or set restructure.source"
    assert answer.stderr == f"relearn: {expected}\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SourceError("no images"), 4, "relearn: no images\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x"), 6, "relearn: data/x: No space left on device\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 6, "relearn: No space left on device\n"),
        (MemoryError(), 6, "relearn: out of memory; end other programs, raise the limits (ulimit -a), or use a larger"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), 6, "relearn: out of memory; end other programs"),
        (ImportError("lib.so: failed to map segment from shared object"), 6, "relearn: out of memory; end other"),
        (ImportError("numpy\n\nlib.so: cannot allocate memory in static TLS block"), 6, "relearn: out of memory; end"),
        (RuntimeError("can't start new thread"), 6, "relearn: out of memory; end other"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(workspace, monkeypatch, capsys, error, code, message):
    def fail(params):
        raise error

    monkeypatch.setattr(restructure, "run", fail)
    monkeypatch.setattr(sys, "argv", ["relearn", "restructure"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(message)


def test_messages_do_not_steer_a_terminal(workspace):
    program = r"""
import logging, sys
from relearn import cli
from relearn.stages import restructure
from relearn.errors import SourceError

def run(params):
    logging.getLogger("relearn.x").info("%s", "one \x1b[2J\nsecond")
    raise SourceError("\x9b31m\r: wanted x")

restructure.run = run
sys.argv = ["relearn", "restructure"]
cli.main()
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.stderr == "one \\u001b[2J\nsecond\nrelearn: \\u009b31m\\r: wanted x\n"


def test_names_in_a_report_do_not_steer_a_terminal(workspace):
    write_json(paths.EVALUATION_METRICS, {"n_images": 2, "n_classes": 2, "majority_baseline_score": 0.5})
    write_json(paths.INTERVALS, {})
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, [("\x1b[2J", 1, 0, 0, 0), ("b", 1, 1, 1, 1)])
    answer = CliRunner().invoke(cli.app, ["report"])
    assert "weakest class      \\u001b[2J: recall 0.000 of 1 image\n" in answer.output
    assert "\x1b" not in answer.output


@pytest.mark.parametrize("error", [ZeroDivisionError, ImportError("no module x"), RuntimeError("x")])
def test_a_bug_is_not_hidden(workspace, monkeypatch, error):
    def fail(params):
        raise error

    monkeypatch.setattr(restructure, "run", fail)
    monkeypatch.setattr(sys, "argv", ["relearn", "restructure"])
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        cli.main()


@pytest.mark.parametrize("command", ["validate", "train", "report"])
@pytest.mark.parametrize("limit_mb", [150, 250, 600])
def test_a_limit_of_memory_ends_in_one_line(workspace, command, limit_mb):
    limited = f'ulimit -v {limit_mb * 1024}; exec "$@"'
    answer = subprocess.run(
        ["bash", "-c", limited, "bash", sys.executable, "-m", "relearn", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    wanted = f"relearn: wanted at least 1,000 MB of address space, got a limit of {limit_mb * 1.048576:,.0f} MB"
    assert (answer.returncode, answer.stdout) == (6, "")
    assert answer.stderr.startswith(wanted)
    assert answer.stderr.count("\n") == 1


def test_predict_takes_one_form(workspace):
    answer = relearn("predict", "x.png", "--json", "--csv")
    assert answer.returncode == 2
    assert "--json or --csv, not both" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["compare", ""], "wanted a revision of git, or `workspace`, got ''"),
        (["compare", "HEAD", "\x1b[2J"], "wanted a revision of git, or `workspace`, got '\\x1b[2J'"),
        (["rollback", ""], "wanted a version such as v1, or its tag classifier@v1.0.0, got ''"),
        (["rollback", "main"], "wanted a version such as v1, or its tag classifier@v1.0.0, got 'main'"),
        (["rollback", "--base", ""], "wanted a name, got an empty one"),
        (["lineage", ""], "wanted a name, got an empty one"),
        (["lineage", "--image", ""], "wanted a name, got an empty one"),
    ],
)
def test_what_can_never_be_right_is_wrong_usage(workspace, arguments, wanted):
    """An empty argument above all: `relearn rollback $VERSION` must not roll back if the variable is empty."""
    answer = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})
    assert answer.exit_code == 2
    assert wanted in answer.output


def test_predict_without_a_classifier(workspace):
    answer = relearn("predict", "params.yaml")
    assert answer.returncode == 5
    assert answer.stderr == "relearn: models/classifier: no classifier there; run `dvc repro`, or `dvc pull` one\n"
