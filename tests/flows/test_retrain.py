"""Retraining as a person and a scheduler start it: under a real Prefect server, on real images, in a repository."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

from conftest import (
    RARE,
    ROOT,
    ask,
    change_params,
    commit,
    encode_image,
    execute,
    extract_features,
    git,
    make_clone,
    make_database,
    make_environment,
    read_last_name,
    read_last_run,
    wait_for,
)
from relearn.inference.exported import ExportedModel
from relearn.repository.lock import LOCK, hold_lock
from relearn.storage.files import hash_bytes, hash_file

CHANGES = {
    "restructure.source": "data/raw/photos",
    "validate.min_images.min": 2,
    "train.logistic_regression.C": [0.01, 0.1],
    "evaluate.n_resamples": 100,
    "retrain.landing": "data/landing",
    "retrain.settle_seconds": 0,
    "retrain.margin": 0.1,
    "retrain.min_images": 30,
}
STAGES = {"restructure", "validate", "finetune", "extract", "verify", "train", "evaluate"}
TASKS = {"recover", "look for images", "open worktree", "fetch data", "decide", "show mistakes", "record", "clean up"}


def read_digits():
    with zipfile.ZipFile(ROOT / "data" / "raw" / "digits.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        images = [(Path(name).parent.name, Path(name).name, archive.read(name)) for name in names]
    return sorted(images, key=lambda image: image[1])  # the classes mixed


DIGITS = read_digits()


def change_pixel(content):
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    image.putpixel((0, 0), 200)
    return encode_image(image)


def land(folder, images, where="data/landing"):
    for label, name, content in images:
        (folder / where / label).mkdir(parents=True, exist_ok=True)
        (folder / where / label / name).write_bytes(content)


def land_hostile(landing):
    """Land what no one should take, and one file that is no image; return the paths of the former."""
    os.mkfifo(landing / "0" / "pipe.png")
    (landing / "0" / "passwd.png").symlink_to("/etc/passwd")
    (landing / "0" / "zero.png").symlink_to("/dev/zero")
    (landing / "0" / "nowhere.png").symlink_to("/nowhere")
    with (landing / "0" / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    (landing / "0" / "later.png").write_bytes(b"x")
    os.utime(landing / "0" / "later.png", (4e9, 4e9))
    (landing / "0" / "no image.png").write_bytes(b"x")
    (landing / "0" / "a.skip.png").write_bytes(b"what .dvcignore names")
    return sorted(f"0/{name}.png" for name in ("a.skip", "pipe", "passwd", "zero", "nowhere", "sparse", "later"))


def make_repository(folder, images):
    """Make a repository whose source is a folder of digits that DVC tracks."""
    make_clone(folder)
    land(folder, images, "data/raw/photos")
    change_params(CHANGES, folder / "params.yaml")
    assert execute(folder, "dvc", "add", "--quiet", "data/raw/photos").returncode == 0
    (folder / "data" / "landing").mkdir()
    git(folder, "branch", "--move", "main")
    commit(folder)


def fill_store(folder):
    """Compute the features of 500 digits."""
    make_repository(folder, DIGITS[:500])
    extract_features(folder)


@pytest.fixture
def cold(tmp_path):
    """A repository whose source is a folder of 300 digits that DVC tracks."""
    make_repository(tmp_path / "clone", DIGITS[:300])
    return tmp_path / "clone"


@pytest.fixture
def repository(cold, build_once):
    """The same with the features of 500 digits in its store: then no stage loads a network."""
    shutil.copytree(build_once("digits", fill_store) / ".relearn", cold / ".relearn")
    return cold


def retrain(folder, *arguments, **environment):
    """Retrain; return how it ended, and what it said of that."""
    answer = execute(folder, "flows.retrain", *arguments, **environment)
    name, message = find_ending(answer.stdout)
    assert answer.returncode == (name in ("Blocked", "Failed")), answer.stdout
    return name, message


def find_ending(printed):
    """Return the state and the message in which a retraining ended; on a busy machine Prefect may log after that."""
    ended = re.findall(r"^(Skipped|Promoted|NotPromoted|DryRun|Blocked|Failed): (.*)", printed, re.MULTILINE)
    assert ended, printed
    return ended[-1]


def find_processes(folder):
    """Return the processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
        except (psutil.Error, OSError):
            continue
    return found


