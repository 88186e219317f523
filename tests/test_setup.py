"""`make setup` fills this folder's .venv and no other environment, whichever is active; targets run its programs.

It installs what pyproject.toml declares and the locks hold, which is what the code imports.
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

from conftest import RARE, ROOT
from relearn.retraining.landing import EXTRAS
from test_pipeline import COMMAND_LINE, find_all_imports, find_file

PROGRAMS = ("python", "pip", "uv", "pytest", "ruff", "mypy", "dvc", "prefect", "relearn")
LOCKS = ("requirements.lock", "requirements-gpu.lock", "requirements-remotes.lock", "requirements-serve.lock")
# Which of the declared dependencies the code of a folder may import.
BACKENDS = ("dependencies", "pipeline", "serve", "cpu", "gpu", "dask")
MAY_IMPORT = {
    "src": BACKENDS,
    "flows": (*BACKENDS, "pictures"),
    "pretraining": (*BACKENDS, "pretraining"),
    "data": (*BACKENDS, "dev"),
    "tests": (*BACKENDS, "dev"),
}
PROBE = "probe: ; @command -v python; python -c 'import relearn; print(relearn.__path__[0])'"


def make(folder, *arguments, **environment):
    """Run make as a person would who has an environment of their own active."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "PYTHON", "VIRTUAL", "BACKEND", "EXTRAS"))
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


def shorten_lock(folder, *names):
    """Leave of the lock what an installation of relearn itself takes, so that a test takes seconds.

    And the packages of these names, with all that they need.
    """
    packages = read_lock("requirements.lock")
    kept = {"uv", "setuptools", *names}
    n_kept = 0
    while len(kept) > n_kept:
        n_kept = len(kept)
        kept |= {name for name, text in packages.items() if kept & set(re.findall(r"# +(?:via )?(\S+)$", text, re.M))}
    (folder / "requirements.lock").write_text("".join(packages[name] for name in sorted(kept)))


