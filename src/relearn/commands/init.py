"""`relearn init`: the parameters that fit a folder or an archive of labeled images."""

import difflib
import math
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from relearn import paths
from relearn.commands.pretrained import PRETRAINED, Pretrained, can_be_fetched
from relearn.dataset.assignments import read_assignments
from relearn.dataset.inspections import Inspections
from relearn.dataset.manifest import SPLITS, Exclusion, describe_lost_classes
from relearn.dataset.near_groups import group_images
from relearn.dataset.placing import Spool
from relearn.dataset.reading import SourceReader
from relearn.dataset.recognition import Recognized, recognize_source
from relearn.dataset.source_files import count_files
from relearn.dataset.sources import iterate_source, read_source_file
from relearn.dataset.splitting import SourceImage, split_images
from relearn.errors import CommandFailed, SourceError
from relearn.evaluation.intervals import compute_recall_margin
from relearn.params.data import RestructureParams
from relearn.params.networks import BUNDLED_WEIGHTS, NetworkParams
from relearn.params.pipeline import Params, read_params
from relearn.params.reading import parse_blocks
from relearn.params.yaml_file import change_values
from relearn.runtime.text import escape_lines
from relearn.storage.files import write_file

N_CLASSES_SHOWN = 20
N_TIMED = 32  # images
MOST_EXCLUDED = 0.05  # of the files that could be images, by the gate's own rule
ENOUGH_IMAGES = 20  # of a class in a split, as in the committed params.yaml


class Source(NamedTuple):
    """What a source holds, read by the parameters that fit it.

    counts : the number of images of each split and class that restructure would keep
    lost : the number of files of each class that has files or a folder, but no image that can be used
    """

    params: RestructureParams
    images: list[SourceImage]
    excluded: list[Exclusion]
    counts: Counter[tuple[str, str]]
    lost: dict[str, int]

    @property
    def classes(self) -> list[str]:
        """The classes of the images, in order."""
        return sorted({label for _, label in self.counts})

    @property
    def excluded_share(self) -> float:
        """The share of the files that were meant to be images and cannot be used."""
        n_lost = sum(exclusion.is_lost for exclusion in self.excluded)
        return n_lost / max(1, n_lost + len(self.images))

    @property
    def smallest(self) -> int:
        """The number of images of the smallest class in its smallest split."""
        return min(self.counts[split, label] for split in SPLITS for label in self.classes)


def read_source(source: str, current: RestructureParams) -> Source:
    """Look at every file of a source by the layout that is recognized.

    Raises
    ------
    SourceError
        It cannot be read, or holds no image.
    """
    place = Path(source)
    files = [file.path for file in iterate_source(place)]
    found = recognize_source(files, lambda path: read_source_file(place, path))
    if found is None:
        advice = "name the folder or the archive that holds the images"
        raise SourceError(where=place, wanted="images", got=f"none in {count_files(len(files))}", advice=advice)
    params = fit_layout(source, found, current)
    known = read_assignments(paths.SPLITS)
    with ExitStack() as stack:
        inspections = stack.enter_context(Inspections(paths.find_inspections(), params.max_megapixels * 1_000_000))
        spool = None
        if not place.is_dir():  # near duplicates are looked at again, in what was unpacked
            paths.MANIFEST.parent.mkdir(exist_ok=True)
            folder = stack.enter_context(TemporaryDirectory(prefix=".init-", dir=paths.MANIFEST.parent))
            spool = Spool(Path(folder) / "spool")
        reader = SourceReader(params, inspections, spool)
        images, excluded = reader.inspect_files()
        found_at = {image.seen.sha256: place / image.path for image in images}
        read_content = spool.read_content if spool else lambda sha256: found_at[sha256].read_bytes()
        images = group_images(images, params, known, read_content)
        kept, left_out, *_ = split_images(images, params, known)
        counts = Counter((str(image.split), image.label) for image in kept)
        lost, _ = reader.find_lost_classes({image.label for image in kept})
        return Source(params, kept, excluded + left_out, counts, lost)


