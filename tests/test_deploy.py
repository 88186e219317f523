"""deploy/Dockerfile is one that can be built: by its linter, and by what it copies."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, draw_image, encode_image, git
from inference.exports import write_export
from relearn.commands.extras import MODULES
from test_setup import make

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def test_linter_accepts_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    answer = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr


def test_dockerfile_copies_what_git_has_and_the_context_lets_through():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines, "all else stays outside"
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == let_through
    assert let_through <= {Path(name).parts[0] for name in git(ROOT, "ls-files").splitlines()}


def test_dockerfile_installs_by_hash_and_runs_as_nobody_in_particular():
    text = DOCKERFILE.read_text()
    installs = re.findall(r"\bpip .*?install (.*?)(?: \\)?$", text, re.MULTILINE)
    assert len(installs) == 3
    assert all("--require-hashes" in install or "--no-deps wheels/" in install for install in installs)
    assert re.search(r"^USER [1-9][0-9]*:[1-9][0-9]*$", text, re.MULTILINE)
    assert text.rstrip().endswith('CMD ["relearn", "serve", "/model", "--host", "0.0.0.0"]')


@pytest.fixture
def server(clone, tmp_path):
    """An environment as deploy/Dockerfile fills it, by the same steps."""
    folder = tmp_path / "server"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    install = f"$(UV) pip install --quiet --python {folder}/bin/python"
    steps = (
        f"{install} --require-hashes -r requirements-serve.lock",
        f"$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir {tmp_path}/wheels {clone}",
        f"{install} --no-deps {tmp_path}/wheels/*.whl",
    )
    for step in steps:
        answer = make(ROOT, "--eval", f"step: ; @{step}", "step")
        assert answer.returncode == 0, answer.stderr
    return folder


@pytest.mark.long
@pytest.mark.slow
def test_a_server_has_what_answers_and_names_what_it_lacks(server, workspace):
    write_export(Path("model"))
    Path("x.png").write_bytes(encode_image(draw_image(0)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(program, *arguments):
        command = [server / "bin" / program, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    answer = call("relearn", "predict", "--model", "model", "x.png")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("x.png  ")
    program = f"import {', '.join(MODULES['serve'])}; import relearn; relearn.load('model').predict(['x.png'])"
    answer = call("python", "-c", program)
    wanted = "predict: wanted pandas for a data frame, got none; `pip install pandas`, or use `predict_files`"
    assert answer.stderr.splitlines()[-1] == f"relearn.errors.RelearnError: {wanted}"
    answer = call("relearn", "restructure")
    assert (answer.returncode, answer.stdout) == (6, "")
    assert answer.stderr.startswith("relearn: wanted the extra `pipeline`, got an installation without ")
    assert answer.stderr.count("\n") == 1
    n_bytes = sum(path.lstat().st_size for path in server.rglob("*") if path.is_file())
    assert n_bytes < 350e6
