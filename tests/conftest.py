"""Small worlds to test in: images, a parameters file, a folder to work in."""

import io
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image
from ruamel.yaml import YAML

from relearn import paths
from relearn.dataset import inspections
from relearn.dataset.assignments import Assignment, hash_group, shorten_hash, write_assignments
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import ParamsError
from relearn.features.shards import SplitFeatures, hash_features, write_features
from relearn.params.heads import TrainParams
from relearn.params.pipeline import read_params
from relearn.repository.lock import hold_lock
from relearn.runtime.backend import SETTINGS
from relearn.stages.restructure import run
from relearn.storage.files import hash_file, read_csv, write_csv, write_folder, write_json

for _name, _value in SETTINGS.items():  # before a test imports keras by itself
    os.environ.setdefault(_name, _value)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
SERVER_STARTS_WITHIN_SECONDS = 180
IS_LONG = os.environ.get("RELEARN_LONG_TESTS") == "1"  # as `make test-long` sets it


def choose(short: Any, long: Any) -> Any:
    """Return the size of a campaign: how many kills, examples or networks are tried."""
    return long if IS_LONG else short


# They have smaller relatives of the same code, and take up to a minute of a core each.
LARGE = {
    *("convnext_base", "convnext_large", "convnext_xlarge", "densenet169", "densenet201", "efficientnet_b3"),
    *("efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_b1"),
    *("efficientnet_v2_b2", "efficientnet_v2_b3", "efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s"),
    *("convnext_small", "efficientnet_b2", "inception_resnet_v2", "nasnet_large"),
    *("resnet101", "resnet101_v2", "resnet152", "resnet152_v2"),
}
# What hardly changes, or has a relative that is run: `make test-all` runs it.
RARE = pytest.mark.skipif(os.environ.get("RELEARN_ALL_TESTS") != "1", reason="RELEARN_ALL_TESTS is not 1")


def mark_large(networks: Iterable[str]) -> list[Any]:
    """Return the networks, of which the large ones are tried only if that is asked for."""
    return [pytest.param(name, marks=RARE) if name in LARGE else name for name in networks]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real Food-5K subset and real weights, which not every machine has."""
    if not (SHARED / "data" / "Food-5K").is_dir():
        pytest.skip(f"no Food-5K in {SHARED}")
    return SHARED


def encode_image(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    if file_format == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, file_format, **options)
    return buffer.getvalue()


def draw_image(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """Draw noise, another one for each seed."""
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def write_images(folder: Path, names: list[str], first_seed: int = 0) -> None:
    """Write an image of its own under each name."""
    for seed, name in enumerate(names, start=first_seed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_image(draw_image(seed)))


def copy_settings(folder: Path) -> None:
    """Copy params.yaml and the files that it names for a person to write: own checks, corrections."""
    (folder / "data").mkdir(exist_ok=True)
    for name in ("params.yaml", "expectations.json", "data/corrections.csv"):
        shutil.copy(ROOT / name, folder / name)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the repository's params.yaml and the files that a person writes."""
    copy_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_bytes())


@pytest.fixture
def set_params() -> Callable[..., None]:
    """Change keys of params.yaml in the current folder: `set_params({"train.scale": False})`."""
    return change_params


def change_params(changes: dict[str, Any], path: Path = Path("params.yaml")) -> None:
    content = read_yaml(path)
    for key, value in changes.items():
        *blocks, name = key.split(".")
        block = content
        for part in blocks:
            block = block[part]
        block[name] = value
    with path.open("w") as file:
        YAML().dump(content, file)


def read_params_error(path: Path = Path("params.yaml")) -> str:
    with pytest.raises(ParamsError) as caught:
        read_params(path)
    return str(caught.value)


@pytest.fixture
def use_layout(workspace: Path, set_params: Callable[..., None]) -> Callable[..., None]:
    """Set the block restructure: `use_layout(layout="csv")`; the source is the folder `source`."""

    def use_layout(**changes: Any) -> None:
        set_params({"restructure.source": "source"} | {f"restructure.{key}": value for key, value in changes.items()})

    return use_layout


