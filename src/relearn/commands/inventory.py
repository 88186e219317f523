"""What a source of images holds, and what that means, in lines for a person: the first half of `relearn init`."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from relearn import paths
from relearn.dataset.assignments import read_assignments
from relearn.dataset.corrections import apply_corrections, read_corrections
from relearn.dataset.inspections import Inspection, Inspections
from relearn.dataset.layouts import SPLIT_NAMES
from relearn.dataset.manifest import SPLITS, Exclusion, describe_lost_classes
from relearn.dataset.near_groups import group_images
from relearn.dataset.placing import Spool
from relearn.dataset.reading import SourceReader
from relearn.dataset.recognition import Recognized, recognize_source
from relearn.dataset.source_files import count_files, list_some
from relearn.dataset.sources import iterate_source, read_source_file
from relearn.dataset.splitting import SourceImage, split_images
from relearn.errors import SourceError
from relearn.evaluation.intervals import compute_recall_margin
from relearn.params.data import RestructureParams
from relearn.params.pipeline import Params
from relearn.runtime.text import count_nouns

N_CLASSES_SHOWN = 20
MOST_EXCLUDED = 0.05  # of the files that could be images, by the gate's own rule
ENOUGH_IMAGES = 20  # of a class in a split, as in the committed params.yaml
FEW_TO_LEARN = 5  # of a class
FEW_TO_EVALUATE = 10  # of a class: with fewer its recall may be off by 30 points


class Source(NamedTuple):
    """What a source holds, read by the parameters that fit it.

    counts : the number of images of each split and class that restructure would keep
    lost : the number of files of each class that has files or a folder, but no image that can be used
    names_splits : whether the source says which image is in which split
    """

    params: RestructureParams
    images: list[SourceImage]
    excluded: list[Exclusion]
    counts: Counter[tuple[str, str]]
    lost: dict[str, int]
    names_splits: bool

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

    @property
    def least_evaluated(self) -> str:
        """The class with the fewest images for evaluation."""
        return min(self.classes, key=lambda label: self.counts[SPLITS[-1], label])

    def needs_folds(self, current: Params) -> bool:
        """Return whether `evaluate.by: folds` is proposed: a class has few images for evaluation, and folds can be cut.

        A person who named the splits has chosen what judges the classifier, and a network that is tuned has seen all
        images.
        """
        if self.names_splits or current.finetune.epochs:
            return False
        units = Counter(label for label, _ in {(image.label, image.group or image.path) for image in self.images})
        has_few = self.counts[SPLITS[-1], self.least_evaluated] < FEW_TO_EVALUATE
        return has_few and min(units[label] for label in self.classes) >= current.train.n_folds


def read_source(source: str, current: RestructureParams) -> Source:
    """Look at every file of a source by the layout that is recognized.

    Raises
    ------
    SourceError
        It cannot be read, or holds no image; or the corrections cannot be read or applied.
    """
    place = Path(source)
    files = [file.path for file in iterate_source(place)]
    found = recognize_source(files, lambda path: read_source_file(place, path))
    if found is None:
        advice = "name the folder or the archive that holds the images"
        raise SourceError(where=place, wanted="images", got=f"none in {count_files(len(files))}", advice=advice)
    params = fit_layout(source, found, current)
    known = read_assignments(paths.SPLITS)
    corrections = read_corrections(Path(params.corrections))
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
        names_splits = any(image.split for image in images)
        corrected = apply_corrections(images, corrections, Path(params.corrections))
        kept, left_out, *_ = split_images(corrected.kept, params, known)
        excluded += corrected.excluded + left_out
        counts = Counter((str(image.split), image.label) for image in kept)
        lost, _ = reader.find_lost_classes({image.label for image in kept} | corrected.changed_classes)
        return Source(params, kept, excluded, counts, lost, names_splits)


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
        f"{params.source}: {count_nouns(len(images), 'image')} of {len(source.classes)} "
        f"class{'es' if len(source.classes) > 1 else ''}, layout {params.layout}{where}",
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
    lines += _describe_excluded(source.excluded)
    return [*lines, *_describe_classes(source), *_describe_allowed(source), *_describe_smallest(source)]


def _show_size(seen: Inspection) -> str:
    return f"{seen.width_px} x {seen.height_px}"


def _describe_excluded(excluded: Sequence[Exclusion]) -> list[str]:
    kinds = Counter(exclusion.kind for exclusion in excluded)
    examples = {exclusion.kind: exclusion for exclusion in sorted(excluded, reverse=True)}
    return [
        f"  not used: {count_files(count)}, such as {examples[kind].path} ({examples[kind].reason})"
        for kind, count in kinds.most_common()
    ]


def _describe_classes(source: Source) -> list[str]:
    """Return what is odd about the classes: only one, tiny ones, or some that are called like splits."""
    if len(source.classes) == 1:
        return ["  one class alone: nothing can be learned until there are images of another one"]
    sizes = Counter(image.label for image in source.images)
    tiny = [label for label in source.classes if sizes[label] < FEW_TO_LEARN]
    splits = [label for label in source.classes if label.lower() in SPLIT_NAMES]
    others = [label for label in source.classes if label not in splits]
    lines = []
    if tiny:
        lines.append(
            f"  {list_some(tiny)}: fewer than {FEW_TO_LEARN} images, too few to learn from or to judge by; add images, "
            "or move the class out of the source"
        )
    if splits:
        lines.append(
            f"  {list_some(splits)}: names of splits, but taken for classes, because {list_some(others)} is beside "
            "them; if they are splits, move the others out of the source"
        )
    return lines


def _describe_allowed(source: Source) -> list[str]:
    """Return which checks are made to let pass what cannot be used."""
    lines = []
    if source.excluded_share > MOST_EXCLUDED:
        lines.append(
            f"  {source.excluded_share:.1%} of the files cannot be used, so validate.excluded_share.max becomes "
            f"{round_share(source.excluded_share)}: look at them first"
        )
    if any(source.lost.values()):
        lines.append("  all files of a class cannot be used, so validate.lost_classes becomes a warning")
    return lines


def round_share(share: float) -> float:
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
    n_evaluated = source.counts[SPLITS[-1], label]
    return [
        f"  {label} has {count_nouns(n_images, 'image')} in {split}, so validate.min_images.min becomes {n_images}; by "
        f"{n_evaluated} for evaluation its recall is known to within {compute_recall_margin(n_evaluated):.0f} points"
    ]


def describe_folds(source: Source, current: Params) -> list[str]:
    """Return why the classifier is evaluated in folds, if that is proposed."""
    if not source.images or not source.needs_folds(current):
        return []
    n_by_split = [source.counts[split, source.least_evaluated] for split in SPLITS]
    return [
        f"  {source.least_evaluated} has {count_nouns(n_by_split[-1], 'image')} in {SPLITS[-1]}, so evaluate.by "
        f"becomes folds: all {sum(n_by_split)} are judged, each by a head that was not fitted on it"
    ]
