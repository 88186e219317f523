"""`data/splits.csv`: the split that each image was given once, and its group, so that no later image moves it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from relearn.dataset.manifest import SPLITS
from relearn.errors import IntegrityError
from relearn.storage.files import hash_bytes, read_csv, write_csv

N_DIGITS = 16  # of a hash, which are enough to distinguish images: two of a million share them by chance in 1e-7 cases
DIGITS = re.compile(f"[0-9a-f]{{{N_DIGITS}}}")
ADVICE = "`git checkout HEAD data/splits.csv` restores it; without the file all images are cut again"


class Assignment(NamedTuple):
    """One image: the first digits of its SHA-256, its split, and those of the hash of its group's name, or nothing."""

    sha256: str
    split: str
    group: str


def shorten_hash(sha256: str) -> str:
    """Return the digits of a SHA-256 by which an image is remembered."""
    return sha256[:N_DIGITS]


def hash_group(name: str) -> str:
    """Return what stands for a group: 16 digits of the hash of its name, of any length; an empty name is no group."""
    return shorten_hash(hash_bytes(name.encode(errors="surrogateescape"))) if name else ""


def read_assignments(path: Path) -> dict[str, Assignment]:
    """Return what was assigned, by the digits of the image; nothing if there is no such file.

    Raises
    ------
    IntegrityError
        The file is damaged or another one, or has an image in two splits.
    """
    if not path.exists():
        return {}
    try:
        rows = read_csv(path, Assignment._fields)
    except IntegrityError as error:
        raise IntegrityError(where=error.where, wanted=error.wanted, got=error.got, advice=ADVICE) from None
    found: dict[str, Assignment] = {}
    for number, row in enumerate(map(Assignment._make, rows), start=2):
        where = f"{path}: row {number}"
        if not DIGITS.fullmatch(row.sha256) or row.split not in SPLITS or not DIGITS.fullmatch(row.group or row.sha256):
            wanted = f"{N_DIGITS} hexadecimal digits, one of {', '.join(SPLITS)}, and {N_DIGITS} digits or nothing"
            raise IntegrityError(where=where, wanted=wanted, got=repr(",".join(row)[:80]), advice=ADVICE)
        if found.setdefault(row.sha256, row) != row:
            got = f"{row.sha256} in {found[row.sha256].split} and in {row.split}"
            raise IntegrityError(where=where, wanted="one row per image", got=got, advice=f"remove one, or {ADVICE}")
    return found


def write_assignments(path: Path, assignments: Mapping[str, Assignment]) -> None:
    """Write the assignments, ordered by image."""
    write_csv(path, Assignment._fields, sorted(assignments.values()))


def read_groups(path: Path, sha256: Sequence[str]) -> list[str] | None:
    """Return the group of each image, and for an image without one its SHA-256; None if no image has a group.

    Parameters
    ----------
    sha256
        The whole hash of each image.

    Raises
    ------
    IntegrityError
        The file is missing or damaged.
    """
    if not path.exists():
        raise IntegrityError("no such file", where=path, advice="run `dvc repro restructure`, which writes it")
    known = read_assignments(path)
    groups = {digits: row.group for digits, row in known.items() if row.group}
    keys = [groups.get(shorten_hash(image), image) for image in sha256]
    return None if keys == list(sha256) else keys
