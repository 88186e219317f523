"""The classic recipe as a DVC experiment: VGG16 with ImageNet weights on Food-5K. `make food5k` runs it.

    python data/food5k.py [SOURCE [ARGUMENT OF dvc exp run]...]

SOURCE is the address or the path of Food-5K.zip, or the folder that was in it. It is copied to data/raw/. The
experiment runs in a folder of its own, so that the workspace and its params.yaml stay as they are; a later
`-S extract.network=...` among the arguments takes precedence over what is set here.
"""

import subprocess
import sys
from pathlib import Path

from relearn.errors import RelearnError, SourceError
from relearn.sources import iterate_source

# A copy that can be fetched without a password; its owners' page is in the README.
ADDRESS = "https://archive.org/download/food-5-k/Food-5K.zip"
NAME = "food5k-vgg16"
DVC = (sys.executable, "-m", "dvc")
SPLITS = {"training", "validation", "evaluation"}


def fetch_source(address: str, folder: Path) -> Path:
    """Copy a file or folder below `folder`, unless it is there, and return where it is.

    Raises
    ------
    SourceError
        It cannot be had, or is not Food-5K.
    """
    target = folder / ("Food-5K.zip" if address.endswith(".zip") else "Food-5K")
    if target.exists():
        print(f"{target} is there; remove it to fetch it again")
        return target
    print(f"fetching {address}", flush=True)
    partial = target.with_name(f".partial-{target.name}")
    command = [*DVC, "get-url", "--force", address, str(partial)]
    answer = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise SourceError(f"{address}: cannot be fetched: {reason}; name the file or folder: make food5k FOOD5K=PATH")
    find_subfolder(partial, address)
    partial.replace(target)
    return target


def find_subfolder(source: Path, name: str) -> str | None:
    """Return the folder of a source in which the folders of the splits are; None if at its top. Errors call it `name`.

    Raises
    ------
    SourceError
        There are none.
    """
    found = set()
    for file in iterate_source(source):
        *above, split, _ = ["", *file.path.split("/")]
        if split in SPLITS and not any(part.startswith((".", "__")) for part in file.path.split("/")):
            found.add("/".join(above[1:]))
    if not found:
        raise SourceError(f"{name}: wanted training/, validation/ and evaluation/ with 0_N.jpg and 1_N.jpg, got none")
    return min(found, key=len) or None


def run_experiment(source: Path, arguments: list[str]) -> int:
    """Run the pipeline on Food-5K and return DVC's exit code."""
    values = {
        "restructure.source": source.as_posix(),
        "restructure.subfolder": find_subfolder(source, str(source)) or "null",
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
    """Fetch Food-5K, run the experiment, and say how to look at it."""
    address, *arguments = sys.argv[1:] or [ADDRESS]
    names = subprocess.run([*DVC, "exp", "list", "--name-only"], capture_output=True, text=True, check=True).stdout
    if "-n" not in arguments and NAME in names.split():
        raise RelearnError(
            f"the experiment {NAME} exists; `dvc exp remove {NAME}` first, or name this one: ARGS='-n ...'"
        )
    sys.exit(run_experiment(fetch_source(address or ADDRESS, Path("data/raw")), arguments))


if __name__ == "__main__":
    try:
        main()
    except RelearnError as error:
        sys.exit(f"food5k: {error}")
