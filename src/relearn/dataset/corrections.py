"""`data/corrections.csv`: what a person decided about single images, by their hash."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from relearn.dataset.manifest import DROPPED, Exclusion
from relearn.dataset.source_files import list_some
from relearn.dataset.splitting import SourceImage
from relearn.errors import IntegrityError, SourceError
from relearn.runtime.text import count_nouns, holds_control_character
from relearn.storage.files import read_csv

ACTIONS = ("keep", "relabel", "drop")


class Correction(NamedTuple):
    """One row of `data/corrections.csv`. It holds for all files of these bytes; only `relabel` has a label."""

    sha256: str
    action: str
    label: str
    reason: str
    who: str


class Corrected(NamedTuple):
    """One row of `data/corrected.csv`: a correction, the file of the source that it concerns, and its label there.

    A correction whose bytes no image of the source has is one row with an empty `path`.
    """

    path: str
    sha256: str
    action: str
    source_label: str
    label: str
    reason: str
    who: str


class Outcome(NamedTuple):
    """The images that stay, with their corrected labels; those that were dropped; the rows of `data/corrected.csv`."""

    kept: list[SourceImage]
    excluded: list[Exclusion]
    rows: list[Corrected]

    @property
    def changed_classes(self) -> set[str]:
        """The classes of the source that have an image which was relabeled or dropped."""
        return {row.source_label for row in self.rows if row.path and row.action != "keep"}


def read_corrections(path: Path) -> dict[str, Correction]:
    """Return the corrections by the hash of the image, in the order of the file.

    Raises
    ------
    SourceError
        The file is missing or has other columns, a row is none of what `Correction` describes, or two rows have the
        same image.
    """
    if not path.exists():
        wanted = f"a file that begins with the line {','.join(Correction._fields)}"
        advice = "set restructure.corrections, or restore the file by `git checkout`"
        raise SourceError(where=path, wanted=wanted, got="no such file", advice=advice)
    try:
        rows = read_csv(path, Correction._fields)
    except IntegrityError as error:
        advice = _advise_on_cells(error.got)
        raise SourceError(where=error.where, wanted=error.wanted, got=error.got, advice=advice) from None
    found: dict[str, Correction] = {}
    for number, row in enumerate(map(Correction._make, rows), start=2):
        where = f"{path}: row {number}"
        _check_correction(where, row)
        if row.sha256 in found:
            first = 2 + list(found).index(row.sha256)
            got = f"{row.sha256[:16]} again, as in row {first}"
            raise SourceError(where=where, wanted="one row per image", got=got, advice="remove one of the two")
        found[row.sha256] = row
    return found


def _advise_on_cells(got: object) -> str:
    """Return what to do if a row has `got` cells, or if the file is no such table."""
    if got == 0:
        return "remove the empty line"
    if isinstance(got, int):
        return f"write {len(Correction._fields)} cells, and quote those that hold commas"
    return "save it as CSV in UTF-8, with commas between the cells"


def _check_correction(where: str, row: Correction) -> None:
    """Raise `SourceError` if a row contradicts itself."""
    if not re.fullmatch("[0-9a-f]{64}", row.sha256):
        advice = "copy it from data/manifest.csv"
        wanted = "the SHA-256 of an image, 64 hexadecimal digits in lower case"
        raise SourceError(where=where, wanted=wanted, got=repr(row.sha256[:80]), advice=advice)
    if row.action not in ACTIONS:
        wanted = f"one of the actions {', '.join(ACTIONS)}"
        raise SourceError(where=where, wanted=wanted, got=repr(row.action[:80]), advice="write one of them")
    if row.action == "relabel" and not row.label:
        raise SourceError(where=where, wanted="a label for relabel", got="none", advice="name the class")
    if row.action != "relabel" and row.label:
        got = repr(row.label[:80])
        raise SourceError(where=where, wanted=f"no label for {row.action}", got=got, advice="remove it, or relabel")
    if any(map(holds_control_character, row)):
        raise SourceError("a cell holds a control character", where=where, advice="write it in one line of text")


def apply_corrections(images: Iterable[SourceImage], corrections: Mapping[str, Correction], path: Path) -> Outcome:
    """Return what becomes of the images by the corrections, which were read from `path`.

    All files of the same bytes are corrected alike. So `relabel` also helps where the source has them under two
    classes. A correction whose image is gone is kept in the rows, and is no error: a source may grow and shrink, and
    the image may come back.

    Raises
    ------
    SourceError
        An image is relabeled to a class that the source does not have.
    """
    images = list(images)
    hashes = {image.seen.sha256 for image in images}
    _check_classes(corrections, hashes, {image.label for image in images}, path)
    outcome = Outcome([], [], [])
    for image in images:
        correction = corrections.get(image.seen.sha256)
        if correction is None:
            outcome.kept.append(image)
            continue
        label = correction.label or image.label
        outcome.rows.append(_make_row(correction, image.path, image.label, label))
        if correction.action == "drop":
            outcome.excluded.append(Exclusion(image.path, ": ".join(filter(None, (DROPPED, correction.reason)))))
        else:
            outcome.kept.append(image._replace(label=label))
    gone = [row for sha256, row in corrections.items() if sha256 not in hashes]
    outcome.rows.extend(_make_row(row, "", "", row.label) for row in gone)
    outcome.rows.sort()
    return outcome


def _make_row(correction: Correction, path: str, source_label: str, label: str) -> Corrected:
    sha256, action, _, reason, who = correction
    return Corrected(path, sha256, action, source_label, label, reason, who)


def _check_classes(
    corrections: Mapping[str, Correction], hashes: Collection[str], classes: Collection[str], path: Path
) -> None:
    for number, row in enumerate(corrections.values(), start=2):
        if row.action == "relabel" and row.sha256 in hashes and row.label not in classes:
            raise SourceError(
                where=f"{path}: row {number}",
                wanted=f"a class of the source ({list_some(sorted(classes))})",
                got=repr(row.label[:80]),
                advice="write one of them, or put an image of the new class into the source",
            )


def count_corrections(rows: Iterable[Corrected]) -> dict[str, int]:
    """Return the number of files by action, and as `without_image` the corrections whose image is gone."""
    counts = Counter(row.action if row.path else "without_image" for row in rows)
    return {name: counts[name] for name in (*ACTIONS, "without_image")}


def describe_corrections(rows: Iterable[Corrected]) -> tuple[str, str]:
    """Return in words how many corrections were applied, and how many concern no image; empty texts if none."""
    counts = count_corrections(rows)
    n_gone = counts.pop("without_image")
    applied = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    return (
        f"{count_nouns(sum(counts.values()), 'image')} corrected ({applied})" if any(counts.values()) else "",
        f"the source has no image for {count_nouns(n_gone, 'correction')}; remove what will not come back"
        if n_gone
        else "",
    )
