"""`make setup` fills this folder's .venv and no other environment, whichever is active; targets run its programs.

It installs what pyproject.toml declares, which is what the code imports.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from conftest import ROOT

PROGRAMS = ("python", "pip", "uv", "pytest", "ruff", "mypy", "dvc", "prefect", "relearn")
# Which of the declared dependencies the code of a folder may import.
BACKENDS = ("dependencies", "cpu", "gpu", "dask")
MAY_IMPORT = {
    "src": BACKENDS,
    "flows": BACKENDS,
    "pretraining": (*BACKENDS, "pretraining"),
    "data": (*BACKENDS, "dev"),
    "tests": (*BACKENDS, "dev"),
}
PROBE = "probe: ; @command -v python; python -c 'import relearn; print(relearn.__path__[0])'"


def make(folder, *arguments, **environment):
    """Run make as a person would who has an environment of their own active."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "VIRTUAL"))
    }
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def activate(environment):
    """Return the variables that an environment's `activate` sets."""
    return {"VIRTUAL_ENV": str(environment), "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def list_packages(environment):
    return sorted(path.name for path in environment.glob("lib/python3.*/site-packages/*"))


def normalize(requirement):
    """Return the name of a distribution as locks spell it, without version, extras and markers."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def read_declared():
    """Return the names of the distributions that pyproject.toml declares, by extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {normalize(requirement) for requirement in declared[extra]} for extra in declared}