def list_imports(file):
    """Return the names of the modules that a file imports, without what is below them."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
    return {module.partition(".")[0] for module in modules}


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


@pytest.mark.parametrize("name", LOCKS)
def test_locks_hold_versions_and_hashes_and_no_address(name):
    text = (ROOT / name).read_text()
    assert len(text) < 1_000_000
    assert "://" not in text
    assert "--index" not in text
    for package in split_lock(name):
        assert re.match(r"[a-z0-9-]+==\S+( ;.*)? \\\n    --hash=sha256:[0-9a-f]{64}", package), package


def test_locks_hold_what_is_declared_and_agree():
    declared, (cpu, gpu, remotes, serve) = read_declared(), map(read_lock, LOCKS)
    always = set.union(*(declared[extra] for extra in (*BACKENDS[:3], "dev", "dask", "pretraining")))
    assert always | declared["cpu"] <= set(cpu)
    assert always | declared["gpu"] <= set(gpu)
    assert set.union(*(declared[extra] for extra in EXTRAS)) <= set(remotes)
    assert not set(remotes) & set(cpu), "they are added to it"
    versions = [
        {name: re.findall(r"^\S+==\S+", text, re.M) for name, text in lock.items()} for lock in (cpu, gpu, serve)
    ]
    assert [name for name in set(cpu) & set(gpu) if versions[0][name] != versions[1][name]] == []
    assert versions[2].items() <= versions[0].items()


def test_what_serves_is_small():
    declared, serve = read_declared(), read_lock("requirements-serve.lock")
    assert declared["dependencies"] | declared["serve"] <= set(serve)
    assert declared["pipeline"] & set(serve) == {"rich"}, "which typer brings"
    assert len(serve) < 40


def test_what_predicts_imports_the_dependencies_without_extras_and_no_others():
    """Also inside functions, but for what makes a data frame in Python, and for the network of keras."""
    roots = ("relearn.inference.exported", "relearn.commands.predict", "relearn.params.pipeline")
    reached = set.union(*map(find_all_imports, roots)) | COMMAND_LINE
    imported = {module for name in reached for module in list_imports(find_file(name))}
    third_party = imported - sys.stdlib_module_names - {"relearn", "pandas"}
    distributions = packages_distributions()
    found = {normalize(distribution) for module in third_party for distribution in distributions[module]}
    assert found == read_declared()["dependencies"]


def test_deploy_names_the_server_that_the_lock_has():
    (version,) = re.findall(r"image: prefecthq/prefect:(\S+)-python3.11", (ROOT / "deploy/compose.yaml").read_text())
    assert read_lock("requirements.lock")["prefect"].startswith(f"prefect=={version} ")


@pytest.fixture
def made(tmp_path):
    """A folder whose .venv looks as if it was made a moment ago, for a remote on S3."""
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "choice").write_text("cpu s3\n")
    (tmp_path / ".venv" / "ready").write_text(f"{tmp_path.resolve()}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("chosen", "printed"),
    [
        ([], None),
        (["EXTRAS="], None),
        (["EXTRAS=s3"], None),
        (["BACKEND=cpu"], None),
        (["EXTRAS=ssh azure s3"], "requirements.lock with dvc-azure dvc-s3 dvc-ssh"),
        (["BACKEND=gpu"], "requirements-gpu.lock with dvc-s3"),
    ],
)
def test_another_choice_makes_the_environment_again_and_keeps_extras(made, chosen, printed):
    answer = make(made, "--dry-run", "setup", *chosen)
    assert re.findall(r'relearn: making .venv from (.*)"', answer.stdout) == ([printed] if printed else [])


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock", "requirements-remotes.lock"])
def test_a_change_of_what_is_locked_makes_the_environment_again_with_its_extras(made, name):
    os.utime(made / ".venv" / "ready", (0, 0))
    for other in {"pyproject.toml", *LOCKS} - {name}:
        os.utime(made / other, (0, 0))
    assert "making .venv from requirements.lock with dvc-s3" in make(made, "--dry-run", "test").stdout


def test_extras_that_are_not_there_are_an_error(made):
    answer = make(made, "setup", "EXTRAS=s3 s4")
    assert answer.returncode != 0
    assert f"relearn: wanted EXTRAS among {' '.join(EXTRAS)}, got s4." in answer.stderr


@pytest.mark.long
@pytest.mark.slow
def test_an_extra_brings_what_reaches_its_addresses(clone):
    """The plugin gets as far as a connection; nothing listens there."""
    shorten_lock(clone, "dvc", "wrapt")
    answer = make(clone, "setup", "EXTRAS=s3")
    assert answer.returncode == 0, answer.stderr
    packages = list_packages(clone / ".venv")
    assert {"dvc_s3", "s3fs"} <= set(packages)
    assert not {"dvc_ssh", "gcsfs", "adlfs", "sshfs"} & set(packages)
    assert list(Path(clone / ".venv").glob("lib/python3.*/site-packages/dvc/__pycache__/*.pyc")), "compiled"
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    push = "dvc remote add --quiet --default store s3://bucket && echo x > x && dvc add --quiet x && dvc push"
    printed = make(clone, "--eval", f"probe: ; @{push}", "probe", **away, AWS_MAX_ATTEMPTS="1").stderr
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9/' in printed
    assert "making" not in make(clone, "setup").stdout


@pytest.mark.slow
@pytest.mark.long
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


@pytest.mark.long
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
    names = ("UV_DEFAULT_INDEX", "SSL_CERT_FILE", "UV_SYSTEM_CERTS", "UV_CACHE_DIR")
    program = folder / "uv"
    program.write_text("#!/bin/sh\n" + "".join(f'echo "${{{name}-unset}}"\n' for name in names))
    program.chmod(0o755)
    given = {"BIN": folder, "PIP": f"{sys.executable} -m pip --isolated", "CERTIFICATES": certificates}
    settings = [f"{name}={value}" for name, value in given.items()]
    clear = dict.fromkeys((*names, "PIP_INDEX_URL", "PIP_CERT", "XDG_CACHE_HOME"))
    inherited = {name: value for name, value in os.environ.items() if name not in clear}
    command = ["make", "--no-print-directory", *settings, "--eval", "probe: ; @$(UV)", "probe"]
    answer = subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=True)
    return dict(zip(names, answer.stdout.splitlines(), strict=True))


@pytest.mark.slow
def test_uv_has_a_cache_without_a_home_that_can_be_written(tmp_path):
    for home in ("/dev/null", "/proc"):
        assert ask_for_settings_of_uv(tmp_path, HOME=home)["UV_CACHE_DIR"] == str(ROOT / ".venv" / "uv-cache")
    assert (
        ask_for_settings_of_uv(tmp_path, HOME="/dev/null", XDG_CACHE_HOME=str(tmp_path / "mine"))["UV_CACHE_DIR"]
        == "unset"
    )
    assert ask_for_settings_of_uv(tmp_path, HOME=str(tmp_path))["UV_CACHE_DIR"] == "unset"
    assert ask_for_settings_of_uv(tmp_path, HOME="/dev/null", UV_CACHE_DIR="/a b")["UV_CACHE_DIR"] == "/a b"


def test_uv_takes_the_index_and_the_certificates_of_pip_or_of_the_system(tmp_path):
    plain = ask_for_settings_of_uv(tmp_path, UV_CACHE_DIR="/c")
    assert plain == {
        "UV_DEFAULT_INDEX": "unset",
        "SSL_CERT_FILE": "unset",
        "UV_SYSTEM_CERTS": "1",
        "UV_CACHE_DIR": "/c",
    }
    assert ask_for_settings_of_uv(tmp_path, certificates="")["UV_SYSTEM_CERTS"] == "0"
    taken = ask_for_settings_of_uv(tmp_path, PIP_INDEX_URL="https://example.org/a b", PIP_CERT="/a b.crt")
    assert (taken["UV_DEFAULT_INDEX"], taken["SSL_CERT_FILE"]) == ("https://example.org/a b", "/a b.crt")
    own = plain | {"UV_DEFAULT_INDEX": "https://example.org", "SSL_CERT_FILE": "/c.crt", "UV_SYSTEM_CERTS": "0"}
    assert ask_for_settings_of_uv(tmp_path, PIP_INDEX_URL="x", PIP_CERT="y", **own) == own


@pytest.mark.long
@pytest.mark.slow
def test_an_environment_without_relearn_is_not_ready(clone):
    shorten_lock(clone)
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('where = ["src"]', 'where = ["flows"]'))
    answer = make(clone, "setup")
    assert answer.returncode != 0
    assert "relearn: wanted this folder's src/relearn in .venv, got another or none" in answer.stderr
    assert not (clone / ".venv" / "ready").exists()


@RARE
@pytest.mark.long
@pytest.mark.slow
def test_make_repro_runs_beside_an_active_environment_in_a_path_with_blanks(clone, other, tmp_path):
    folder = tmp_path / "my clone of relearn"
    clone.rename(folder)
    before = list_packages(other)
    answer = make(folder, "repro", **activate(other), CONDA_PREFIX=str(other), PYTHONPATH=str(ROOT / "src"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "375 evaluation images of 10 classes" in answer.stdout
    assert list_packages(other) == before
    git = ["git", "-C", str(folder), "status", "--porcelain"]
    assert subprocess.run(git, capture_output=True, text=True, check=True).stdout == ""
