"""Retraining as it happens: a story on Food-5K, many starts at once, kills at random moments, the time of each task.

Usage: python benchmarks/retraining.py story FOOD5K WEIGHTS
       python benchmarks/retraining.py herd [N]
       python benchmarks/retraining.py kills [N [late]]
       python benchmarks/retraining.py tasks [N_IMAGES]

Each works in a clone of this repository in a temporary folder, with `python -m flows.retrain` as a person would, and,
but for the story, on the digits of the sample.

story   FOOD5K is the folder with training/, validation/ and evaluation/, WEIGHTS ImageNet's MobileNetV2 without its
        top. A third of the photos is trained on, a third more lands, the last third lands with 30 % of its labels
        flipped, then copies of evaluation images land as new ones, and the last version is taken back.
herd    N (20) retrainings are started at once: how does each end?
kills   A retraining in which images have landed is killed by kill -9 at N (30) moments, spread over its time at random,
        and run again each time: is all as it is without a kill?
tasks   1 % new images of N_IMAGES (1,797): what does each task take?
"""

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from PIL import Image
from ruamel.yaml import YAML

from relearn.storage.files import hash_bytes, hash_file

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("data/raw/photos")
LATE_SECONDS = 3
SMALL = {"validate.min_images.min": 2, "retrain.min_images": 50, "retrain.margin": 0.05}


def list_environment(clone, server=None):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone / "src"),
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return environment | ({"PREFECT_API_URL": server} if server else {})


def run(clone, *command):
    answer = subprocess.run(
        command, cwd=clone, env=list_environment(clone), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)}: {answer.stdout}{answer.stderr}")
    return answer.stdout


def commit(clone, message):
    run(clone, "git", "add", "--all")
    run(clone, "git", "-c", "user.name=p", "-c", "user.email=p@example.org", "commit", "--quiet", "-m", message)


def make_clone(folder, images, changes):
    """Clone this repository, put images under data/raw/photos/CLASS/, track them by DVC, and set parameters."""
    clone = folder / "repository"
    run(folder, "git", "clone", "--quiet", str(ROOT), str(clone))
    run(clone, "git", "checkout", "--quiet", "-B", "main")
    land(clone, images, SOURCE)
    changes = {
        "restructure.source": str(SOURCE),
        "restructure.layout": "class_folders",
        "retrain.landing": "data/landing",
        "retrain.settle_seconds": 0,
        **changes,
    }
    path = clone / "params.yaml"
    params = YAML().load(path.read_text())
    for key, value in changes.items():
        *blocks, name = key.split(".")
        block = params
        for part in blocks:
            block = block[part]
        block[name] = value
    with path.open("w") as file:
        YAML().dump(params, file)
    (clone / "data" / "landing").mkdir()
    run(clone, sys.executable, "-m", "dvc", "add", "--quiet", str(SOURCE))
    commit(clone, "Photos under retraining")
    return clone


def land(clone, images, where=Path("data/landing")):
    """Write images, (name, label, bytes) each, into the landing folder."""
    (clone / where).mkdir(parents=True, exist_ok=True)
    for name, label, content in images:
        (clone / where / label).mkdir(exist_ok=True)
        (clone / where / label / name).write_bytes(content)