@pytest.fixture
def forty(use_layout: Callable[..., None]) -> None:
    """Forty images in four classes."""
    use_layout(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "abcd" for n in range(10)])


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file as changed long ago, so that its content may be kept."""
    monkeypatch.setattr(inspections, "SETTLED_SECONDS", -3600.0)


def restructure() -> tuple[dict[str, ManifestRow], dict[str, str]]:
    """Run the stage; return the rows by their paths, and the reasons of the excluded files."""
    run(read_params(Path("params.yaml")).restructure)
    return {row.path: row for row in read_manifest(paths.MANIFEST)}, dict(read_csv(paths.EXCLUDED, ("path", "reason")))


def list_dataset() -> list[str]:
    return sorted(path.relative_to(paths.DATASET).as_posix() for path in paths.DATASET.rglob("*") if path.is_file())


def read_results() -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(Path("data").rglob("*")) if path.is_file()}


def make_split(seed: int, n_images: int = 60, n_classes: int = 3, n_features: int = 8) -> SplitFeatures:
    """Gaussian clouds, a class each, in float32."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    centers = np.random.default_rng(0).normal(0, 2, (n_classes, n_features))
    features = (centers[labels] + rng.normal(0, 1.5, (n_images, n_features))).astype(np.float32)
    hashes = [f"{number * 16**64 // n_images + seed:064x}" for number in range(n_images)]
    return SplitFeatures([features], hashes, [f"class {label}" for label in labels])


def make_train_params(head: str = "logistic_regression", options: dict[str, Any] | None = None, **changes: Any):
    """Return the block `train` of params.yaml with another head, other options of it, and other keys."""
    block = read_yaml(ROOT / "params.yaml")["train"] | {"head": head} | changes
    block["logistic_regression"]["C"] = [0.01, 1.0]
    block["random_forest"]["n_estimators"] = 10
    block["dense"] |= {"units": 16, "epochs": 20, "learning_rate": 0.02}
    block[head] |= options or {}
    return TrainParams.model_validate(block)


def write_rows(folder: Path, manifest: list[ManifestRow], values: np.ndarray) -> None:
    """Write the rows of `values` as the features of a manifest's images, whose hashes differ."""
    rows = dict(zip([row.sha256 for row in manifest], values, strict=True))
    record = {"network": "x", "n_features": values.shape[1], "feature_dtype": values.dtype.name}
    write_features(folder, manifest, rows.__getitem__, record)


@pytest.fixture
def features(workspace: Path) -> dict[str, SplitFeatures]:
    """`data/features/` of three splits and the manifest that they were made from; returns what is in them."""
    splits = {split: make_split(seed) for seed, split in enumerate(("training", "validation", "evaluation"))}
    manifest = [
        ManifestRow(f"{split}/{label}/{seed}-{number}.png", split, label, sha256, 1, 1, 1, "L", "PNG")
        for seed, (split, part) in enumerate(splits.items())
        for number, (sha256, label) in enumerate(zip(part.sha256, part.labels, strict=True))
    ]
    write_csv(paths.MANIFEST, ManifestRow._fields, manifest)
    write_assignments(paths.SPLITS, {})
    with write_folder(paths.FEATURES) as folder:
        values = np.concatenate([part.features for part in splits.values()])
        write_rows(folder, manifest, values)
    write_json(paths.VERIFICATION_REPORT, {"passed": True, "findings": [], **hash_features(paths.FEATURES)})
    return splits


def write_groups(groups: dict[str, str]) -> None:
    """Write `data/splits.csv` of images in groups: the name of the group by the SHA-256."""
    rows = [Assignment(shorten_hash(sha256), "training", hash_group(name)) for sha256, name in groups.items()]
    write_assignments(paths.SPLITS, {row.sha256: row for row in rows})


# A network of keras.applications that needs no file.
VGG16 = {"network": "vgg16", "weights": "random", "weights_sha256": None, "layer": "block2_pool", "pooling": "flatten"}
# For the set of `write_small_set`, with the bundled network: its features are the maps, so only extract needs keras.
SMALL_SET = {
    "restructure.source": "images",
    "restructure.layout": "split_class_folders",
    "validate.min_images.min": 2,
    "train.logistic_regression.C": [0.01, 0.1],
    "evaluate.n_resamples": 100,
}
SMALL = SMALL_SET | {f"extract.{key}": value for key, value in VGG16.items()} | {"extract.image_size_px": 32}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository's files in a git repository of its own, without its data."""
    return make_clone(tmp_path / "clone")


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a folder once for all workers of pytest-xdist: `build_once(NAME, build)` calls `build(folder)`."""

    def build_once(name: str, build: Callable[[Path], None]) -> Path:
        base = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            base = base.parent
        with hold_lock(base / f"{name}.lock", "a fixture of the tests", patience_seconds=600):
            if not (base / name).exists():
                shutil.rmtree(base / f"{name}.half", ignore_errors=True)  # of a test that failed
                build(base / f"{name}.half")
                (base / f"{name}.half").rename(base / name)
        return base / name

    return build_once


def make_clone(folder: Path) -> Path:
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def init_dvc(folder: Path) -> None:
    """Write what `dvc init` writes, without the seconds for its start."""
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").touch()
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / ".dvcignore").touch()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")


def execute(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a clone, with the clone's own code."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=make_environment(folder) | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def make_environment(folder: Path) -> dict[str, str]:
    """Return the variables with which a clone runs its own code by this Python."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
    }