def check_clean(folder):
    """Assert that nothing is left of a retraining but its results, and that they agree."""
    assert find_processes(folder) == []
    assert git(folder, "worktree", "list").count("\n") == 1
    assert list((folder / ".git").glob("worktrees/*")) == list((folder / ".git").rglob("*.lock")) == []
    assert list((folder / "release").rglob("*.partial")) == []
    production = git(folder, "log", "-1", "--format=%(trailers:key=In-use,valueonly)", "retrain/main").strip()
    assert os.readlink(folder / "release" / "current") == f"versions/{production}"


def read_person(folder):
    """Return all that is a person's: the files but for those that git ignores, the index, HEAD."""
    names = git(folder, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    data = {
        path: path.read_bytes()
        for path in (folder / "data").rglob("*")
        if path.is_file() and "landing" not in path.parts
    }
    return files, data, (folder / ".git" / "index").read_bytes(), (folder / ".git" / "HEAD").read_bytes()


def read_all(folder):
    """Return all that a dry run leaves as it is: what is a person's, refs, release, and the landing folder."""
    landing = {path: path.stat().st_mtime_ns for path in (folder / "data" / "landing").rglob("*")}
    release = {path: os.lstat(path).st_mtime_ns for path in (folder / "release").rglob("*") if path.name != ".lock"}
    return read_person(folder), git(folder, "for-each-ref"), landing, release


@pytest.mark.slow
def test_from_the_first_to_the_rollback(server, cold, tmp_path, webhook):
    repository = cold
    address, told = webhook
    environment = {"PREFECT_API_URL": server, "RELEARN_WEBHOOK": address}
    git(tmp_path, "init", "--quiet", "--bare", "origin")
    git(repository, "remote", "add", "origin", str(tmp_path / "origin"))
    params = (repository / "params.yaml").read_text().replace("git_remote:", "git_remote: origin #")
    (repository / "params.yaml").write_text(params)
    execute(repository, "dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    (repository / ".dvcignore").write_text("*.skip.png\n")
    commit(repository)

    # The first.
    assert retrain(repository, **environment) == (
        "Promoted",
        "v1 is the production model, first: there was no production model",
    )
    state, tasks, _, artifacts = read_last_run(server)
    assert state == "Promoted"
    assert {re.sub("-[0-9a-f]{3}$", "", name) for name in tasks} == {
        *STAGES,
        *TASKS,
        "fetch commits",
        "take away",
        "push",
    }
    assert set(tasks.values()) == {"Completed"}
    assert set(artifacts) == {"verdict", "validation", "verification", "confusion", "mistakes"}
    assert artifacts["verdict"].startswith("## Promoted: first")
    assert artifacts["confusion"].startswith("data:image/svg+xml;base64,")
    assert "evaluated images are wrong" in artifacts["mistakes"]
    check_clean(repository)

    # Nothing new.
    assert retrain(repository, **environment) == ("Skipped", "nothing new")
    _, tasks, *_ = read_last_run(server)
    assert {re.sub("-[0-9a-f]{3}$", "", name) for name in tasks} == {
        "fetch commits",
        "recover",
        "look for images",
        "clean up",
    }

    # A dry run with other parameters, while images wait that were written to just now.
    land(repository, DIGITS[300:500])
    before = read_all(repository)
    name, message = retrain(repository, "--dry-run", "--now", "-S", "train.head=nearest_centroid", **environment)
    assert name == "DryRun"
    assert message.startswith("dry run, ")
    assert message.endswith("; nothing is recorded; trained with train.head=nearest_centroid, which main does not have")
    assert read_last_name(server)[0].startswith("dry run, ")
    assert read_all(repository) == before
    check_clean(repository)

    # New images, while a person is at work.
    (repository / "README.md").write_text("in the middle of a sentence")
    (repository / "new.txt").write_text("staged")
    git(repository, "add", "new.txt")
    (repository / "src" / "relearn" / "stages" / "train.py").write_text("syntax error (")
    (repository / "params.yaml").write_text("in the middle of")
    before = read_person(repository)
    hostile = land_hostile(repository / "data" / "landing")
    name, message = retrain(repository, **environment)
    assert (name, message[:28]) == ("Promoted", "v2 is the production model, ")
    landing = repository / "data" / "landing"
    assert f"; {len(hostile) - 1} files left in {landing}: {hostile[1]} (" in message
    assert f"; 1 file left in {landing}: {hostile[0]} (DVC would not keep it: .dvcignore names it)" in message
    assert f"; 1 file that cannot be used, now in {landing}/rejected/" in message
    assert ": 0/no image.png (not an image (" in message
    assert "; 200 new images in data/raw/photos of classifier@v2.0.0; `relearn adopt` brings data, " in message
    title, tags = read_last_name(server)
    assert re.fullmatch("v2 promoted, (better|no clear difference)", title)
    assert {"Promoted", "v2", title.partition(", ")[2]} == set(tags)
    assert read_person(repository) == before
    lie = {path.relative_to(landing).as_posix() for path in landing.rglob("*") if not path.is_dir()}
    (reasons, rejected) = sorted(lie - set(hostile), key=len)
    assert rejected == f"{reasons.removesuffix('.csv')}/0/no image.png"
    assert (landing / reasons).read_text().startswith('path,reason\n0/no image.png,"not an image (')
    assert lie >= set(hostile)
    check_clean(repository)
    *_, log, artifacts = read_last_run(server)
    assert f"left in {landing}: 0/pipe.png: not a regular file" in log
    assert artifacts["landing"].count('"reason"') == len(hostile) + 1
    for name in hostile:
        (landing / name).unlink()
    assert "params.yaml differs from the committed one, which counts" in log
    assert '"metric": "accuracy_score", "v1": ' in artifacts["comparison"]
    git(repository, "reset", "--quiet", "--hard")

    # What was recorded reads well by other tools.
    answer = execute(repository, "dvc", "metrics", "diff", "--json", "classifier@v1.0.0", "classifier@v2.0.0")
    assert json.loads(answer.stdout)["metrics/training.json"]["n_images"]["diff"] > 50
    answer = execute(
        repository, "dvc", "artifacts", "get", ".", "classifier", "--rev", "v1.0.0", "--out", str(tmp_path / "got")
    )
    assert answer.returncode == 0, answer.stderr
    kept = repository / "release" / "versions" / "v1"
    assert hash_file(tmp_path / "got" / "head.onnx") == hash_file(kept / "head.onnx")
    answer = execute(repository, "relearn", "lineage", "release/current", "--json")
    lineage = json.loads(answer.stdout)
    assert (lineage["tag"], len(lineage["images"])) == ("classifier@v2.0.0", 500)
    assert lineage["images"].keys() == {hash_bytes(content) for *_, content in DIGITS[:500]}
    assert "git_remote: origin" in lineage["params"]
    answer = execute(repository, "relearn", "lineage", "v1")
    assert answer.stdout.startswith("classifier@v1.0.0, commit ")
    assert "images       300 (training " in answer.stdout
    seen = execute(repository, "relearn", "lineage", "--image", hash_bytes(DIGITS[0][2])).stdout
    split = lineage["images"][hash_bytes(DIGITS[0][2])]
    assert seen == f"classifier@v2.0.0  {split}\nclassifier@v1.0.0  {split}\n"
    seen = execute(repository, "relearn", "lineage", "--image", hash_bytes(DIGITS[400][2])).stdout
    assert seen.startswith("classifier@v2.0.0  ")
    assert seen.count("\n") == 1

    # Everything is where the team can get it.
    clone = tmp_path / "elsewhere"
    git(tmp_path, "clone", "--quiet", "--branch", "retrain/main", str(tmp_path / "origin"), str(clone))
    execute(clone, "dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    answer = execute(clone, "dvc", "pull", "models/classifier")
    assert answer.returncode == 0, answer.stderr
    assert hash_file(clone / "models" / "classifier" / "head.onnx") == hash_file(
        repository / "release" / "current" / "head.onnx"
    )
    assert git(clone, "tag").split() == ["classifier@v1.0.0", "classifier@v2.0.0"]

    # A person takes it over.
    answer = execute(repository, "relearn", "adopt")
    assert answer.stdout == "classifier@v2.0.0 is merged into main, and its files are checked out\n", answer.stderr
    assert sum(path.is_file() for path in (repository / "data" / "raw" / "photos").rglob("*")) == 501
    assert git(repository, "status", "--porcelain") == ""
    assert hash_file(repository / "models" / "classifier" / "head.onnx") == hash_file(
        repository / "release" / "current" / "head.onnx"
    )

    # Bad data: a class of a single image.
    assert told == []
    land(repository, [("owl", "0.png", DIGITS[700][2])])
    name, message = retrain(repository, **environment)
    assert name == "Blocked"
    assert message.startswith(
        "v2 stays the production model, blocked by data: 2 checks failed: every_class_in_every_split: wanted "
    )
    assert message.endswith("; add images to data/landing, or take it out of data/landing")
    _, _, log, _ = read_last_run(server)
    assert "Traceback" not in log
    (body,) = told
    assert (body["flow"], body["state"]) == ("retrain", "Blocked")
    assert "every_class_in_every_split" in body["text"]
    assert (repository / "data" / "landing" / "owl" / "0.png").exists()
    check_clean(repository)
    name, message = retrain(repository, **environment)
    assert (name, message[:58]) == ("Skipped", "nothing new: what came was tried before, blocked by data (")

    # Back.
    answer = execute(repository, "relearn", "rollback")
    assert answer.stdout.startswith(
        "classifier@v1.0.0 is the production model, classifier@v2.0.0 is not any more; recorded as "
    )
    assert "not in the data of the next retraining: 200" in answer.stdout
    check_clean(repository)
    assert git(repository, "status", "--porcelain") == ""
    assert retrain(repository, **environment)[0] == "Skipped"
    recorded = git(repository, "rev-parse", "retrain/main")
    assert git(tmp_path / "origin", "rev-parse", "retrain/main") == recorded


@pytest.mark.long
@pytest.mark.slow
def test_wherever_it_is_killed_the_next_run_puts_it_right(server, repository, set_params):
    """kill -9 when a stage has begun, and between the record and what follows it."""
    set_params({"retrain.landing": (repository / "data" / "landing").as_uri()}, repository / "params.yaml")
    commit(repository)
    environment = {"PREFECT_API_URL": server}
    land(repository, DIGITS[300:500])
    for moment in ("Running stage 'extract'", "'record"):
        with subprocess.Popen(
            [sys.executable, "-m", "flows.retrain"],
            cwd=repository,
            env=make_environment(repository) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as flow:
            if moment.startswith("'record"):
                wait_for(lambda: git(repository, "branch", "--list", "retrain/main"), 200)
            else:
                assert any(moment in line for line in flow.stdout)
            flow.kill()
    name, message = retrain(repository, **environment)
    check_clean(repository)
    assert name == "Skipped", message
    assert git(repository, "tag").split() == ["classifier@v1.0.0"]
    assert os.readlink(repository / "release" / "current") == "versions/v1"
    assert [path for path in (repository / "data" / "landing").rglob("*") if path.is_file()] == []
    assert git(repository, "log", "--format=%s", "-1", "retrain/main").startswith("Promote classifier@v1.0.0")


@RARE
@pytest.mark.long
@pytest.mark.slow
def test_what_an_import_brings(server, clone, set_params, tmp_path):
    origin = tmp_path / "origin"
    land(tmp_path, DIGITS[:300], "origin")
    set_params(CHANGES | {"retrain.landing": None}, clone / "params.yaml")
    assert execute(clone, "dvc", "import-url", "--quiet", str(origin), "data/raw/photos").returncode == 0
    git(clone, "branch", "--move", "main")
    commit(clone)
    assert retrain(clone, PREFECT_API_URL=server)[0] == "Promoted"
    assert retrain(clone, PREFECT_API_URL=server) == ("Skipped", "nothing new")
    _, tasks, *_ = read_last_run(server)
    assert not STAGES & tasks.keys()
    land(tmp_path, DIGITS[300:400], "origin")
    assert retrain(clone, PREFECT_API_URL=server)[0] == "Promoted"
    assert (clone / "release" / "current" / "images.csv").read_text().count("\n") == 401
    assert execute(clone, "relearn", "rollback").returncode == 0
    name, message = retrain(clone, PREFECT_API_URL=server)
    assert (name, message[:53]) == ("Skipped", "nothing new: what came was tried before, rolled back ")
    check_clean(clone)
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.long
def test_one_at_a_time(server, repository):
    with hold_lock(repository / LOCK, "make repro"):
        name, message = retrain(repository, PREFECT_API_URL=server)
        assert name == "Skipped"
        assert re.fullmatch(rf"make repro already runs \(pid {os.getpid()} on \S+, since .*\)", message)
        answer = execute(repository, "flows.repro", "--dry")
        assert answer.returncode == 6
        assert re.fullmatch(
            r"relearn: make repro already runs \(pid .*\); try again when it has ended\n", answer.stderr
        )
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", "flows.retrain"],
            cwd=repository,
            env=make_environment(repository) | {"PREFECT_API_URL": server},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    ends = [find_ending(process.communicate()[0]) for process in begun]
    assert sorted(name for name, _ in ends) == ["Promoted", *["Skipped"] * (len(begun) - 1)]
    assert {process.returncode for process in begun} == {0}
    assert sum(message.startswith("retraining already runs (pid ") for _, message in ends) >= 1
    check_clean(repository)


@pytest.mark.long
@pytest.mark.slow
def test_a_tuned_network_is_promoted_challenged_and_brought_back(server, repository, set_params):
    set_params({"finetune.epochs": 1, "finetune.keep": "always", "retrain.export": True}, repository / "params.yaml")
    commit(repository)
    name, message = retrain(repository, PREFECT_API_URL=server)
    assert (name, message[:27]) == ("Promoted", "v1 is the production model,")
    _, _, log, _ = read_last_run(server)
    assert "finetune: epoch 1 of 1: training loss " in log
    first = repository / "release" / "versions" / "v1" / "network.weights.h5"
    record = json.loads(first.with_name("classifier.json").read_text())
    assert hash_file(first) == record["extractor"]["weights_sha256"]

    # The challenger has another network, and the champion is judged by its own.
    land(repository, DIGITS[300:500])
    name, message = retrain(repository, PREFECT_API_URL=server)
    assert (name, message[:27]) == ("Promoted", "v2 is the production model,")
    *_, artifacts = read_last_run(server)
    assert '"metric": "accuracy_score", "v1": ' in artifacts["comparison"]
    assert hash_file(repository / "release" / "current" / "network.weights.h5") != hash_file(first)

    # Whoever gets the release or a tag gets the network.
    image = next((repository / "data" / "raw" / "photos" / "3").iterdir())
    for version in ("v2", "v1"):
        answer = execute(repository, "relearn", "predict", "--model", "release/current", str(image))
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.split()[1] == "3", version
        lineage = execute(repository, "relearn", "lineage", "release/current").stdout
        assert "network.weights.h5" in lineage
        exported = ExportedModel(repository / "release" / "current")
        assert (exported.record.version, exported.record.network["weights"]) == (version, "tuned")
        assert exported.predict_files([str(image)]).answers[0].label == "3"
        if version == "v2":
            assert execute(repository, "relearn", "rollback").returncode == 0
    assert os.readlink(repository / "release" / "current") == "versions/v1"
    check_clean(repository)


@pytest.mark.long
@pytest.mark.slow
def test_what_stands_in_the_way_is_told(server, repository, set_params):
    def fail(*arguments, **changes):
        set_params({f"retrain.{key}": value for key, value in changes.items()}, repository / "params.yaml")
        commit(repository)
        name, message = retrain(repository, *arguments, PREFECT_API_URL=server)
        assert name == "Failed"
        return message

    assert fail("trunk") == "base: trunk: wanted a branch with a commit, got none of that name"
    assert fail(landing="nowhere://x").startswith("retrain.landing: nowhere://x: Protocol not known: nowhere")
    assert "because the time limit has passed" in fail(landing="data/landing", time_limit_minutes=0.02)
    set_params({"retrain.time_limit_minutes": 100}, repository / "params.yaml")
    commit(repository)
    git(repository, "switch", "--quiet", "--create", "retrain/main")
    assert fail() == (
        f"retrain/main: wanted a branch that is not checked out, got one that is checked out in {repository}; `git "
        "switch` to another branch there, or name another one in retrain.branch"
    )
    git(repository, "switch", "--quiet", "main")
    git(repository, "branch", "--delete", "--force", "retrain/main")
    set_params({"restructure.source": "data/raw/elsewhere"}, repository / "params.yaml")
    assert fail().startswith(
        "restructure.source: data/raw/elsewhere: wanted what git or DVC tracks, got neither; `dvc add data/raw/else"
    )
    set_params({"restructure.source": "data/raw/digits.zip"}, repository / "params.yaml")
    commit(repository)
    land(repository, DIGITS[300:310])
    assert fail().startswith(
        "restructure.source: data/raw/digits.zip: wanted a folder tracked by DVC, which grows by what"
    )
    git(repository, "worktree", "add", "--quiet", str(repository / "data" / "landing" / "theirs"), "HEAD", "--detach")
    answer = execute(repository / "data" / "landing" / "theirs", "flows.retrain", PREFECT_API_URL=server)
    assert "wanted the main repository, got a worktree of it; retrain there" in answer.stdout
    assert git(repository, "status", "--porcelain") == ""
    assert find_processes(repository) == []
    assert not (repository / ".relearn" / "retrain" / "relearn-retraining").exists()


@pytest.mark.long
@pytest.mark.slow
def test_the_scheduler_retrains(server, repository, set_params):
    """The scheduler starts it every minute: the first is cancelled in the middle, the next ends with a promotion."""
    set_params({"retrain.cron": "* * * * *"}, repository / "params.yaml")
    commit(repository)
    environment = make_environment(repository) | {"PREFECT_API_URL": server}

    def find_runs(*states):
        (deployment,) = ask(server, "deployments/filter", deployments={"name": {"any_": ["scheduled"]}})
        runs = ask(server, "flow_runs/filter", flow_runs={"deployment_id": {"any_": [deployment["id"]]}})
        return [run for run in runs if run["state_name"] in states], deployment

    with (repository / ".relearn.log").open("w") as log:
        schedule = subprocess.Popen(
            [sys.executable, "-m", "flows.schedule"], cwd=repository, env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: "being served" in (repository / ".relearn.log").read_text() or schedule.poll(), 120)
            land(repository, DIGITS[300:500])
            (run,) = wait_for(lambda: find_runs("Running")[0], 150)
            assert run["auto_scheduled"]
            wait_for(lambda: "Running stage 'restructure'" in (repository / ".relearn.log").read_text(), 120)
            ask(server, f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
            wait_for(lambda: find_runs("Cancelled")[0], 120)
            wait_for(
                lambda: not [line for line in find_processes(repository) if "dvc" in line or "relearn" in line], 60
            )
            (run,) = wait_for(lambda: find_runs("Promoted")[0], 300)
            assert run["auto_scheduled"]
            assert [path for path in (repository / "data" / "landing").rglob("*") if path.is_file()] == []
            _, deployment = find_runs()
            ask(server, f"deployments/{deployment['id']}/create_flow_run", parameters={"overrides": ["train.seed=1"]})
            # After those that waited meanwhile, one a minute.
            (run,) = wait_for(lambda: find_runs("Failed")[0], 600)
            assert run["state"]["message"].startswith("overrides: wanted none in a run of a deployment, such as a sche")
        finally:
            schedule.send_signal(signal.SIGTERM)
            schedule.wait(120)
    wait_for(lambda: find_processes(repository) == [], 60)
    assert os.readlink(repository / "release" / "current") == "versions/v1"
    images = (repository / "release" / "current" / "images.csv").read_text()
    assert images.count("\n") == 501
    _, deployment = find_runs()
    assert deployment["paused"] is False
    assert [clock["active"] for clock in deployment["schedules"]] == [True]


@pytest.mark.long
@pytest.mark.slow
def test_sigterm_leaves_no_temporary_server(repository, build_once):
    shutil.copytree(build_once("prefect-home", make_database), repository / ".prefect")
    with subprocess.Popen(
        [sys.executable, "-m", "flows.retrain"],
        cwd=repository,
        env={key: value for key, value in make_environment(repository).items() if key != "PREFECT_API_URL"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as flow:
        assert any("Running stage 'restructure'" in line for line in flow.stdout)
        assert any("uvicorn" in " ".join(line) for line in find_processes(repository))
        flow.terminate()
        flow.stdout.read()
    assert flow.returncode == 143
    wait_for(lambda: find_processes(repository) == [], 30)


@pytest.mark.slow
def test_schedule_wants_a_server_and_a_clock(cold, set_params):
    answer = execute(cold, "flows.schedule", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert answer.returncode == 6
    assert "http://127.0.0.1:9/api: wanted a Prefect server there, got no answer; `make ui`" in answer.stderr
    for changes, message in (
        ({"retrain.cron": "every night"}, "retrain.cron: wanted five fields such as 0 3 * * *, got 'every night'"),
        (
            {"retrain.cron": "0 3 * * *", "retrain.timezone": "Mars/Base"},
            "retrain.timezone: wanted a name such as Europe/Zurich, got 'Mars/Base'",
        ),
    ):
        set_params(changes, cold / "params.yaml")
        commit(cold)
        answer = execute(cold, "flows.schedule", PREFECT_API_URL="http://127.0.0.1:9/api")
        assert answer.stderr == f"relearn: params.yaml: {message}\n"
        assert answer.returncode == 3


@pytest.mark.long
@pytest.mark.slow
def test_a_gate_that_is_killed_decides_nothing(server, repository):
    """Out of memory, say: without its report nobody knows whether the data is good."""
    broken = repository / "src" / "relearn" / "gates" / "expectations.py"
    broken.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    commit(repository)
    name, message = retrain(repository, PREFECT_API_URL=server)
    assert name == "Failed"
    assert message.startswith("dvc repro validate: ended with exit code ")
    assert "retrain/main" not in git(repository, "branch", "--list")
    assert "Failed" in read_last_run(server)[0]


@pytest.mark.long
@pytest.mark.slow
def test_a_push_that_failed_is_made_good(server, repository, tmp_path, monkeypatch):
    """The store of DVC is at a relative path; a file stands in its way, and then it does not."""
    environment = {"PREFECT_API_URL": server, "RELEARN_RETRY_SECONDS": "0"}
    execute(repository, "dvc", "remote", "add", "--local", "--default", "store", "../store")
    (repository.parent / "store").write_text("in the way")
    name, message = retrain(repository, **environment)
    assert name == "Failed"
    assert message.startswith(
        "v1 is the production model, first: there was no production model; not pushed, which the next run tries again: "
    )
    (repository.parent / "store").unlink()
    land(repository, DIGITS[300:500])

    # An image changed by a pixel in DVC's cache, which DVC does not notice, is no image of the data.
    before = git(repository, "for-each-ref")
    md5 = hashlib.md5(DIGITS[0][2], usedforsecurity=False).hexdigest()
    place = repository / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    assert place.read_bytes() == DIGITS[0][2]
    for content in (change_pixel(DIGITS[0][2]), DIGITS[0][2]):
        place.chmod(0o644)
        place.write_bytes(content)
        place.chmod(0o444)
        if content != DIGITS[0][2]:
            name, message = retrain(repository, **environment)
            assert name == "Failed"
            assert message.startswith(
                f"data/raw/photos/{DIGITS[0][0]}/{DIGITS[0][1]}: wanted md5 {md5} by data/raw/photos"
            )
            assert f"the object {place} of DVC's cache is damaged; remove it, then `dvc pull`" in message
            assert git(repository, "for-each-ref") == before
    assert retrain(repository, **environment)[0] == "Promoted"
    assert not (repository / ".relearn" / "retrain" / "unpushed").exists()
    shutil.rmtree(repository / ".dvc" / "cache")
    for version in ("v1", "v2"):
        got = tmp_path / version
        answer = execute(
            repository, "dvc", "artifacts", "get", ".", "classifier", "--rev", f"{version}.0.0", "--out", str(got)
        )
        assert answer.returncode == 0, answer.stderr
        assert hash_file(got / "head.onnx") == hash_file(repository / "release" / "versions" / version / "head.onnx")


def test_repro_needs_no_prefect():
    program = "import sys; import flows.repro; print('prefect' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["flows.schedule", "flows.retrain"])
@pytest.mark.parametrize(("name", "value"), [("RELEARN_RETRY_SECONDS", "abc"), ("RELEARN_WEBHOOK", "secret\x7f://")])
def test_a_wrong_variable_ends_in_one_line(module, name, value):
    command = [sys.executable, "-m", module]
    environment = os.environ | {name: value}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 3
    assert answer.stderr.startswith(f"relearn: {name}: wanted ")
    assert answer.stderr.count("\n") == 1
    assert "secret" not in answer.stderr