def read_digits():
    with zipfile.ZipFile(ROOT / "data" / "raw" / "digits.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        images = [(Path(name).name, Path(name).parent.name, archive.read(name)) for name in names]
    random.Random(0).shuffle(images)
    return images


def start(clone, log, server=None):
    return subprocess.Popen(
        [sys.executable, "-m", "flows.retrain"],
        cwd=clone,
        env=list_environment(clone, server),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def retrain(clone, server=None):
    """Run a retraining to its end; return the name of its state, its message, the seconds, and its log."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        start(clone, log, server).wait()
        seconds = time.monotonic() - begin
        log.seek(0)
        text = log.read()
    ended = re.findall(r"^(Skipped|Promoted|NotPromoted|Blocked|Failed): (.*(?:\n(?!\d\d:).*)*)", text, re.MULTILINE)
    if not ended:
        raise SystemExit(text)
    return *ended[-1], seconds, text


@contextmanager
def run_server(folder):
    """Run a Prefect server, and give the address of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def tell(folder, food5k, weights):
    """Tell the story."""
    labels = {"0": "non_food", "1": "food"}
    photos = {}
    for path in sorted(food5k.glob("*/*.jpg")):
        content = path.read_bytes()
        photos.setdefault(hash_bytes(content), (f"{path.parent.name}-{path.name}", labels[path.name[0]], content))
    images = list(photos.values())
    random.Random(0).shuffle(images)
    third = len(images) // 3
    print(f"{len(images):,} different photos, three times {third}\n")
    clone = make_clone(
        folder,
        images[:third],
        {
            "restructure.fractions.evaluation": 0.4,
            "validate.near_duplicates_across_splits.severity": "error",
            "validate.near_duplicates_across_splits.max_distance": 24,
            "extract.network": "mobilenet_v2",
            "extract.weights": str(weights.resolve()),
            "extract.weights_sha256": hash_file(weights),
            "extract.layer": None,
            "extract.pooling": "avg",
            "extract.image_size_px": 224,
            "extract.precision": "auto",
            "retrain.margin": 0.03,
        },
    )

    def show(what, *command):
        print(f"## {what}" if what else "")
        for line in command:
            print(f"$ {' '.join(line)}")
            print(run(clone, *line).rstrip())

    def step(what):
        name, message, seconds, log = retrain(clone)
        print(f"## {what}\n$ make retrain        # {seconds:.0f} s\n{name}: {message}\n", flush=True)
        return name, log

    step("A third of the photos, no production model yet")
    land(clone, images[third : 2 * third])
    step(f"{third} photos land")
    step("Nothing lands")
    rng = random.Random(1)
    swap = {"food": "non_food", "non_food": "food"}
    last = [(n, swap[label] if rng.random() < 0.3 else label, c) for n, label, c in images[2 * third : 3 * third]]
    land(clone, last)
    step(f"{third} photos land, 30 % of their labels flipped")
    print("(a person looks, and takes them out of the landing folder)\n")
    shutil.rmtree(clone / "data" / "landing")
    (clone / "data" / "landing").mkdir()
    used = clone / "release" / "current" / "images.csv"
    evaluation = {line.split(",")[0] for line in used.read_text().splitlines() if line.endswith(",evaluation")}
    copies = []
    for name, label, content in [photos[sha256] for sha256 in sorted(evaluation)][:6]:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(buffer, "JPEG", quality=60)
        copies.append((f"new-{name}", label, buffer.getvalue()))
    land(clone, copies)
    step("Six photos land that are those of the evaluation split, saved again in another quality")
    show("Back to the version before", ["relearn", "rollback"], ["git", "log", "--oneline", "-6", "retrain/main"])
    show("", ["relearn", "lineage", "release/current"])
    show("", ["dvc", "metrics", "diff", "classifier@v1.0.0", "classifier@v2.0.0"])


def count_ends(folder, n):
    """Start many at once."""
    images = read_digits()
    clone = make_clone(folder, images[:600], SMALL)
    with run_server(folder) as server:
        print("first:", retrain(clone, server)[0])
        land(clone, images[600:1000])
        logs = [tempfile.TemporaryFile("w+") for _ in range(n)]  # noqa: SIM115
        started = [start(clone, log, server) for log in logs]
        for process in started:
            process.wait()
        ends = {}
        for log in logs:
            log.seek(0)
            text = log.read()
            name = re.findall(r"^(\w+): ", text, re.MULTILINE)[-1]
            reason = re.sub(r"pid \d+ on \S+, since \S+", "pid ... on ..., since ...", text.strip().splitlines()[-1])
            ends[name] = ends.get(name, 0) + 1
            if ends[name] == 1:
                print(f"  {reason}")
        print(dict(sorted(ends.items())))
    check(clone)


def find_strays(clone):
    """Return the processes that work in a clone."""
    strays = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(clone)) and process.status() != psutil.STATUS_ZOMBIE:
                strays.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return strays


def find_missing(clone, tag):
    """Return what a tag names and DVC's cache does not have, or has with other bytes."""
    lock = YAML(typ="safe").load(run(clone, "git", "show", f"{tag}:dvc.lock"))
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    outs += YAML(typ="safe").load(run(clone, "git", "show", f"{tag}:{SOURCE}.dvc"))["outs"]
    missing = []
    for out in outs:
        if out["path"].startswith(("metrics/", "reports/")):  # in git
            continue
        path = find_object(clone, out["md5"])
        names = [out["md5"]]
        if out["md5"].endswith(".dir") and path.exists():
            names += [entry["md5"] for entry in json.loads(path.read_text())]
        missing += [name for name in names if not is_whole(find_object(clone, name), name)]
    return missing


def find_object(clone, md5):
    return clone / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def is_whole(path, md5):
    return path.exists() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5.split(".")[0]


def check(clone):
    """Exit unless nothing is left behind, and branch, tag, release and DVC agree."""
    record = run(clone, "git", "log", "-1", "--format=%(trailers:key=In-use,valueonly)", "retrain/main").strip()
    found = {
        "processes": find_strays(clone),
        "worktrees": run(clone, "git", "worktree", "list").splitlines()[1:],
        "of worktrees": [path.name for path in (clone / ".git").glob("worktrees/*")],
        "locks of git": [str(path) for path in (clone / ".git").rglob("*.lock")],
        "changed": run(clone, "git", "status", "--porcelain").splitlines(),
        "halves": [str(path) for path in (clone / "release").rglob("*.partial")],
        "git": run(clone, "git", "fsck", "--no-dangling", "--no-progress").splitlines(),
        "objects of DVC": find_missing(clone, f"classifier@{record}.0.0"),
        "release": [] if os.readlink(clone / "release" / "current") == f"versions/{record}" else [record],
    }
    if any(found.values()):
        raise SystemExit(json.dumps(found, indent=2))


def kill(folder, n, is_late):
    """Kill at random moments."""
    images = read_digits()
    clone = make_clone(folder, images[:600], SMALL)
    with run_server(folder) as server:
        print("first:", retrain(clone, server)[0])
        before = folder / "before"
        shutil.copytree(clone, before, symlinks=True)
        land(clone, images[600:1000])
        name, _, seconds, _ = retrain(clone, server)
        wanted = read_result(clone)
        print(f"undisturbed: {name} in {seconds:.0f} s")
        rng = random.Random(0)
        counts = {}
        n_killed = 0
        for number in range(n):
            shutil.rmtree(clone)
            shutil.copytree(before, clone, symlinks=True)
            land(clone, images[600:1000])
            moment = seconds * (number + rng.random()) / n
            with tempfile.TemporaryFile("w+") as log:
                process = start(clone, log, server)
                while is_late and process.poll() is None and "Task run 'show mistakes" not in read_log(log):
                    time.sleep(0.05)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, LATE_SECONDS) if is_late else moment)
                process.send_signal(signal.SIGKILL)
                n_killed += process.wait() == -signal.SIGKILL
                steps = re.findall(r"Task run '([a-z ]+?)(?:-\w{3})?' - Finished", read_log(log))
            name, _, _, text = retrain(clone, server)
            if name not in ("Promoted", "Skipped"):
                raise SystemExit(text)
            check(clone)
            if (result := read_result(clone)) != wanted:
                raise SystemExit(f"{moment:.1f} s: wanted {wanted}, got {result}\n{text}")
            counts[name] = counts.get(name, 0) + 1
            when = "late" if is_late else f"at {moment:4.1f} s"
            print(f"  killed {when}, after {steps[-1] if steps else 'nothing'}; then {name}", flush=True)
        print(f"{n_killed} killed; then {counts}")


