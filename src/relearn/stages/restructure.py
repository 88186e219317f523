"""Stage `restructure`: any layout of labelled images becomes `data/dataset/SPLIT/CLASS/NAME` and a manifest."""

import base64
import csv
import io
import logging
import os
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from relearn import paths
from relearn.dataset.inspections import Inspection, Inspections, inspect_content, read_stamp
from relearn.dataset.manifest import (
    COPY_KEPT,
    SPLITS,
    Exclusion,
    ManifestRow,
    SourceDetails,
    describe_alike,
    fold_name,
    fold_names,
    hash_tables,
    sort_key,
    write_manifest,
)
from relearn.dataset.sources import (
    CANNOT_BE_READ,
    READING_ERRORS,
    SourceFile,
    Walk,
    explain_hidden,
    iterate_source,
    read_source_file,
)
from relearn.errors import MisplacedFile, OutOfMemory, SourceError
from relearn.images.fingerprints import write_hashes
from relearn.params import Fractions, RestructureParams
from relearn.runtime.text import holds_control_character
from relearn.runtime.threads import Budget, count_threads, map_ahead
from relearn.storage.files import hash_bytes, write_csv, write_folder, write_json

log = logging.getLogger(__name__)

AWAY = "away"  # the stamp of a file that was not there for a moment: whatever it is later, it has changed

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"}

MAX_NAME_BYTES = 255  # of the usual file systems

# Of files that were read and are not yet decoded. A source may hold as many files of `MAX_BYTES` as it likes.
MAX_BYTES_AHEAD = 512 * 1024 * 1024


N_NAMED = 10  # of a list in an error


class Place(NamedTuple):
    """Where a layout puts a file; without a split, the content decides."""

    split: str | None
    label: str


class FoundFile(NamedTuple):
    """A file of the source that has a place: its bytes, or what was seen of them in an earlier run."""

    path: str
    place: Place
    content: bytes
    stamp: str | None
    known: Inspection | None


class SourceImage(NamedTuple):
    """An image of the source that can be decoded."""

    path: str
    split: str | None
    label: str
    seen: Inspection


def run(params: RestructureParams) -> None:
    """Write `data/dataset/`, `data/manifest.csv` and what goes with it: sightings, hashes, excluded, source.

    Every file of the source ends in the manifest or among the excluded. A file of a folder that has not changed since
    an earlier run is copied and not read; bytes that were decoded before, wherever they stood, are not decoded again.

    Raises
    ------
    SourceError
        The source cannot be read or a folder in it cannot be listed, no image is left, or the source changed meanwhile.
    """
    source = Path(params.source)
    check_source(source)
    with write_folder(paths.DATASET) as folder, Inspections(paths.find_inspections()) as inspections:
        spool = Spool(folder / ".spool", source)
        reader = Reader(source, params, inspections)
        images, excluded = inspect_files(reader, inspections, spool)
        n_files = len(images) + len(excluded)
        kept, left_out = plan_dataset(images, params)
        excluded += left_out
        rows = [row for row, _ in kept]
        spool.place_images(rows, folder)
        reader.check_unchanged()
        if not kept:
            raise SourceError(_describe_nothing(source, params, excluded))
        check_classes({row.label for row in rows}, params)
    write_manifest(paths.MANIFEST, rows)
    sightings = [SourceDetails(row.path, image.path, image.seen.contrast) for row, image in kept]
    write_csv(paths.SIGHTINGS, SourceDetails._fields, sightings)
    write_hashes(paths.HASHES, len(kept), (base64.b85decode(image.seen.hashes) for _, image in kept))
    write_csv(paths.EXCLUDED, Exclusion._fields, sorted(excluded))
    write_json(paths.SOURCE, {"source": params.source, "n_files": n_files, **hash_tables()})
    _log_summary(source, rows, excluded)
    reader.log_remarks({row.label for row in rows})


