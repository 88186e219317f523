"""Every file of a source read once and inspected, on all cores."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from relearn.dataset.grouping import group_paths
from relearn.dataset.inspections import Inspection, Inspections, inspect_content
from relearn.dataset.layouts import Layout, Place
from relearn.dataset.manifest import EMPTY_FOLDER, Exclusion
from relearn.dataset.placing import Spool
from relearn.dataset.source_files import CANNOT_BE_READ, READING_ERRORS, Walk
from relearn.dataset.sources import iterate_source
from relearn.dataset.splitting import SourceImage
from relearn.dataset.stamps import AWAY, describe_changes, find_stamp, read_stamps
from relearn.errors import MisplacedFile, OutOfMemory, SourceError
from relearn.params.data import RestructureParams
from relearn.runtime.threads import Budget, count_threads, map_ahead
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)

# Of files that were read and are not yet decoded. A source may hold any number of files of `MAX_BYTES`.
MAX_BYTES_AHEAD = 512 * 1024 * 1024


class FoundFile(NamedTuple):
    """A file of the source that has a place: its bytes, or what is known of them from an earlier run."""

    path: str
    place: Place
    content: bytes
    stamp: str | None
    known: Inspection | None


class SourceReader:
    """Reads the files of a source once, and notes what is needed for the checks after the last file."""

    def __init__(self, params: RestructureParams, inspections: Inspections, spool: Spool | None) -> None:
        self._params = params
        self._source = Path(params.source)
        self._is_folder = self._source.is_dir()
        # The table of layout csv is read before the files, and compared with a listing of its own.
        self._looks = [read_stamps(self._source)] if params.layout == "csv" or not self._is_folder else []
        self._layout = Layout(params)
        self._inspections = inspections
        self._spool = spool
        self._walk = Walk(set(), [])
        self._n_files: Counter[str] = Counter()
        self._budget = Budget(MAX_BYTES_AHEAD)

    def inspect_files(self) -> tuple[list[SourceImage], list[Exclusion]]:
        """Return the images of the source with their groups, and the files that are none, with the reason."""
        images: list[SourceImage] = []
        excluded: list[Exclusion] = []
        for found in map_ahead(self._inspect, self._read_files(), 2 * count_threads()):
            if isinstance(found, Exclusion):
                excluded.append(found)
            else:
                images.append(found)
        groups = group_paths([image.path for image in images], self._params, self._layout.groups)
        return [image._replace(group=group) for image, group in zip(images, groups, strict=True)], excluded

    def _read_files(self) -> Iterator[FoundFile | Exclusion]:
        """Read the files that have a place, one after the other; the others become exclusions."""
        stamps: dict[str, str | None] = {}
        for file in iterate_source(self._source, self._walk):
            stamp = find_stamp(self._source, file) if self._is_folder else None
            stamps[file.path] = stamp
            try:
                if file.refusal is not None:
                    self._count(file.path)
                    if stamp is not None and file.refusal.startswith(CANNOT_BE_READ):
                        stamps[file.path] = AWAY  # it was missing, and is there again
                    raise MisplacedFile(file.refusal)
                place = self._layout.find_place(file.path)
                self._n_files[place.label] += 1
                known = self._inspections.find_file(self._source / file.path, stamp) if stamp else None
                content = b"" if known else file.read()
                self._budget.acquire(len(content))
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

    def _count(self, path: str) -> None:
        """Count a file of the class that a path has, if it has one."""
        with suppress(MisplacedFile):
            self._n_files[self._layout.find_place(path).label] += 1

    def _inspect(self, file: FoundFile | Exclusion) -> SourceImage | Exclusion:
        if isinstance(file, Exclusion):
            return file
        try:
            seen = file.known or self._inspect_content(file)
            if seen.refusal:
                return Exclusion(file.path, seen.refusal)
            if self._spool is None:
                pass  # the images are only looked at
            elif file.known and file.stamp:
                self._spool.add_file(seen.sha256, self._source / file.path, file.stamp)
            else:
                self._spool.add_content(seen.sha256, file.content)
            return SourceImage(file.path, file.place.split, file.place.label, seen)
        finally:
            self._budget.release(len(file.content))

    def _inspect_content(self, file: FoundFile) -> Inspection:
        """Return what is known of a file's bytes, or decode them."""
        sha256 = hash_bytes(file.content)
        seen = self._inspections.find_content(sha256)
        if seen is None:
            try:
                seen = inspect_content(file.content, sha256, self._inspections.max_pixels)
            except OutOfMemory as error:
                where, advice = f"{self._source}: {file.path}", "free some, or set RELEARN_THREADS lower"
                raise OutOfMemory(str(error), where=where, advice=advice) from None
            self._inspections.add(seen)
        if file.stamp is not None:
            self._inspections.add_file(self._source / file.path, file.stamp, sha256)
        return seen

    def check_unchanged(self) -> None:
        """Raise `SourceError` if the source is not what it was each time that it was looked at."""
        now = read_stamps(self._source)
        for before in self._looks:
            if changes := describe_changes(before, now):
                raise SourceError(
                    f"changed while it was read: {changes}",
                    where=self._source,
                    advice="run `dvc repro` when nobody writes there",
                )

    def log_remarks(self) -> None:
        """Warn of names that may be misread."""
        for remark in self._walk.remarks:
            log.warning("%s", remark)

    def find_lost_classes(self, kept: set[str]) -> tuple[dict[str, int], list[Exclusion]]:
        """Return the classes that have files or a folder but no image kept, and the folders of those without a file.

        Returns
        -------
        lost
            The number of files of each of these classes, ordered by name.
        folders
            What to list of them.
        """
        folders: dict[str, str] = {}
        for folder in sorted(self._walk.folders, reverse=True):
            with suppress(MisplacedFile):
                folders[self._layout.find_place(f"{folder}/x").label] = folder  # as the path of a file in it
        lost = {label: self._n_files[label] for label in sorted((self._n_files.keys() | folders.keys()) - kept)}
        empty = [label for label, n_files in lost.items() if n_files == 0]
        return lost, [Exclusion(f"{folders[label]}/", f"{EMPTY_FOLDER}: {label} has no file") for label in empty]
