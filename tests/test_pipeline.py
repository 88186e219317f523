"""dvc.yaml, params.yaml, the README and the code say the same; the pipeline does what they say."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import (
    ROOT,
    SMALL,
    SMALL_SET,
    execute,
    extract_features,
    git,
    make_environment,
    read_yaml,
    repro,
    wait_for_stored,
    write_images,
    write_small_set,
)
from relearn.dataset import inspections
from relearn.dataset.manifest import SPLITS, read_manifest
from relearn.features.shards import read_features
from relearn.networks.recipe import CODE, describe_recipe
from relearn.params.heads import TrainParams
from relearn.params.networks import ExtractParams, NetworkParams
from relearn.params.pipeline import Params, read_params

# What `${KEY}` stands for in dvc.yaml where the set of `write_small_set` is used.
NAMED = {
    "restructure.source": "images",
    "restructure.corrections": "data/corrections.csv",
    "validate.suite": "expectations.json",
}
DVC = read_yaml(ROOT / "dvc.yaml")["stages"]
STAGES = list(DVC)
# What finds the place and reads the arguments of any command, and decides no output of a stage.
COMMAND_LINE = {
    f"relearn.commands.{name}"
    for name in ("arguments", "deployment", "extras", "lines", "place", "release", "serve", "shortage", "store")
} | {"relearn.repository.root", "relearn.serving.settings"}
ENTRY = {"relearn.__main__", "relearn.cli", "relearn"} | COMMAND_LINE


def find_file(module):
    return ROOT / "src" / (module.replace(".", "/") + ".py")


def find_imports(module):
    """Return the modules of ours that a module's text imports, also those inside functions."""
    found = set()
    for node in ast.walk(ast.parse(find_file(module).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "relearn":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("relearn.")}
    return {module for module in found if find_file(module).is_file()}


def find_all_imports(module):
    reached, waiting = set(), [module]
    while waiting:
        if (current := waiting.pop()) not in reached:
            reached.add(current)
            waiting += find_imports(current)
    return reached


def make_network_params(network):
    block = read_params(ROOT / "params.yaml").extract.model_dump()
    return ExtractParams.model_validate(block | {"network": network, "weights": "random", "weights_sha256": None})


def list_paths(entries):
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def list_outputs(stage):
    return [path for kind in ("outs", "metrics") for path in list_paths(DVC[stage].get(kind, []))]


def name_dependency(module):
    """Return what dvc.yaml lists for a module: its package, or the file of a stage or of the contract."""
    _, *packages, _name = module.split(".")
    return f"src/relearn/{packages[0]}" if packages not in ([], ["stages"]) else f"src/{module.replace('.', '/')}.py"


# Blocks that more than a stage's own module may use: which stages list them.
SHARED_BLOCKS = {"augment": ["finetune", "extract"]}
CONTRACT = {"relearn.errors", "relearn.params.pipeline", "relearn.paths"}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_packages_that_it_imports(stage):
    reached = find_all_imports(f"relearn.stages.{stage}") | CONTRACT
    listed = [dep for dep in DVC[stage]["deps"] if dep.startswith("src/")]
    assert listed == sorted({name_dependency(module) for module in reached})


def test_packages_import_in_one_direction():
    """No package reaches itself through another; nobody knows the stages but the command line, which names them."""
    packages = {path.parent.name for path in ROOT.glob("src/relearn/*/__init__.py")}
    knows = {
        package: {
            imported.split(".")[1]
            for path in ROOT.glob(f"src/relearn/{package}/*.py")
            for imported in find_imports(f"relearn.{package}.{path.stem}")
        }
        & packages - {package}
        for package in packages
    }
    while knows:
        if not (lowest := {package for package in knows if not knows[package] & set(knows)}):
            pytest.fail(f"these import each other: {knows}")
        knows = {package: others for package, others in knows.items() if package not in lowest}


def find_packages(module, code):
    """Return the packages that a module reaches, but for those that decide no result."""
    reached = {name.split(".")[1] for name in find_all_imports(module)} - {"errors", "params", "paths", "storage"}
    assert set(code) <= reached
    return reached


def test_key_of_the_feature_store_hashes_every_package_that_decides_a_feature():
    recipe = describe_recipe(make_network_params("mini_vgg"))
    assert set(recipe["code"]) == find_packages("relearn.networks.extractor", CODE)


def test_key_of_the_inspections_hashes_every_package_that_decides_one():
    # Threads only hand images on.
    assert find_packages("relearn.dataset.inspections", inspections.CODE) - {"runtime"} == set(inspections.CODE)


PROGRAM = """
import sys
from pathlib import Path
from relearn.dataset.inspections import Inspections
from relearn.networks.recipe import CODE, describe_recipe
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_bytes

inspections = Inspections(Path("inspections.sqlite"))._recipe
print(hash_bytes(repr(describe_recipe(read_params(Path("params.yaml")).extract)).encode()), inspections)
"""


@pytest.mark.slow
def test_keys_of_the_stores_change_with_the_code(clone):
    """A new module that the resizing calls changes both keys, each time that it changes itself."""

    def compute_keys():
        command = [sys.executable, "-c", PROGRAM]
        options = {"cwd": clone, "env": make_environment(clone), "capture_output": True, "text": True}
        return subprocess.run(command, check=True, **options).stdout.split()

    keys = [compute_keys()]
    decoding = clone / "src/relearn/images/decoding.py"
    decoding.write_text(decoding.read_text() + "\nfrom relearn.images import sharpening  # noqa: E402, F401\n")
    for text in ("AMOUNT = 1\n", "AMOUNT = 2\n"):
        (clone / "src/relearn/images/sharpening.py").write_text(text)
        keys.append(compute_keys())
    assert all(len(pair) == 2 for pair in keys)
    assert [len(set(values)) for values in zip(*keys, strict=True)] == [3, 3]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_its_block_and_uses_each_key(stage):
    block = type(read_params(ROOT / "params.yaml").get_block(stage))
    # Folds of `evaluate` fit heads as `train` does.
    others = {"finetune": [f"extract.{field}" for field in NetworkParams.model_fields], "evaluate": ["train"]}
    shared = [block for block, stages in SHARED_BLOCKS.items() if stage in stages]
    assert DVC[stage]["params"] == [*shared, stage, *others.get(stage, [])]
    sources = "".join(
        find_file(module).read_text()
        for module in find_all_imports(f"relearn.stages.{stage}")
        if not module.startswith("relearn.params.")
    )
    sources += inspect.getsource(TrainParams.grids.fget)
    for field in block.model_fields:
        # The gates ask for a rule by the name of its check, `train` for options by the name of the head.
        by_name = rf'|"{field}"' if stage in ("validate", "verify", "train") else ""
        used = rf"(params|self|finetune)\.{field}\b" + by_name
        assert re.search(used, sources), f"{stage}.{field} is used nowhere"


@pytest.mark.parametrize("block", SHARED_BLOCKS)
def test_each_key_of_a_shared_block_is_used(block):
    sources = "".join(path.read_text() for path in ROOT.glob("src/relearn/networks/*.py"))
    for field in type(read_params(ROOT / "params.yaml").get_block(block)).model_fields:
        assert re.search(rf"params\.{field}\b", sources), f"{block}.{field} is used nowhere"


def test_blocks_are_those_of_the_stages_and_those_that_they_share():
    blocks = [field.alias or name for name, field in Params.model_fields.items()]
    assert [block for block in blocks if block not in SHARED_BLOCKS] == [*STAGES, "retrain"]
    assert set(SHARED_BLOCKS) < set(blocks)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_each_other(stage):
    reached = find_all_imports(f"relearn.stages.{stage}")
    assert [module for module in reached if module.startswith("relearn.stages.")] == [f"relearn.stages.{stage}"]


@pytest.mark.parametrize("stage", STAGES)
def test_command_is_the_stage(stage):
    assert DVC[stage]["cmd"] == f"python -m relearn {stage}"


def test_stages_stand_in_an_order_that_runs():
    written = {f"${{{key}}}" for key in NAMED}
    for stage in STAGES:
        assert {dep for dep in DVC[stage]["deps"] if not dep.startswith("src/")} <= written
        written |= set(list_outputs(stage))


def test_plots_draw_what_the_stages_write():
    drawn = {path for plot in read_yaml(ROOT / "dvc.yaml")["plots"] for entry in plot.values() for path in entry["y"]}
    assert drawn == {path for stage in STAGES for path in list_outputs(stage) if path.startswith("reports/plots/")}


def test_heavy_libraries_are_imported_where_they_are_allowed():
    allowed = {
        "prefect": {"flows"},
        "great_expectations": {"gates", "verify"},
        "keras": {"backend", "mini_vgg"},
        "sklearn": {"heads", "train", "evaluation", "reporting"},
        "tensorflow": {"determinism", "winograd"},  # where another backend is, nothing of it runs
        "dvc": {"committed", "dvc_files", "overrides", "status"},
        "pickle": set(),
    }
    for path in [*ROOT.glob("src/relearn/**/*.py"), *ROOT.glob("flows/*.py"), *ROOT.glob("pretraining/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                where = allowed.get(name.split(".")[0], {path.stem})
                assert path.stem in where or path.parent.name in where, f"{path} imports {name}"


def test_help_imports_nothing_heavy():
    program = "import sys; import relearn.cli; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["keras", "tensorflow", "sklearn", "great_expectations", "pandas", "prefect", "dvc", "scipy", "onnxruntime"]
    heavy += ["numpy", "pydantic", "ruamel", "asyncio"]
    answer = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for target in ("check", "test", "test-long", "repro"):
        assert re.search(rf"^make {target}$", script, re.MULTILINE)
        assert f"make {target}" in (ROOT / "README.md").read_text()


def test_make_lists_its_targets():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    command = ["make", "--no-print-directory", "help"]  # the tests themselves may run under make
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(targets)


def test_prefect_yaml_is_the_flow_and_the_clock_of_the_parameters():
    (deployment,) = read_yaml(ROOT / "prefect.yaml")["deployments"]
    retrain = read_params(ROOT / "params.yaml").retrain
    assert deployment["schedules"] == [{"cron": retrain.cron, "timezone": retrain.timezone}]
    file, name = deployment["entrypoint"].split(":")
    assert re.search(rf"^@flow.*\ndef {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_lock_files_carry_no_address():
    for path in ROOT.glob("*.lock"):
        assert "://" not in path.read_text(), path
        if path.name != "dvc.lock":
            assert "--hash=sha256:" in path.read_text()


# --- the pipeline itself, with DVC ---------------------------------------------------------------------------------


def read_tree(folder, *roots):
    """Return the bytes of every file below some folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for root in roots
        for path in sorted((folder / root).rglob("*"))
        if path.is_file() and path.name != ".gitignore"
    }


WATCHER = """
import json, os, runpy, sys

opened = set()

def note(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        opened.add((os.fsdecode(args[0]), bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))))

sys.addaudithook(note)
try:
    runpy.run_module("relearn", run_name="__main__")
except SystemExit as end:
    if end.code:
        raise
modules = sorted(name for name in sys.modules if name.split(".")[0] == "relearn")
print(json.dumps({"opened": sorted(opened), "modules": modules}))
"""


@pytest.mark.slow
def test_pipeline_reads_and_writes_what_dvc_yaml_says(clone, set_params):
    """Each stage is run with an eye on every file that it opens, and on every module of ours that it imports."""
    write_small_set(clone)
    changes = {"train.search": [{"head": "logistic_regression"}, {"head": "dense"}], "train.dense.epochs": 2}
    changes |= {"finetune.epochs": 1, "finetune.from_layer": "block2_conv1", "finetune.keep": "always"}
    set_params(SMALL_SET | changes, clone / "params.yaml")
    (clone / ".watch.py").write_text(WATCHER)
    for stage in STAGES:
        answer = subprocess.run(
            [sys.executable, ".watch.py", stage],
            cwd=clone,
            env={**os.environ, "PYTHONPATH": str(clone / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        seen = json.loads(answer.stdout.splitlines()[-1])
        read, written = set(), set()
        for name, for_writing in seen["opened"]:
            path = Path(clone, name)
            if not path.is_relative_to(clone):
                continue
            # `.NAME.PID.partial` is what NAME is called until it is complete.
            inside = re.sub(r"(^|/)\.([^/]+)\.\d+\.partial", r"\1\2", path.relative_to(clone).as_posix())
            if inside.startswith(("data/", "reports/", "metrics/", "models/", "images/", "expectations.json")):
                (written if for_writing else read).add(inside)
        deps = {re.sub(r"\$\{(.+)\}", lambda match: NAMED[match[1]], dep) for dep in DVC[stage]["deps"]}
        outputs = set(list_outputs(stage))
        assert {path for path in read if not is_below(path, deps | outputs)} == set()
        assert {path for path in written if not is_below(path, outputs)} == set()
        for dep in deps:
            assert dep.startswith("src/") or any(is_below(path, {dep}) for path in read), f"{stage} never reads {dep}"
        packages = {path.parent.name for path in ROOT.glob("src/relearn/*/__init__.py")}
        names = [name for name in seen["modules"] if name.split(".")[-1] not in packages and name not in ENTRY]
        listed = {dep for dep in deps if dep.startswith("src/")}
        assert {name_dependency(name) for name in names} == listed


def is_below(path, roots):
    return any(path == root or path.startswith(f"{root}/") for root in roots)


@pytest.mark.slow
def test_only_what_a_change_concerns_runs(ran):
    """All stages ran with the parameters of the small set, or there would be something to do."""
    assert "Data and pipelines are up to date." in repro(ran).stdout

    experiment = execute(ran, "dvc", "exp", "run", "-S", "train.logistic_regression.C=0.00001")
    assert experiment.returncode == 0, experiment.stderr
    assert re.findall(r"Running stage '(\w+)'", experiment.stdout) == ["train", "evaluate"]
    difference = json.loads(execute(ran, "dvc", "metrics", "diff", "--json").stdout)
    assert difference["metrics/training.json"]["n_trials"] == {"old": 2, "new": 1, "diff": -1}

    plots = execute(ran, "dvc", "plots", "diff", "HEAD", "--out", "dvc_plots")
    assert plots.returncode == 0, plots.stderr
    page = (ran / "dvc_plots" / "index.html").read_text()
    for name in ("Score against C", "Confusion", "ROC", "Precision and recall", "Calibration"):
        assert name in page


@pytest.mark.slow
def test_images_keep_their_splits_as_others_come_and_go(clone, set_params):
    """DVC removes what a stage wrote before it runs again, but not `data/splits.csv`."""
    set_params({"restructure.source": "images", "restructure.stratify": True}, clone / "params.yaml")
    given = {}
    for first, names in ((0, range(10)), (100, range(10, 17))):
        write_images(clone / "images", [f"{label}/{n}.png" for label in ("cat", "dog") for n in names], first)
        assert repro(clone, "restructure").returncode == 0
        splits = {row.sha256: row.split for row in read_manifest(clone / "data" / "manifest.csv")}
        assert splits.items() >= given.items()
        given = splits
    content = (clone / "data" / "splits.csv").read_bytes()
    assert content.count(b"\n") == 1 + 34
    shutil.rmtree(clone / "images" / "cat")
    assert repro(clone, "restructure").returncode == 0
    assert (clone / "data" / "splits.csv").read_bytes() == content
    assert "data/splits.csv" in git(clone, "status", "--porcelain")  # git has it, DVC's cache has not
    # Cut again, without the file, some images get another split.
    (clone / "data" / "splits.csv").unlink()
    assert repro(clone, "restructure").returncode == 0
    again = {row.sha256: row.split for row in read_manifest(clone / "data" / "manifest.csv")}
    assert any(given[sha256] != split for sha256, split in again.items())


@pytest.mark.slow
def test_bad_data_ends_the_pipeline_before_extract(clone, set_params):
    write_small_set(clone)
    set_params(SMALL | {"validate.min_images.min": 4}, clone / "params.yaml")
    answer = repro(clone)
    assert answer.returncode != 0
    assert (
        "min_images: wanted at least 4 images of every class in every split, got 4 of 6 pairs of split and class"
        in answer.stderr
    )
    assert "failed to reproduce 'validate'" in answer.stderr
    assert not (clone / "data" / "features").exists()
    assert execute(clone, "relearn", "finetune").returncode == 0
    alone = repro(clone, "--single-item", "extract")
    assert alone.returncode != 0
    assert "the data did not pass: see reports/validation.json" in alone.stderr


@pytest.mark.long
@pytest.mark.slow
def test_same_bytes_whatever_the_threads_and_the_order(clone, tmp_path, set_params):
    """Two clones: other numbers of threads, and the files written to disk in another order."""
    write_small_set(clone)
    set_params(SMALL, clone / "params.yaml")
    other = tmp_path / "other"
    shutil.copytree(clone, other)
    shutil.rmtree(other / "images")
    for path in sorted((clone / "images").rglob("*.png"), reverse=True):
        target = other / path.relative_to(clone)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

    def limit(n):
        names = ("RELEARN_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
        return dict.fromkeys(names, str(n))

    for folder, n_threads in ((clone, 1), (other, 2)):
        answer = repro(folder, **limit(n_threads))
        assert answer.returncode == 0, answer.stderr
    trees = [read_tree(folder, "data", "models", "metrics", "reports") for folder in (clone, other)]
    assert trees[0].keys() == trees[1].keys()
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []
    assert (clone / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()


@pytest.mark.long
@pytest.mark.slow
def test_same_features_whether_the_last_batch_is_full_or_not(clone, set_params):
    """28 images in batches of 8 leave a last one of 4; without 4 of them every batch is full."""
    write_small_set(clone)
    set_params(SMALL | {"extract.batch_size": 8}, clone / "params.yaml")
    features = []
    for gone in ([], ["training/cat/0", "training/cat/1", "training/dog/2", "evaluation/dog/0"]):
        for name in gone:
            (clone / "images" / f"{name}.png").unlink()
        shutil.rmtree(clone / ".relearn", ignore_errors=True)  # what was computed before
        extract_features(clone)
        parts = [read_features(clone / "data" / "features", split) for split in SPLITS]
        features.append(
            {key: row.tobytes() for part in parts for key, row in zip(part.sha256, part.features, strict=True)}
        )
    partial, full = features
    assert (len(partial), len(full)) == (28, 24)
    assert all(partial[sha256] == row for sha256, row in full.items())


@pytest.mark.long
@pytest.mark.slow
def test_features_are_the_same_however_they_came_about(clone, set_params, tmp_path):
    """Killed twice, by two processes at once, with a warm store and with a cold one, on one thread and on two."""
    write_small_set(clone)
    set_params(SMALL | {"extract.batch_size": 2, "extract.image_size_px": 192}, clone / "params.yaml")
    extract_features(clone)
    results = read_tree(clone, "data/features")
    store = clone / ".relearn"

    def start(**environment):
        command = [sys.executable, "-m", "relearn", "extract"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=clone, env=make_environment(clone) | environment, **pipes)

    def check(child):
        _, printed = child.communicate(timeout=300)
        assert child.returncode == 0, printed
        assert read_tree(clone, "data/features") == results
        return printed

    assert "0 of them new to the store" in check(start())
    shutil.rmtree(store)
    for n_stored in (2, 14):
        with start() as child:
            wait_for_stored(clone, n_stored)
            child.kill()
    n_stored = wait_for_stored(clone, 14)
    assert n_stored < 28
    assert f"28 different images, {28 - n_stored} of them new" in check(start())

    shutil.rmtree(store)
    one, two = start(RELEARN_THREADS="1", TF_NUM_INTRAOP_THREADS="1"), start(RELEARN_THREADS="2")
    for child in (one, two):
        _, printed = child.communicate(timeout=300)
        assert child.returncode == 0, printed
    assert read_tree(clone, "data/features") == results
    assert "0 of them new to the store" in check(start())


@pytest.mark.long
@pytest.mark.slow
def test_full_disk_is_told(clone, set_params):
    """The store lies on a disk of a megabyte."""
    disk = clone / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        write_small_set(clone)
        set_params(SMALL | {"extract.layer": "block1_pool"}, clone / "params.yaml")
        assert repro(clone, "finetune").returncode == 0
        answer = execute(clone, "relearn", "extract", RELEARN_CACHE=str(disk))
        assert answer.returncode == 6
        assert "Traceback" not in answer.stderr
        assert "database or disk is full; free some room there, or set RELEARN_CACHE" in answer.stderr
        assert not (clone / "data" / "features").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
