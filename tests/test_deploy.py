"""deploy/Dockerfile is one that can be built: by its linter, and by what it copies."""

import re
import subprocess
from pathlib import Path

from conftest import ROOT, git

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def test_linter_accepts_the_dockerfile():
    answer = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
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
