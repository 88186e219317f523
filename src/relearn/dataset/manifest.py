"""The tables of `restructure`: the manifest, the details of the source, and what was excluded."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from relearn import paths
from relearn.errors import IntegrityError
from relearn.storage.files import hash_file, read_csv, write_csv

SPLITS = ("training", "validation", "evaluation")
# What `restructure` writes beside the images, with the keys of their hashes in `data/source.json`.
TABLES = {
    "manifest_sha256": paths.MANIFEST,
    "sightings_sha256": paths.SIGHTINGS,
    "hashes_sha256": paths.HASHES,
    "excluded_sha256": paths.EXCLUDED,
    "corrected_sha256": paths.CORRECTED,
}


class ManifestRow(NamedTuple):
    """One image. `path` is relative to `data/dataset`, with `/`; the size is that of the upright image."""

    path: str
    split: str
    label: str
    sha256: str
    bytes: int
    width_px: int
    height_px: int
    mode: str
    format: str


# The kind of an exclusion; the rest of its reason says which copy was kept in which split.
COPY_KEPT = "same bytes in a later split"

# The kind of what a person dropped by `data/corrections.csv`.
DROPPED = "dropped by a correction"

# The kind of what is listed with the excluded files, but is no file.
EMPTY_FOLDER = "empty folder"

# Kinds of what a person asked for by a name or a parameter, and of what is no file: nothing was lost.
LABELS_TABLE = "the table of labels"
_NOT_LOST = {
    "hidden file",
    "system file",
    "outside the subfolder",
    "not listed",
    DROPPED,
    EMPTY_FOLDER,
    LABELS_TABLE,
}


def describe_lost_classes(lost: Mapping[str, int]) -> list[str]:
    """Return the classes without an image, each with the reason, from the number of their files."""
    return [
        f"{label} ({'all of its files are excluded' if n_files else 'it has no file'})"
        for label, n_files in lost.items()
    ]


class SourceDetails(NamedTuple):
    """What the source says of an image, in the order of the manifest: one row of `data/sightings.csv`.

    `source_path` is its path in the source, `contrast` the standard deviation of its brightness (0 to 127.5).
    """

    path: str
    source_path: str
    contrast: float


class Exclusion(NamedTuple):
    """A file of the source that is not in the dataset: `data/excluded.csv`. The reason is `KIND` or `KIND: DETAIL`."""

    path: str
    reason: str

    @property
    def kind(self) -> str:
        """Return the reason without its details."""
        return self.reason.split(":")[0]

    @property
    def is_lost(self) -> bool:
        """Whether this is a file that was meant to be an image."""
        return self.kind not in _NOT_LOST

    @property
    def copied(self) -> str:
        """Return the path in the source of the copy that was kept instead, or an empty text."""
        match = re.fullmatch(rf"{COPY_KEPT}: (.*), kept in \w+", self.reason)
        return match[1] if match else ""


def fold_name(name: str) -> str:
    """Return a key that two names share if they differ only in case, Unicode form or spaces around them."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def fold_names(names: Iterable[str]) -> dict[str, str]:
    """Return names by their `fold_name`."""
    return {fold_name(name): name for name in names}


def describe_alike(name: str, known: Mapping[str, str]) -> str:
    """Return in parentheses how a name of `known` differs that looks like `name`; else an empty text."""
    other = known.get(fold_name(name.replace("\\", "/")), name)
    if other == name:
        return ""
    if "\\" in name:
        return f" ({other} is there: write / between folders)"
    if unicodedata.normalize("NFC", name) != unicodedata.normalize("NFC", other):
        return f" ({other} is there: upper and lower case and spaces count)"
    form, other_form = find_form(name), find_form(other)
    return f" (what looks the same is there with other bytes: its accents are in Unicode {other_form}, here in {form})"


def find_form(name: str) -> str:
    """Return the Unicode normal form of a name: NFC (composed accents), NFD (decomposed), or neither."""
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "no normal form")


def sort_key(row: ManifestRow) -> tuple[int, str, str]:
    """Return the sort key of the manifest: split (in the order of `SPLITS`), sha256, path."""
    return SPLITS.index(row.split), row.sha256, row.path


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the manifest in its order."""
    ordered = sorted(rows, key=sort_key)
    write_csv(path, ManifestRow._fields, ordered)


def hash_tables() -> dict[str, str]:
    """Return the hashes of the tables, for `data/source.json`."""
    return {key: hash_file(path) for key, path in TABLES.items()}


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read the manifest in the order of the file.

    Raises
    ------
    IntegrityError
        The file is missing, or is not a manifest.
    """
    rows = []
    for number, row in enumerate(read_csv(path, ManifestRow._fields), start=2):
        name, split, label, sha256, n_bytes, width_px, height_px, mode, file_format = row
        where = f"{path}: row {number}"
        if split not in SPLITS:
            raise IntegrityError(where=where, wanted=f"a split of {', '.join(SPLITS)}", got=repr(split))
        try:
            sizes = int(n_bytes), int(width_px), int(height_px)
        except ValueError as error:
            raise IntegrityError(where=where, wanted="whole numbers", got=error) from None
        rows.append(ManifestRow(name, split, label, sha256, *sizes, mode, file_format))
    return rows
