"""`data/manifest.csv`: the one place that says which image is in which split."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from relearn.errors import IntegrityError
from relearn.files import read_csv, write_csv

SPLITS = ("training", "validation", "evaluation")


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


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the manifest ordered by split (as in `SPLITS`), then sha256, then path."""
    ordered = sorted(rows, key=lambda row: (SPLITS.index(row.split), row.sha256, row.path))
    write_csv(path, ManifestRow._fields, ordered)


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