def fit_layout(source: str, found: Recognized, current: RestructureParams) -> RestructureParams:
    """Return the block `restructure` for a layout; labels that a person has named for this source stay.

    Another source than before is cut in the same shares of every class, and grouped by near duplicates.
    """
    labels = found.labels or {}
    if current.source == source and (not labels or labels.keys() == current.labels.keys()):
        labels = current.labels
    values = current.model_dump() | {
        "source": source,
        "subfolder": found.subfolder,
        "layout": found.layout,
        "labels": labels,
        "labels_csv": found.labels_csv,
    }
    if current.source != source:
        values |= {"stratify": True, "group_by": "near_duplicates"}
    elif current.group_by == "column" and found.layout != "csv":
        values["group_by"] = "none"
    if found.splits:
        values["splits"] = found.splits
    if found.csv_columns:
        values["csv_columns"] = found.csv_columns
    return RestructureParams.model_validate(values)


def describe_source(source: Source) -> list[str]:
    """Return what was found, in lines for a person."""
    params, images = source.params, source.images
    if not images:
        return [f"{params.source}: no image that can be used", *_describe_excluded(source.excluded)]
    where = f", in {params.subfolder}" if params.subfolder else ""
    sizes = sorted((image.seen.width_px * image.seen.height_px, image.seen) for image in images)
    formats = Counter(image.seen.format for image in images).most_common()
    middle = median(min(image.seen.width_px, image.seen.height_px) for image in images)
    lines = [
        f"{params.source}: {len(images):,} images of {len(source.classes)} classes, layout {params.layout}{where}",
        f"  {', '.join(f'{count:,} {name}' for name, count in formats)}; "
        f"{_show_size(sizes[0][1])} to {_show_size(sizes[-1][1])} px, median of the shorter side {middle:.0f} px",
    ]
    width = max(5, *(len(label) for label in source.classes))
    lines.append(f"  {'class':{width}}" + "".join(f"{split:>12}" for split in SPLITS))
    for label in source.classes[:N_CLASSES_SHOWN]:
        lines.append(f"  {label:{width}}" + "".join(f"{source.counts[split, label]:12,}" for split in SPLITS))
    if len(source.classes) > N_CLASSES_SHOWN:
        lines.append(f"  and {len(source.classes) - N_CLASSES_SHOWN} more classes")
    lines += [f"  no image that can be used: {name}" for name in describe_lost_classes(source.lost)]
    return [*lines, *_describe_excluded(source.excluded), *_describe_allowed(source), *_describe_smallest(source)]


def _show_size(seen: Any) -> str:
    return f"{seen.width_px} x {seen.height_px}"


def _describe_excluded(excluded: Sequence[Exclusion]) -> list[str]:
    kinds = Counter(exclusion.kind for exclusion in excluded)
    examples = {exclusion.kind: exclusion for exclusion in sorted(excluded, reverse=True)}
    return [
        f"  not used: {count_files(count)}, such as {examples[kind].path} ({examples[kind].reason})"
        for kind, count in kinds.most_common()
    ]


def _describe_allowed(source: Source) -> list[str]:
    """Return which checks are made to let pass what cannot be used."""
    lines = []
    if source.excluded_share > MOST_EXCLUDED:
        lines.append(
            f"  {source.excluded_share:.1%} of the files cannot be used, so validate.excluded_share.max becomes "
            f"{_round_share(source.excluded_share)}: look at them first"
        )
    if any(source.lost.values()):
        lines.append("  all files of a class cannot be used, so validate.lost_classes becomes a warning")
    return lines


def _round_share(share: float) -> float:
    """Round up to whole percents."""
    return math.ceil(share * 100) / 100


def _describe_smallest(source: Source) -> list[str]:
    """Return what the size of the smallest class means, if it is small."""
    n_images = source.smallest
    if n_images >= ENOUGH_IMAGES:
        return []
    split, label = min(((s, c) for s in SPLITS for c in source.classes), key=lambda key: source.counts[key])
    if n_images == 0:
        return [f"  {label} has no image in {split}, so the data will not pass the gate: add images of {label}"]
    return [
        f"  {label} has {n_images} images in {split}, so validate.min_images.min becomes {n_images}; with as many for "
        f"evaluation its recall is known to within {compute_recall_margin(n_images):.0f} points"
    ]


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
    wanted["validate.excluded_share.max"] = max(MOST_EXCLUDED, _round_share(source.excluded_share))
    wanted["validate.lost_classes.severity"] = "warn" if any(source.lost.values()) else "error"
    wanted["validate.min_images.min"] = max(1, min(ENOUGH_IMAGES, source.smallest))
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
    show(*describe_source(found))
    if not found.images:
        raise SourceError(where=source, wanted="images that can be used", got="none", advice="see the reasons above")
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
