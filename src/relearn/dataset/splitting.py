"""Which images are in the dataset, and in which split."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from relearn import paths
from relearn.dataset.assignments import Assignment, shorten_hash
from relearn.dataset.inspections import Inspection
from relearn.dataset.manifest import COPY_KEPT, SPLITS, Exclusion
from relearn.dataset.source_files import N_NAMED
from relearn.dataset.stratification import count_shares, cut_class
from relearn.params.data import Fractions, RestructureParams

MAX_GAP = 0.05  # of what is cut: a larger difference from the fractions is reported


class SourceImage(NamedTuple):
    """An image of the source that can be decoded; `group` is a hash, or empty."""

    path: str
    split: str | None
    label: str
    seen: Inspection
    group: str = ""


class Cut(NamedTuple):
    """The images of the dataset, each with its split; the others; the rows of `data/splits.csv`; what to report."""

    kept: list[SourceImage]
    excluded: list[Exclusion]
    assignments: dict[str, Assignment]
    remarks: list[str]


class Content(NamedTuple):
    """Images of the same bytes. If they are in several groups, they belong to the first of these."""

    sha256: str
    label: str
    group: str

    @property
    def key(self) -> str:
        """The hash by which it is cut: that of its group, or its own."""
        return self.group or shorten_hash(self.sha256)


def choose_split(sha256: str, fractions: Fractions) -> str:
    """Return the split of an image or a group by its hash alone, without `restructure.stratify`.

    The hash, read as a number in [0, 1), falls into evaluation, validation or training. So an image keeps its split
    whatever is added or removed, and its copies share it.
    """
    position = int(sha256[:13], 16) / 16**13  # 52 bits: exact in a float
    if position < fractions.evaluation:
        return "evaluation"
    if position < fractions.evaluation + fractions.validation:
        return "validation"
    return "training"


def split_images(images: Iterable[SourceImage], params: RestructureParams, known: Mapping[str, Assignment]) -> Cut:
    """Return the images of the dataset, each with its split, and those that are excluded.

    1. Images of the same bytes under different labels are all excluded: one of the labels is wrong.
    2. If the source names no split, `Cutter` chooses one. If it names splits but no image is in validation, validation
       is cut from training in the same way.
    3. Images of the same bytes in several splits stay only in the last of training, validation, evaluation (unless
       `duplicates` is `keep`). Copies within one split stay.

    The result does not depend on the order of `images`.

    Parameters
    ----------
    known
        What was assigned before, as `read_assignments` returns it.
    """
    copies: defaultdict[str, list[SourceImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        copies[image.seen.sha256].append(image)
    excluded = _remove_ambiguous(copies)
    has_validation = any(image.split == "validation" for same in copies.values() for image in same)
    cutter = Cutter(params, known)
    unnamed, in_training = [], {}
    for sha256, same in copies.items():
        content = Content(sha256, same[0].label, min({image.group for image in same} - {""}, default=""))
        named = {image.split for image in same if image.split}
        last = max(named, key=SPLITS.index, default="")
        if not named:
            unnamed.append(content)
        elif not has_validation and "training" in (named if params.duplicates == "keep" else {last}):
            in_training[sha256] = content
        else:
            cutter.keep_split(content, last)
    cutter.cut(in_training.values(), params.fractions.model_copy(update={"evaluation": 0.0}), SPLITS[:2])
    cutter.cut(unnamed, params.fractions, SPLITS)
    kept: list[SourceImage] = []
    for sha256, same in copies.items():
        is_cut = {None, "training"} if sha256 in in_training else {None}
        chosen, group = cutter.splits[sha256], cutter.groups[sha256]
        placed = [image._replace(split=chosen if image.split in is_cut else image.split, group=group) for image in same]
        last_placed = max(placed, key=lambda image: SPLITS.index(str(image.split)))
        for image in placed:
            if image.split == last_placed.split or params.duplicates == "keep":
                kept.append(image)
            else:
                excluded.append(Exclusion(image.path, f"{COPY_KEPT}: {last_placed.path}, kept in {last_placed.split}"))
    return Cut(kept, excluded, cutter.assignments, cutter.describe_gaps())


class Cutter:
    """Chooses splits, and notes what `data/splits.csv` remembers of them.

    An image that was given a split keeps it, and so does an image that comes back. A new image of a group goes where
    the group is; if that is in several splits, to the last of them. What is left is cut class by class, a group as one
    image (as scikit-learn's `GroupShuffleSplit` counts) of the class that most of its images have, the first of these
    by name. Without `restructure.stratify` nothing is remembered, and the hash alone decides.
    """

    def __init__(self, params: RestructureParams, known: Mapping[str, Assignment]) -> None:
        self._is_stratified = params.stratify
        self._known = known if params.stratify else {}
        self._splits_of_group: defaultdict[str, set[str]] = defaultdict(set)
        for row in self._known.values():
            self._splits_of_group[row.group].add(row.split)
        self._n_missing: Counter[str] = Counter()
        self._n_cut = 0
        self.splits: dict[str, str] = {}
        self.groups: dict[str, str] = {}
        self.assignments = dict(known)

    def keep_split(self, content: Content, split: str) -> None:
        """Take the split that the source names."""
        self._note(content, split)

    def cut(self, contents: Iterable[Content], fractions: Fractions, allowed: Collection[str]) -> None:
        """Choose one of the splits that are allowed for each."""
        units: defaultdict[str, list[Content]] = defaultdict(list)
        for content in contents:
            units[content.key].append(content)
        new: defaultdict[str, list[str]] = defaultdict(list)
        n_known: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for key, members in units.items():
            label = find_class(members)
            if split := self._keep_unit(members, allowed):
                n_known[label][split] += 1
            else:
                new[label].append(key)
        for label in sorted(n_known.keys() | new.keys()):
            keys = new[label]
            if self._is_stratified:
                chosen = cut_class(keys, fractions, n_known[label])
                self._count_missing(n_known[label] + Counter(chosen.values()), fractions)
            else:
                chosen = {key: choose_split(key, fractions) for key in keys}
            for key, split in chosen.items():
                for content in units[key]:
                    self._note(content, split, is_remembered=self._is_stratified)

    def _keep_unit(self, members: Sequence[Content], allowed: Collection[str]) -> str | None:
        """Let an image or a group stay where it is; return that split, or None if it is new."""
        rows = [self._known.get(shorten_hash(content.sha256)) for content in members]
        own = [row.split if row and row.split in allowed else None for row in rows]
        group = members[0].group
        found = {split for split in own if split} | (self._splits_of_group[group] & set(allowed) if group else set())
        if not found:
            return None
        last = max(found, key=SPLITS.index)
        for content, split in zip(members, own, strict=True):
            self._note(content, split or last, is_remembered=self._is_stratified)
        return last

    def _note(self, content: Content, split: str, *, is_remembered: bool = False) -> None:
        """Note a split, and what is remembered: a split that was cut, and the group of any image that has one."""
        self.splits[content.sha256], self.groups[content.sha256] = split, content.group
        if content.group:
            self._splits_of_group[content.group].add(split)
        digits = shorten_hash(content.sha256)
        row = self.assignments.get(digits)
        if is_remembered or (content.group and row is None):
            self.assignments[digits] = Assignment(digits, split, content.group)
        elif row is not None:
            self.assignments[digits] = row._replace(group=content.group)

    def _count_missing(self, n_got: Counter[str], fractions: Fractions) -> None:
        self._n_cut += n_got.total()
        self._n_missing.update(count_shares(n_got.total(), fractions))
        self._n_missing.subtract(n_got)

    def describe_gaps(self) -> list[str]:
        """Return one line for each split that is far from its fraction, because images keep their splits."""
        return [
            f"{split} has {abs(n):,} of {self._n_cut:,} images or groups {'fewer' if n > 0 else 'more'} than "
            f"restructure.fractions asks for, because images keep their split; without {paths.SPLITS} all are cut again"
            for split, n in self._n_missing.items()
            if abs(n) > MAX_GAP * self._n_cut
        ]


def find_class(members: Iterable[Content]) -> str:
    """Return the class that most of these have, the first by name in a tie."""
    counts = Counter(content.label for content in members)
    return min(counts, key=lambda label: (-counts[label], label))


def _remove_ambiguous(copies: dict[str, list[SourceImage]]) -> list[Exclusion]:
    """Remove the groups of the same bytes that have several labels, and return their exclusions."""
    excluded: list[Exclusion] = []
    for sha256, group in list(copies.items()):
        first = {image.label: image.path for image in reversed(group)}
        if len(first) > 1:
            names = ", ".join(f"{label} ({path})" for label, path in list(first.items())[: -N_NAMED - 1 : -1])
            excluded += [Exclusion(image.path, f"same bytes under different labels: {names}") for image in group]
            del copies[sha256]
    return excluded