def read_log(log):
    # By its own descriptor: that of the child has the same position.
    return os.pread(log.fileno(), 1 << 24, 0).decode()


def read_result(clone):
    """Return the result of a retraining: the production model, its data, what still waits."""
    current = clone / "release" / "current"
    return {
        "in use": os.readlink(current),
        "files": {path.name: hash_bytes(path.read_bytes()) for path in sorted(current.iterdir())},
        "tree": run(clone, "git", "rev-parse", "classifier@v2.0.0^{tree}").strip(),
        "tags": run(clone, "git", "tag").split(),
        "waiting": sorted(str(path.relative_to(clone)) for path in (clone / "data" / "landing").rglob("*.png")),
    }


def time_tasks(folder, n_images):
    """Time the tasks."""
    images = read_digits()
    while len(images) < n_images:
        images += [(f"{len(images)}-{n}", label, vary(content, len(images))) for n, label, content in images[:1797]]
    images = images[:n_images]
    n_new = max(1, n_images // 100)
    clone = make_clone(folder, images[n_new:], {"validate.near_duplicates_across_splits.severity": "off"})
    with run_server(folder) as server:
        for what in (f"{n_images - n_new:,} images, the first time", f"{n_new} new images", "nothing new"):
            name, _, seconds, log = retrain(clone, server)
            print(f"{what}: {name}, {seconds:.1f} s")
            (flow,) = httpx.post(f"{server}/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()
            body = {"flow_runs": {"id": {"any_": [flow["id"]]}}}
            tasks = httpx.post(f"{server}/task_runs/filter", json=body).json()
            for task in sorted(tasks, key=lambda task: task["start_time"]):
                print(f"  {re.sub(r'-[0-9a-f]{3}$', '', task['name']):16} {task['total_run_time']:6.1f} s")
            print(f"  {'all tasks':16} {sum(task['total_run_time'] for task in tasks):6.1f} s")
            print("  " + "; ".join(re.findall(r"\d[\d,]* different images, .* new to the store", log)), flush=True)
            if "first" in what:
                land(clone, images[:n_new])


def vary(content, seed):
    image = Image.open(io.BytesIO(content)).convert("L")
    image.putpixel((seed % image.width, seed // image.width % image.height), seed % 256)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main():
    what, *arguments = sys.argv[1:] or ["--help"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match what:
            case "story" if len(arguments) == 2:
                tell(folder, *map(Path, arguments))
            case "herd":
                count_ends(folder, int(*arguments or ["20"]))
            case "kills":
                kill(folder, int([*arguments, "30"][0]), "late" in arguments)
            case "tasks":
                time_tasks(folder, int(*arguments or ["1797"]))
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