class Spool:
    """The bytes that were read, by their hash, and of those that were not, the files that hold them."""

    def __init__(self, folder: Path, source: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._source = source
        self._unread: dict[str, tuple[Path, str]] = {}

    def keep(self, file: FoundFile, sha256: str) -> None:
        """Keep the bytes of a file until it is known whether they have a place."""
        if file.known is not None and file.stamp is not None:
            self._unread[sha256] = (self._source / file.path, file.stamp)
            return
        partial = self._folder / f"{sha256}.{threading.get_ident()}"
        partial.write_bytes(file.content)
        partial.replace(self._folder / sha256)

    def place_images(self, rows: Iterable[ManifestRow], folder: Path) -> None:
        """Move or copy the images to their paths below `folder`; the spool is gone after that."""
        left = Counter(row.sha256 for row in rows)
        for row in rows:
            target, kept = folder / row.path, self._folder / row.sha256
            target.parent.mkdir(parents=True, exist_ok=True)
            left[row.sha256] -= 1
            if not kept.exists():
                self._copy_unread(row.sha256, target)
            elif left[row.sha256]:
                shutil.copyfile(kept, target)
            else:
                kept.replace(target)
        shutil.rmtree(self._folder)

    def _copy_unread(self, sha256: str, target: Path) -> None:
        path, stamp = self._unread[sha256]
        try:
            shutil.copyfile(path, target)
            is_same = read_stamp(path) == stamp
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise SourceError(f"{path}: changed while it was copied; run `dvc repro` when nobody writes there")


def check_source(source: Path) -> None:
    """Raise `SourceError` if this stage would read what it writes, or delete what it reads."""
    inside, outside = source.resolve(), paths.DATASET.resolve()
    if outside.is_relative_to(inside) or inside.is_relative_to(outside):
        raise SourceError(
            f"restructure.source: wanted a source apart from {paths.DATASET}, which this stage writes, got "
            f"{str(source)!r}; put the images below data/raw/"
        )


def check_classes(labels: set[str], params: RestructureParams) -> None:
    """Raise `SourceError` if the folders of classes are those of splits, and warn if there is one class alone."""
    if params.layout == "class_folders" and len(labels) > 1 and labels <= SPLIT_NAMES:
        raise SourceError(
            f"restructure.layout: class_folders makes the classes {', '.join(sorted(labels))}, which are names of "
            "splits; take layout split_class_folders, and name them in restructure.splits"
        )
    if len(labels) == 1:
        log.warning("one class only, %r: does restructure.subfolder name the folder above the classes?", *labels)


def choose_layout(params: RestructureParams) -> Callable[[str], Place]:
    """Return the function that tells from a file's path in the source its split and label.

    It raises `Refused` for a file that the layout has no place for.
    """
    splits = {name: split for split in SPLITS if (name := getattr(params.splits, split)) is not None}
    listed = _read_labels_csv(params, splits) if params.layout == "csv" else {}
    subfolder = PurePosixPath(params.subfolder or "")
    depth = len(subfolder.parts)
    known_splits, known_labels, known_subfolder = map(fold_names, (splits, params.labels, [str(subfolder)]))

    def find_split(folder: str) -> str:
        if folder not in splits:
            raise MisplacedFile(
                f"not in a folder of a split: {', '.join(splits)}{describe_alike(folder, known_splits)}"
            )
        return splits[folder]

    def find_place(path: str) -> Place:
        inner = PurePosixPath(path)
        if hidden := explain_hidden(path):
            raise MisplacedFile(hidden)
        if params.subfolder is not None:
            if not inner.is_relative_to(params.subfolder):
                alike = describe_alike(str(PurePosixPath(*inner.parts[:depth])), known_subfolder)
                raise MisplacedFile(f"outside the subfolder: {params.subfolder}{alike}")
            inner = inner.relative_to(params.subfolder)
        match params.layout, inner.parts:
            case "food5k", (folder, name) if "_" in name:
                place = Place(find_split(folder), name.split("_")[0])
            case "split_class_folders", (folder, label, _, *_):
                place = Place(find_split(folder), label)
            case "class_folders", (label, _, *_):
                place = Place(None, label)
            case "csv", _:
                if inner.as_posix() not in listed:
                    raise MisplacedFile(f"not listed: {params.labels_csv} has no row of this path")
                place = listed[inner.as_posix()]
            case _:
                raise MisplacedFile(f"does not fit the layout: {params.layout}")
        if params.labels:
            if place.label not in params.labels:
                alike = describe_alike(place.label, known_labels)
                raise MisplacedFile(f"label not in restructure.labels: {place.label!r}{alike}")
            place = place._replace(label=params.labels[place.label])
        _check_label(place.label)
        return place

    return find_place


def _check_label(label: str) -> None:
    if not label or explain_hidden(label) or label == ".." or "/" in label or holds_control_character(label):
        raise MisplacedFile(f"label cannot be the name of a folder: {label!r}")
    if len(label.encode()) > MAX_NAME_BYTES:
        raise MisplacedFile(f"label is too long for the name of a folder: {label[:20]}...")


def _read_labels_csv(params: RestructureParams, splits: dict[str, str]) -> dict[str, Place]:
    """Read the CSV file of layout `csv`: columns path (relative to the subfolder), label, and split if there is one."""
    source = Path(params.source)
    path = str(PurePosixPath(params.subfolder or "") / (params.labels_csv or ""))
    where = f"{source}: {path}"
    try:
        text = read_source_file(source, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: wanted UTF-8, got {error}; save it as UTF-8") from None
    table = csv.DictReader(io.StringIO(text, newline=""))
    places: dict[str, Place] = {}
    try:
        if not {"path", "label"} <= set(table.fieldnames or ()):
            raise SourceError(f"{where}: wanted the columns path, label and maybe split, got {table.fieldnames}")
        for row in table:
            name, place = _read_place(row, splits, f"{where}: line {table.line_num}")
            if name in places:
                raise SourceError(f"{where}: line {table.line_num}: {name} is listed twice; keep one of its rows")
            places[name] = place
    except csv.Error as error:
        raise SourceError(f"{where}: line {table.line_num}: wanted CSV, got: {error}") from None
    root = PurePosixPath(params.subfolder or "")
    inner = [PurePosixPath(file.path) for file in iterate_source(source)]
    found = {file.relative_to(root).as_posix() for file in inner if file.is_relative_to(root)}
    if missing := [name for name in places if name not in found]:
        there = fold_names(found)
        first = ", ".join(name + describe_alike(name, there) for name in missing[:N_NAMED])
        more = ", ..." if len(missing) > N_NAMED else ""
        raise SourceError(f"{where}: {len(missing)} of its paths are not in the source: {first}{more}")
    return places


def _read_place(row: dict[str | None, Any], splits: dict[str, str], where: str) -> tuple[str, Place]:
    """Read a row of the CSV file: the path as archives and folders give it, and the place."""
    if None in row or row["path"] is None or row["label"] is None:
        raise SourceError(f"{where}: wanted as many cells as there are columns, got more or fewer")
    name, label, split = row["path"], row["label"].strip(), (row.get("split") or "").strip()
    if not name:
        raise SourceError(f"{where}: wanted a path, got an empty cell")
    if split and split not in splits:
        raise SourceError(f"{where}: wanted a split of {', '.join(splits)}, got {split!r}; see restructure.splits")
    return PurePosixPath(name).as_posix(), Place(splits[split] if split else None, label)


class Reader:
    """Reads the files of a source once, and notes what it meets, for what is asked when all have been read."""

    def __init__(self, source: Path, params: RestructureParams, inspections: Inspections) -> None:
        self.source = source
        self._is_folder = source.is_dir()
        # The table of layout csv is read before the files, and held against a listing of its own.
        self._looks = [read_stamps(source)] if params.layout == "csv" or not self._is_folder else []
        self._find_place = choose_layout(params)
        self._inspections = inspections
        self._walk = Walk(set(), [])
        self._n_files: Counter[str] = Counter()

    def read_files(self, budget: Budget) -> Iterator[FoundFile | Exclusion]:
        """Read the files that have a place one after the other; the others come as exclusions, with the reason."""
        stamps: dict[str, str | None] = {}
        for file in iterate_source(self.source, self._walk):
            path = self.source / file.path
            stamp = _look_at(self.source, file) if self._is_folder else None
            stamps[file.path] = stamp
            try:
                if file.refusal is not None:
                    self._count(file.path)
                    if stamp is not None and file.refusal.startswith(CANNOT_BE_READ):
                        stamps[file.path] = AWAY  # it was, and is there again
                    raise MisplacedFile(file.refusal)
                place = self._find_place(file.path)
                self._n_files[place.label] += 1
                known = self._inspections.find_file(path, stamp) if stamp else None
                content = b"" if known else file.read()
                budget.take(len(content))
                yield FoundFile(file.path, place, content, stamp, known)
            except MisplacedFile as refusal:
                yield Exclusion(file.path, str(refusal))
            except READING_ERRORS as error:
                if isinstance(error, FileNotFoundError | NotADirectoryError):
                    stamps[file.path] = AWAY
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                yield Exclusion(file.path, f"{CANNOT_BE_READ}: {reason}")
        if self._is_folder:
            self._looks.append(stamps)

    def _count(self, path: str, n_files: int = 1) -> None:
        """Count files of the class that a path has, if it has one."""
        with suppress(MisplacedFile):
            self._n_files[self._find_place(path).label] += n_files

    def check_unchanged(self) -> None:
        """Raise `SourceError` if the source is not what it was each time that it was looked at."""
        now = read_stamps(self.source)
        for before in self._looks:
            changes = describe_changes(before, now)
            if changes:
                raise SourceError(
                    f"{self.source}: changed while it was read: {changes}; run `dvc repro` when nobody writes there"
                )

    def log_remarks(self, kept: set[str]) -> None:
        """Warn of names that may have been misread, and of classes that have files or a folder but no image kept."""
        for remark in self._walk.remarks:
            log.warning("%s", remark)
        for folder in self._walk.folders:
            self._count(f"{folder}/x", 0)  # as a file in it would be called
        lost = sorted(self._n_files.keys() - kept)
        if lost:
            told = [f"{label} ({_count_files(self._n_files[label])})" for label in lost[:N_NAMED]]
            more = ", ..." if len(lost) > N_NAMED else ""
            log.warning(
                "%s: classes of which no image was kept: %s%s; %s has the reasons",
                self.source,
                ", ".join(told),
                more,
                paths.EXCLUDED,
            )


def read_stamps(source: Path) -> dict[str, str | None]:
    """Return what changes when a file does: of all files of a folder by their paths, or of the archive.

    None is the stamp of a file that cannot be looked at, or of a link into the void; `AWAY` that of a file that was
    listed and is not there any more.
    """
    if source.exists() and not source.is_dir():
        return {source.name: _find_stamp(source)}
    return {file.path: _look_at(source, file) for file in iterate_source(source)}


def _look_at(source: Path, file: SourceFile) -> str | None:
    if file.refusal is not None and not file.refusal.startswith(CANNOT_BE_READ):
        return None  # its name may be spelled otherwise on the disk; whatever it holds, it is refused
    return _find_stamp(source / file.path)


def _find_stamp(path: Path) -> str | None:
    try:
        return read_stamp(path)
    except (FileNotFoundError, NotADirectoryError):
        return None if os.path.islink(path) else AWAY
    except (OSError, ValueError):
        return None


def describe_changes(before: dict[str, str | None], now: dict[str, str | None]) -> str:
    """Return how many files are gone, new and changed, with examples; nothing if there are none.

    Hidden files do not count, for they are no images, and a file manager may write some at any time; nor do inodes,
    which some network file systems number as they like.
    """
    kinds = {
        "gone": [path for path in before if path not in now],
        "new": [path for path in now if path not in before],
        "changed": [path for path in before if path in now and _has_changed(before[path], now[path])],
    }
    told = []
    for kind, found in kinds.items():
        if meant := sorted(path for path in found if explain_hidden(path) is None):
            more = ", ..." if len(meant) > N_NAMED else ""
            told.append(f"{_count_files(len(meant))} {kind} ({', '.join(meant[:N_NAMED])}{more})")
    return ", ".join(told)


def _has_changed(before: str | None, now: str | None) -> bool:
    without_inode = [stamp and stamp.partition(" ")[2] for stamp in (before, now)]
    return AWAY in (before, now) or without_inode[0] != without_inode[1]


def inspect_files(reader: Reader, inspections: Inspections, spool: Spool) -> tuple[list[SourceImage], list[Exclusion]]:
    """Read and inspect all files of a source, on all cores; return its images, and the files that are none."""
    images: list[SourceImage] = []
    excluded: list[Exclusion] = []
    budget = Budget(MAX_BYTES_AHEAD)

    def inspect(file: FoundFile | Exclusion) -> SourceImage | Exclusion:
        if isinstance(file, Exclusion):
            return file
        try:
            return inspect_file(file, reader.source, inspections, spool)
        finally:
            budget.give_back(len(file.content))

    for found in map_ahead(inspect, reader.read_files(budget), 2 * count_threads()):
        if isinstance(found, Exclusion):
            excluded.append(found)
        else:
            images.append(found)
    return images, excluded


def inspect_file(file: FoundFile, source: Path, inspections: Inspections, spool: Spool) -> SourceImage | Exclusion:
    """Tell what a file's bytes are, from memory or by decoding them, and keep them if they are an image."""
    seen = file.known
    if seen is None:
        sha256 = hash_bytes(file.content)
        seen = inspections.find_content(sha256)
        if seen is None:
            try:
                seen = inspect_content(file.content, sha256)
            except OutOfMemory as error:
                raise SourceError(f"{source}: {file.path}: {error}; free some, or set RELEARN_THREADS lower") from None
            inspections.add(seen)
        if file.stamp is not None:
            inspections.add_file(source / file.path, file.stamp, sha256)
    if seen.refusal:
        return Exclusion(file.path, seen.refusal)
    spool.keep(file, seen.sha256)
    return SourceImage(file.path, *file.place, seen)


def choose_split(sha256: str, fractions: Fractions) -> str:
    """Choose the split of an image by its content alone.

    The hash, read as a number in [0, 1), falls into evaluation, validation or training. So an image keeps its split
    whatever is added or taken away, and copies of it share one.
    """
    position = int(sha256[:13], 16) / 16**13  # 52 bits: exact in a float
    if position < fractions.evaluation:
        return "evaluation"
    if position < fractions.evaluation + fractions.validation:
        return "validation"
    return "training"


def plan_dataset(
    images: Iterable[SourceImage], params: RestructureParams
) -> tuple[list[tuple[ManifestRow, SourceImage]], list[Exclusion]]:
    """Decide which images are in the data set, in which split and under which name, in the order of the manifest.

    1. Images of the same bytes under different labels are all excluded: one of the labels is wrong.
    2. Where the source names no split, the content's hash decides (`choose_split`). Where it names splits but no image
       is in validation, validation is cut from training in the same way.
    3. Images of the same bytes in several splits stay in the last of training, validation, evaluation alone
       (unless `duplicates` is `keep`). Copies within one split stay.

    The result does not depend on the order of `images`.
    """
    excluded: list[Exclusion] = []
    copies: defaultdict[str, list[SourceImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        copies[image.seen.sha256].append(image)
    for sha256, group in list(copies.items()):
        if len({image.label for image in group}) > 1:
            first = {image.label: image.path for image in reversed(group)}
            names = ", ".join(f"{label} ({path})" for label, path in list(first.items())[: -N_NAMED - 1 : -1])
            excluded += [Exclusion(image.path, f"same bytes under different labels: {names}") for image in group]
            del copies[sha256]

    has_validation = any(image.split == "validation" for group in copies.values() for image in group)
    from_training = Fractions(validation=params.fractions.validation, evaluation=0.0)
    kept: list[SourceImage] = []
    for sha256, group in copies.items():
        placed = []
        for image in group:
            split = image.split or choose_split(sha256, params.fractions)
            if image.split == "training" and not has_validation:
                split = choose_split(sha256, from_training)
            placed.append(image._replace(split=split))
        last = max(placed, key=lambda image: SPLITS.index(str(image.split)))
        for image in placed:
            if image.split == last.split or params.duplicates == "keep":
                kept.append(image)
            else:
                reason = f"{COPY_KEPT}: {last.path}, kept in {last.split}"
                excluded.append(Exclusion(image.path, reason))
    return sorted(name_images(kept), key=lambda named: sort_key(named[0])), excluded


def name_images(images: Iterable[SourceImage]) -> list[tuple[ManifestRow, SourceImage]]:
    """Give each image a path `SPLIT/CLASS/NAME` that no other one has, also where the file system ignores case.

    The name is the file's own. Where two files of a class and split share one, or it is too long, it is cut and gets
    the first 8 digits of its source path's SHA-256; where names made in this way are shared as well, with others or
    with a file's own that imitates them, all 64 digits. So no name depends on the order of the files.

    Raises
    ------
    SourceError
        Two images have the same path in the source.
    """
    waiting = [(image, 0 if len(PurePosixPath(image.path).name.encode()) <= MAX_NAME_BYTES else 8) for image in images]
    while True:
        sharing: defaultdict[str, list[tuple[SourceImage, int]]] = defaultdict(list)
        for image, n_digits in waiting:
            sharing[fold_name(f"{image.split}/{image.label}/{make_name(image.path, n_digits)}")].append(
                (image, n_digits)
            )
        if len(sharing) == len(waiting):
            break
        waiting = [
            (image, n_digits if len(group) == 1 else lengthen_name(image, n_digits))
            for group in sharing.values()
            for image, n_digits in group
        ]
    named = []
    for image, n_digits in waiting:
        path = f"{image.split}/{image.label}/{make_name(image.path, n_digits)}"
        seen = image.seen
        size = seen.bytes, seen.width_px, seen.height_px
        row = ManifestRow(path, str(image.split), image.label, seen.sha256, *size, seen.mode, seen.format)
        named.append((row, image))
    return named


def make_name(path: str, n_digits: int) -> str:
    """Return the file name of a path in the source, cut and with digits of the path's SHA-256 if there are any."""
    name = PurePosixPath(path)
    if n_digits == 0:
        return name.name
    # A character is at most 4 bytes; of the 255 of a file system there is room for these.
    stem = name.stem[: 50 if n_digits == 8 else 30]
    return f"{stem}~{hash_bytes(path.encode())[:n_digits]}{name.suffix[:8]}"


def lengthen_name(image: SourceImage, n_digits: int) -> int:
    """Return the next larger number of digits of the hash, for a name that is shared with `n_digits` of them."""
    if n_digits == 64:
        raise SourceError(f"{image.path}: found twice in the source, under names that look the same; remove one")
    return 64 if n_digits else 8


def _count_files(n_files: int) -> str:
    return f"{n_files:,} file{'' if n_files == 1 else 's'}"


def _count_kinds(excluded: Iterable[Exclusion]) -> str:
    kinds = Counter(exclusion.kind for exclusion in excluded)
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _describe_nothing(source: Path, params: RestructureParams, excluded: list[Exclusion]) -> str:
    if not excluded:
        return f"{source}: wanted images, found no file at all; put images there, or set restructure.source"
    kinds = Counter(exclusion.kind for exclusion in excluded)
    example = max(sorted(excluded), key=lambda exclusion: kinds[exclusion.kind])
    return (
        f"{source}: wanted images in layout {params.layout}, found none in {_count_files(len(excluded))} "
        f"({_count_kinds(excluded)}), for example {example.path}: {example.reason}; "
        "see restructure.layout, subfolder, splits and labels"
    )


def _log_summary(source: Path, rows: list[ManifestRow], excluded: list[Exclusion]) -> None:
    counts = Counter(row.split for row in rows)
    splits = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS)
    log.info("%s: %s images kept (%s) of %s classes", source, f"{len(rows):,}", splits, len({r.label for r in rows}))
    if excluded:
        log.info("%s excluded, listed in %s: %s", _count_files(len(excluded)), paths.EXCLUDED, _count_kinds(excluded))
