"""`relearn init`: the parameters that fit a folder or an archive of labeled images."""

import difflib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from relearn import paths
from relearn.commands.inventory import (
    ENOUGH_IMAGES,
    MOST_EXCLUDED,
    Source,
    describe_folds,
    describe_source,
    read_source,
    round_share,
)
from relearn.commands.pretrained import PRETRAINED, Pretrained, can_be_fetched
from relearn.dataset.sources import iterate_source
from relearn.errors import CommandFailed, SourceError
from relearn.params.networks import BUNDLED_WEIGHTS, NetworkParams
from relearn.params.pipeline import Params, read_params
from relearn.params.reading import parse_blocks
from relearn.params.yaml_file import change_values
from relearn.runtime.text import escape_lines
from relearn.storage.files import write_file

N_TIMED = 32  # images


class Choice(NamedTuple):
    """A network, why it was chosen, and whether its weights are on this machine."""

    network: str
    reason: str
    is_ready: bool


def choose_network(requested: str) -> Choice:
    """Return the network to begin with.

    ImageNet weights come first, those that are on this machine before those that can be fetched.

    Parameters
    ----------
    requested
        The name of one, or `auto`.
    """
    ready = [pretrained for pretrained in PRETRAINED if pretrained.path.is_file()]
    if requested != "auto":
        is_ready = requested in (*(pretrained.network for pretrained in ready), *_list_bundled())
        return Choice(requested, "as you asked", is_ready)
    if ready:
        return Choice(ready[0].network, f"its ImageNet weights are at {ready[0].path}", is_ready=True)
    first = PRETRAINED[0]
    if can_be_fetched(first):
        reason = f"its ImageNet weights, {first.megabytes} MB, are fetched when it runs first"
        return Choice(first.network, reason, is_ready=False)
    return Choice("mini_vgg", describe_fallback(first), is_ready=bool(_list_bundled()))


def _list_bundled() -> list[str]:
    return ["mini_vgg"] if Path(BUNDLED_WEIGHTS).is_file() else []


def describe_fallback(first: Pretrained) -> str:
    """Return why photos get the bundled network, and what to do for a better one."""
    return (
        "it is bundled, and no ImageNet weights are on this machine or can be fetched. It sees "
        f"32 x 32 px of a photo, so expect a first result only. For a good one put {first.address} into "
        f"{first.path.parent}, and run this again"
    )


def plan_changes(source: Source, network: str, current: Params) -> dict[str, Any]:
    """Return the keys of `params.yaml` that get another value."""
    wanted: dict[str, Any] = {}
    for key, value in source.params.model_dump().items():
        if key in ("splits", "csv_columns"):
            wanted |= {f"restructure.{key}.{name}": inner for name, inner in value.items()}
        else:
            wanted[f"restructure.{key}"] = value
    wanted["validate.excluded_share.max"] = max(MOST_EXCLUDED, round_share(source.excluded_share))
    wanted["validate.lost_classes.severity"] = "warn" if any(source.lost.values()) else "error"
    wanted["validate.min_images.min"] = max(1, min(ENOUGH_IMAGES, source.smallest))
    if source.needs_folds(current):
        wanted["evaluate.by"] = "folds"
    elif source.params.source != current.restructure.source:
        wanted["evaluate.by"] = "split"
    if network != current.extract.network:
        wanted |= {"extract.network": network, "extract.weights_sha256": None}
        wanted |= dict.fromkeys(
            ("extract.weights", "extract.layer", "extract.pooling", "extract.image_size_px"), "auto"
        )
    return wanted


def measure_network(params: NetworkParams, source: Source) -> list[str]:
    """Run a handful of images through the network; return how long all of them take, and how much disk."""
    from relearn.networks.extractor import Extractor

    extractor = Extractor(params)
    usable = {image.path for image in source.images}
    files = (file for file in iterate_source(Path(source.params.source)) if file.path in usable)
    prepared = [extractor.read_image(file.read()) for file in islice(files, N_TIMED)]
    extractor.compute_features(prepared[:1])  # the first batch takes longer
    start = time.perf_counter()
    list(extractor.compute_batches(prepared))
    seconds = (time.perf_counter() - start) / len(prepared) * len(usable)
    features = len(usable) * extractor.n_features * extractor.dtype.itemsize
    photos = sum(image.seen.bytes for image in source.images)
    return [
        f"The features of all images take about {max(1, seconds):.0f} s on this machine, and "
        f"{2 * features / 1e6:,.0f} MB; two copies of the images (data/dataset and DVC's cache) take "
        f"{2 * photos / 1e6:,.0f} MB."
    ]


def describe_diff(before: str, after: str) -> list[str]:
    """Return the lines of `params.yaml` that change."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


def write_params(content: str) -> None:
    """Write `params.yaml`, whole or not at all, with the rights that it had."""
    mode = paths.PARAMS.stat().st_mode
    with write_file(paths.PARAMS) as file:
        file.write(content.encode())
    paths.PARAMS.chmod(mode)


def run_init(source: str, network: str, ask: Callable[[str], bool], *, is_added: bool) -> None:
    """Look at a source, show which parameters fit it, and write them to `params.yaml` if the person agrees.

    Nothing else is changed or copied, but for `.relearn/`, where `restructure` finds what was read.

    Parameters
    ----------
    network
        One by name, or `auto`; see `choose_network`.
    ask
        Returns the answer to a question.
    is_added
        Let DVC track the source.

    Raises
    ------
    SourceError
        It cannot be read, or holds no image.
    ParamsError
        `params.yaml` cannot be read.
    CommandFailed
        DVC cannot track it.
    """
    if Path(source).resolve().is_relative_to(Path.cwd()):
        source = Path(source).resolve().relative_to(Path.cwd()).as_posix()
    current = read_params(paths.PARAMS)
    found = read_source(source, current.restructure)
    show(*describe_source(found), *describe_folds(found, current))
    if not found.images:
        advice = "see the reasons above; docs/own-images.md has the layouts: a folder per class, or a table path,label"
        raise SourceError(where=source, wanted="images that can be used", got="none", advice=advice)
    choice = choose_network(network)
    show(f"network {choice.network}: {choice.reason}.")
    before = paths.PARAMS.read_text()
    after = change_values(before, plan_changes(found, choice.network, current))
    params = parse_blocks(after.encode(), str(paths.PARAMS), Params)
    if choice.is_ready:
        show(*measure_network(params.extract, found))
    if before == after:
        show(f"{paths.PARAMS} fits it as it is.")
    else:
        show(f"{paths.PARAMS}:", *(f"  {line}" for line in describe_diff(before, after)))
        if not ask(f"Change {paths.PARAMS}?"):
            show("Nothing was written.")
            return
        write_params(after)
    if is_added:
        track_source(source)
    keep = f"`dvc add {shlex.quote(source)}` keeps the images by their hash."
    if Path(source).is_absolute():
        keep = "Below data/raw/ DVC could keep the images by their hash."
    show("Next: `make repro`." if is_added else f"Next: `make repro`. {keep}")


def show(*lines: str) -> None:
    """Print lines, in which names of files cannot control the terminal."""
    print(escape_lines("\n".join(lines)))


def track_source(source: str) -> None:
    """Let DVC track a source; raise `CommandFailed` if it cannot."""
    command = [sys.executable, "-m", "dvc", "add", source]
    answer = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[0]
        raise CommandFailed(reason, where=f"dvc add {source}", advice="params.yaml is written; run it again by itself")