def repro(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return execute(folder, "dvc", "repro", *arguments, **environment)


def wait_for_stored(folder: Path, n_images: int) -> int:
    """Wait until the store of a clone has features of so many images; return how many it has."""
    path = folder / ".relearn" / "features-2.sqlite"
    for _ in range(60_000):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                (n_stored,) = database.execute("SELECT count(*) FROM feature").fetchone()
        except sqlite3.OperationalError:  # it is not there yet
            n_stored = 0
        if n_stored >= n_images:
            return int(n_stored)
        time.sleep(0.002)
    raise AssertionError(f"{n_stored} images stored")


def write_small_set(folder: Path) -> None:
    for number, split in enumerate(("training", "validation", "evaluation")):
        names = [f"{split}/{label}/{n}.png" for label in ("cat", "dog") for n in range(8 if number == 0 else 3)]
        write_images(folder / "images", names, 100 * number)


def extract_features(folder: Path) -> None:
    """Run the stages of a clone up to `extract` without DVC and without the checks of the gate, which take longest."""
    for stage in ("restructure", "finetune", "extract"):
        answer = execute(folder, "relearn", stage)
        assert answer.returncode == 0, answer.stderr
        if stage == "restructure":
            passed = {"passed": True, "manifest_sha256": hash_file(folder / paths.MANIFEST)}
            write_json(folder / paths.VALIDATION_REPORT, passed)


def run_small_set(folder: Path) -> None:
    make_clone(folder)
    write_small_set(folder)
    change_params(SMALL_SET, folder / "params.yaml")
    answer = repro(folder)
    assert answer.returncode == 0, answer.stderr
    commit(folder)


@pytest.fixture
def ran(build_once: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a repository in which the pipeline ran on the set of `write_small_set`, and all was committed."""
    shutil.copytree(build_once("ran", run_small_set), tmp_path / "ran", symlinks=True)
    return tmp_path / "ran"


def render_markdown(markdown: str) -> tuple[str, set[str]]:
    """Render Markdown as CommonMark with tables does; return the text that shows, and the tags that are live."""
    from markdown_it import MarkdownIt

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.tags = "", set[str]()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags.add(tag)

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Reader()
    reader.feed(MarkdownIt("commonmark").enable("table").render(markdown))
    reader.close()
    return reader.text, reader.tags


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def make_database(home: Path) -> None:
    """Make the database of a Prefect server, which takes longer than all else that happens at its start."""
    home.mkdir()
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(command, env=os.environ | {"PREFECT_HOME": str(home)}, capture_output=True, check=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory, build_once):
    """A Prefect server of its own; gives the address of its API."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copytree(build_once("prefect-home", make_database), home, dirs_exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Which look into the database every few seconds, and which no test is about.
        **{
            f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in ("FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS")
        },
    }
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def is_up():
        try:
            return httpx.get(f"{address}/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(is_up, SERVER_STARTS_WITHIN_SECONDS)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def ask(server, path, **body):
    return httpx.post(f"{server}/{path}", json=body).raise_for_status().json()


def read_last_name(server):
    """Return the name and the tags of the last run."""
    (run,) = ask(server, "flow_runs/filter", sort="START_TIME_DESC", limit=1)
    return run["name"], run["tags"]


def read_last_run(server):
    (run,) = ask(server, "flow_runs/filter", sort="START_TIME_DESC", limit=1)
    tasks = ask(server, "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, sort="ID_DESC")
    logs = ask(server, "logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}}, sort="TIMESTAMP_ASC", limit=200)
    artifacts = ask(server, "artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    return (
        run["state_name"],
        {task["name"]: task["state_name"] for task in tasks},
        "\n".join(log["message"] for log in logs),
        {artifact["key"]: artifact["data"] for artifact in artifacts},
    )