def split_lock(name):
    """Return the text of each package of a lock."""
    return re.split(r"^(?=[a-z])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]


def read_lock(name):
    """Return the text of each package of a lock by the package's name; of several versions together."""
    packages = {}
    for package in split_lock(name):
        distribution = package.partition("==")[0]
        packages[distribution] = packages.get(distribution, "") + package
    return packages


def list_imports(file):
    """Return the names of the modules that a file imports, without what is below them."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
    return {module.partition(".")[0] for module in modules}


def shorten_lock(folder):
    """Leave of the lock what an installation of relearn itself takes, so that a test takes seconds."""
    packages = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    kept = [package for package in packages if package.startswith(("uv==", "setuptools=="))]
    assert len(kept) == 2
    (folder / "requirements.lock").write_text("".join(kept))


@pytest.fixture
def other(tmp_path):
    """An environment that is not the clone's."""
    folder = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


def test_every_recipe_takes_the_programs_of_this_folder():
    for line in (ROOT / "Makefile").read_text().splitlines():
        if line.startswith("\t") and "echo" not in line:
            assert not re.search(rf"(?<![\w/$.-])({'|'.join(PROGRAMS)}) ", line.replace("$(UV) pip", "")), line
        if "$(UV)" in line:
            assert "--python $(BIN)/python" in line


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_what_is_imported_is_declared(folder):
    declared = read_declared()
    allowed = set.union(*(declared[extra] for extra in MAY_IMPORT[folder]))
    distributions = packages_distributions()
    own = {path.stem for name in MAY_IMPORT for path in (ROOT / name).iterdir()} | {"flows", "relearn"}
    undeclared = {
        (module, str(file.relative_to(ROOT)))
        for file in (ROOT / folder).rglob("*.py")
        for module in list_imports(file) - own - sys.stdlib_module_names
        if not allowed & {normalize(distribution) for distribution in distributions.get(module, ())}
    }
    assert undeclared == set()


def test_deploy_names_the_server_that_the_lock_has():
    (version,) = re.findall(r"image: prefecthq/prefect:(\S+)-python3.11", (ROOT / "deploy/compose.yaml").read_text())
    assert read_lock("requirements.lock")["prefect"].startswith(f"prefect=={version} ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["virtual", "conda"])
def test_an_active_environment_stays_as_it_is(clone, other, kind):
    shorten_lock(clone)
    active = activate(other) if kind == "virtual" else {"CONDA_PREFIX": str(other), "CONDA_DEFAULT_ENV": "mine"}
    before = list_packages(other)
    answer = make(clone, "setup", **active, UV_SYSTEM_PYTHON="1", PIP_TARGET=str(other / "target"))
    assert answer.returncode == 0, answer.stderr
    assert list_packages(other) == before
    assert not (other / "target").exists()
    assert any(name.startswith("uv-") for name in list_packages(clone / ".venv"))
    printed = make(clone, "--eval", PROBE, "probe", **active, PYTHONPATH=str(ROOT / "src")).stdout.split()
    assert printed == [str(clone / ".venv/bin/python"), str(clone / "src/relearn")]


@pytest.mark.slow
def test_a_second_clone_runs_its_own_code(clone, tmp_path):
    """Also where the first one's environment is active, was copied with the folder, or there are blanks in the path."""
    shorten_lock(clone)
    assert make(clone, "setup").returncode == 0
    second = tmp_path / "a second clone"
    shutil.copytree(clone, second, symlinks=True)
    active = activate(clone / ".venv")
    answer = make(second, "setup", **active)
    assert answer.returncode == 0, answer.stderr
    for folder in (clone, second):
        printed = make(folder, "--eval", PROBE, "probe", **active).stdout.splitlines()
        assert printed == [str(folder / ".venv/bin/python"), str(folder / "src/relearn")]
    assert "making" not in make(second, "setup", **active).stdout
    (second / "pyproject.toml").touch()
    assert "making .venv" in make(second, "setup", **activate(second / ".venv")).stdout, "by its own python"


def ask_for_settings_of_uv(folder, certificates="x", **environment):
    """Return what a recipe gives to uv, here a program that prints it."""
    names = ("UV_DEFAULT_INDEX", "SSL_CERT_FILE", "UV_SYSTEM_CERTS")
    program = folder / "uv"
    program.write_text("#!/bin/sh\n" + "".join(f'echo "${{{name}-unset}}"\n' for name in names))
    program.chmod(0o755)
    given = {"BIN": folder, "PIP": f"{sys.executable} -m pip --isolated", "CERTIFICATES": certificates}
    settings = [f"{name}={value}" for name, value in given.items()]
    clear = dict.fromkeys((*names, "PIP_INDEX_URL", "PIP_CERT"))
    inherited = {name: value for name, value in os.environ.items() if name not in clear}
    command = ["make", "--no-print-directory", *settings, "--eval", "probe: ; @$(UV)", "probe"]
    answer = subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=True)
    return dict(zip(names, answer.stdout.splitlines(), strict=True))


def test_uv_takes_the_index_and_the_certificates_of_pip_or_of_the_system(tmp_path):
    plain = ask_for_settings_of_uv(tmp_path)
    assert plain == {"UV_DEFAULT_INDEX": "unset", "SSL_CERT_FILE": "unset", "UV_SYSTEM_CERTS": "1"}
    assert ask_for_settings_of_uv(tmp_path, certificates="")["UV_SYSTEM_CERTS"] == "0"
    taken = ask_for_settings_of_uv(tmp_path, PIP_INDEX_URL="https://example.org/a b", PIP_CERT="/a b.crt")
    assert taken == {"UV_DEFAULT_INDEX": "https://example.org/a b", "SSL_CERT_FILE": "/a b.crt", "UV_SYSTEM_CERTS": "1"}
    own = {"UV_DEFAULT_INDEX": "https://example.org", "SSL_CERT_FILE": "/c.crt", "UV_SYSTEM_CERTS": "0"}
    assert ask_for_settings_of_uv(tmp_path, PIP_INDEX_URL="x", PIP_CERT="y", **own) == own


@pytest.mark.slow
def test_an_environment_without_relearn_is_not_ready(clone):
    shorten_lock(clone)
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('where = ["src"]', 'where = ["flows"]'))
    answer = make(clone, "setup")
    assert answer.returncode != 0
    assert "relearn: wanted this folder's src/relearn in .venv, got another or none" in answer.stderr
    assert not (clone / ".venv" / "ready-cpu").exists()


@pytest.mark.slow
def test_make_repro_runs_beside_an_active_environment_in_a_path_with_blanks(clone, other, tmp_path):
    folder = tmp_path / "my clone of relearn"
    clone.rename(folder)
    before = list_packages(other)
    answer = make(folder, "repro", **activate(other), CONDA_PREFIX=str(other), PYTHONPATH=str(ROOT / "src"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "375 evaluation images of 10 classes" in answer.stdout
    assert list_packages(other) == before
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert status.stdout == ""
    assert list(Path(folder / ".venv").glob("lib/python3.*/site-packages/dvc/__pycache__/*.pyc")), "compiled"
