"""What `restructure` says of the images: the manifest, what was seen of each, and what was left out."""

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


class SourceDetails(NamedTuple):
    """What else was seen of an image of the manifest, in the manifest's order: `data/sightings.csv`.

    `source_path` is its path in the source, `contrast` the standard deviation of its brightness (0 to 127.5).
    """

    path: str
    source_path: str
    contrast: float


class Exclusion(NamedTuple):
    """A file of the source that is not in the data set: `data/excluded.csv`. The reason is `KIND` or `KIND: DETAIL`."""

    path: str
    reason: str

    @property
    def kind(self) -> str:
        """Return the reason without what is particular to this file."""
        return self.reason.split(":")[0]

    @property
    def copied(self) -> str:
        """Return the path in the source of the copy that was kept in its place, or nothing."""
        match = re.fullmatch(rf"{COPY_KEPT}: (.*), kept in \w+", self.reason)
        return match[1] if match else ""


def fold_name(name: str) -> str:
    """Return what names share that some file systems, or people, take for one: by case, accents or spaces around."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def fold_names(names: Iterable[str]) -> dict[str, str]:
    """Return names by what they share with those that look like them; see `describe_alike`."""
    return {fold_name(name): name for name in names}


def describe_alike(name: str, known: Mapping[str, str]) -> str:
    """Return in parentheses how one of the names in `known` differs that looks like `name`, or nothing if none does."""
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
    """Return the normal form of Unicode that a name is in: NFC (composed accents), NFD (decomposed), or neither."""
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "no normal form")


def sort_key(row: ManifestRow) -> tuple[int, str, str]:
    """Return what the manifest is ordered by: split (as in `SPLITS`), then sha256, then path."""
    return SPLITS.index(row.split), row.sha256, row.path


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the manifest in its order."""
    ordered = sorted(rows, key=sort_key)
    write_csv(path, ManifestRow._fields, ordered)


def hash_tables() -> dict[str, str]:
    """Return the hashes of the tables, which `data/source.json` keeps."""
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
        if split not in SPLITS:
            raise IntegrityError(f"{path}: row {number}: wanted a split of {', '.join(SPLITS)}, got {split!r}")
        try:
            sizes = int(n_bytes), int(width_px), int(height_px)
        except ValueError as error:
            raise IntegrityError(f"{path}: row {number}: wanted whole numbers, got {error}") from None
        rows.append(ManifestRow(name, split, label, sha256, *sizes, mode, file_format))
    return rows
