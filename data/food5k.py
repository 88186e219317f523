"""The classic recipe as a DVC experiment: VGG16 with ImageNet weights on Food-5K. `make food5k` runs it.

    python data/food5k.py [SOURCE [ARGUMENT OF dvc exp run]...]

SOURCE is the address or the path of Food-5K.zip, or the folder that was in it. It is copied to data/raw/. The
experiment runs in a folder of its own, so that the workspace and its params.yaml stay as they are. An argument such as
`-S extract.network=...` overrides what is set here.
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from relearn.dataset.sources import iterate_source
from relearn.errors import RelearnError, SourceError

log = logging.getLogger("food5k")

# A copy that can be fetched without a password; the README links the page of its owners.
ADDRESS = "https://archive.org/download/food-5-k/Food-5K.zip"
NAME = "food5k-vgg16"
DVC = (sys.executable, "-m", "dvc")
SPLITS = {"training", "validation", "evaluation"}


def fetch_source(address: str, folder: Path) -> Path:
    """Copy a file or folder below `folder`, unless that was done before, and return its path.

    Raises
    ------
    SourceError
        It cannot be fetched, is not Food-5K, or another one is there.
    """
    target = folder / ("Food-5K.zip" if address.endswith(".zip") else "Food-5K")
    origin = folder / f".{target.name}.from"
    if target.exists():
        if address not in (str(target), origin.read_text() if origin.exists() else None):
            advice = f"remove it and {address} is fetched, or name it: FOOD5K={target}"
            raise SourceError(f"{target} is there already", advice=advice)
        log.info("%s is there", target)
        return target
    log.info("fetching %s", address)
    partial = target.with_name(f".partial-{target.name}")
    try:
        remove(partial)  # left by a killed run: DVC would fetch into it
        command = [*DVC, "get-url", address, str(partial)]
        answer = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if answer.returncode:
            problem = f"cannot be fetched: {find_reason(answer.stderr)}"
            advice = "name the file or folder: make food5k FOOD5K=PATH"
            raise SourceError(problem, where=address, advice=advice)
        try:
            find_subfolder(partial)
        except SourceError as error:
            raise SourceError(str(error).replace(str(partial), address)) from None
        origin.write_text(address)
        partial.replace(target)
    finally:
        remove(partial)
    return target


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_reason(stderr: str) -> str:
    """Return the first line of DVC's error output."""
    return (stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")


def find_subfolder(source: Path) -> str | None:
    """Return the folder of a source that holds the folders of all splits; None if they are at its top.

    Raises
    ------
    SourceError
        The source has no such folder.
    """
    found: dict[str, set[str]] = {}
    for file in iterate_source(source):
        split = PurePosixPath(file.path).parent
        if split.name in SPLITS and split.parts[0] != "__MACOSX":
            found.setdefault(split.parent.as_posix(), set()).add(split.name)
    whole = [folder for folder, splits in found.items() if splits == SPLITS]
    if not whole:
        wanted = "training/, validation/ and evaluation/ with 0_N.jpg and 1_N.jpg"
        raise SourceError(where=source, wanted=wanted, got="none")
    return None if "." in whole else min(whole, key=len)


def run_experiment(source: Path, arguments: list[str]) -> int:
    """Run the pipeline on Food-5K and return DVC's exit code."""
    values = {
        "restructure.source": source.as_posix(),
        "restructure.subfolder": find_subfolder(source) or "null",
        "restructure.layout": "food5k",
        "+restructure.labels": "{0: non_food, 1: food}",
        "extract.network": "vgg16",
        "extract.weights": "imagenet",
        "extract.weights_sha256": "null",
        "extract.layer": "null",
        "extract.pooling": "flatten",
        "extract.image_size_px": "224",
        "extract.precision": "auto",
    }
    options = [part for key, value in values.items() for part in ("-S", f"{key}={value}")]
    command = [*DVC, "exp", "run", "--temp", "--copy-paths", source.as_posix(), "-n", NAME, *options, *arguments]
    return subprocess.run(command, check=False).returncode


def main() -> None:
    """Fetch Food-5K, run the experiment, and exit with DVC's code."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    address, *arguments = sys.argv[1:] or [ADDRESS]
    listed = subprocess.run([*DVC, "exp", "list", "--name-only"], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise RelearnError(f"experiments of DVC cannot be listed: {find_reason(listed.stderr)}")
    named = any(argument.startswith(("-n", "--name")) for argument in arguments)
    if not named and NAME in listed.stdout.split():
        advice = f"`dvc exp remove {NAME}` first, or name this one: ARGS='-n ...'"
        raise RelearnError(f"the experiment {NAME} exists", advice=advice)
    sys.exit(run_experiment(fetch_source(address or ADDRESS, Path("data/raw")), arguments))


if __name__ == "__main__":
    try:
        main()
    except RelearnError as error:
        sys.exit(f"food5k: {error}")
