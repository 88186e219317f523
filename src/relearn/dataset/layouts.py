"""Layouts of a source: from the path of a file to its split and its label."""

import csv
import io
import logging
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from relearn.dataset.manifest import LABELS_TABLE, SPLITS, describe_alike, fold_names
from relearn.dataset.source_files import explain_hidden, list_some
from relearn.dataset.sources import iterate_source, read_source_file
from relearn.errors import MisplacedFile, SourceError
from relearn.params.data import RestructureParams, TableColumns
from relearn.runtime.text import holds_control_character

log = logging.getLogger(__name__)

# What others call the splits, in lower case.
SPLIT_WORDS = {
    "training": {"training", "train"},
    "validation": {"validation", "valid", "val", "dev"},
    "evaluation": {"evaluation", "eval", "test", "testing"},
}
SPLIT_NAMES = set().union(*SPLIT_WORDS.values())

MAX_NAME_BYTES = 255  # in common file systems


class Place(NamedTuple):
    """Where a layout puts a file; without a split, the content decides. `group` is what the table says, if any."""

    split: str | None
    label: str
    group: str = ""


class Layout:
    """The layout that the parameters name, with the table of labels if it has one."""

    def __init__(self, params: RestructureParams) -> None:
        self._params = params
        self._splits = {name: split for split in SPLITS if (name := getattr(params.splits, split)) is not None}
        self._listed = read_labels(params, self._splits) if params.layout == "csv" else {}

    @property
    def groups(self) -> dict[str, str]:
        """The groups of the table, by path below the subfolder."""
        return {path: place.group for path, place in self._listed.items()}

    def find_place(self, path: str) -> Place:
        """Return the place of a file by its path in the source.

        Raises
        ------
        MisplacedFile
            The layout has no place for it.
        """
        if hidden := explain_hidden(path):
            raise MisplacedFile(hidden)
        place = self._match(self._strip_subfolder(PurePosixPath(path)))
        if labels := self._params.labels:
            if place.label not in labels:
                alike = describe_alike(place.label, fold_names(labels))
                raise MisplacedFile(f"label not in restructure.labels: {place.label!r}{alike}")
            place = place._replace(label=labels[place.label])
        check_label(place.label)
        return place

    def _strip_subfolder(self, path: PurePosixPath) -> PurePosixPath:
        subfolder = PurePosixPath(self._params.subfolder or "")
        if not path.is_relative_to(subfolder):
            top = str(PurePosixPath(*path.parts[: len(subfolder.parts)]))
            alike = describe_alike(top, fold_names([str(subfolder)]))
            raise MisplacedFile(f"outside the subfolder: {self._params.subfolder}{alike}")
        return path.relative_to(subfolder)

    def _match(self, path: PurePosixPath) -> Place:
        match self._params.layout, path.parts:
            case "food5k", (folder, name) if "_" in name:
                return Place(self._find_split(folder), name.split("_")[0])
            case "split_class_folders", (folder, label, _, *_):
                return Place(self._find_split(folder), label)
            case "class_folders", (label, _, *_):
                return Place(None, label)
            case "csv", _:
                if path == PurePosixPath(self._params.labels_csv or ""):
                    raise MisplacedFile(LABELS_TABLE)
                if path.as_posix() not in self._listed:
                    raise MisplacedFile(f"not listed: {self._params.labels_csv} has no row of this path")
                return self._listed[path.as_posix()]
            case _:
                raise MisplacedFile(f"does not fit the layout: {self._params.layout}")

    def _find_split(self, folder: str) -> str:
        if folder not in self._splits:
            alike = describe_alike(folder, fold_names(self._splits))
            raise MisplacedFile(f"not in a folder of a split: {', '.join(self._splits)}{alike}")
        return self._splits[folder]


def check_label(label: str) -> None:
    """Raise `MisplacedFile` if a label cannot be the name of a folder."""
    if not label or explain_hidden(label) or label == ".." or "/" in label or holds_control_character(label):
        raise MisplacedFile(f"label cannot be the name of a folder: {label!r}")
    if len(label.encode()) > MAX_NAME_BYTES:
        raise MisplacedFile(f"label is too long for the name of a folder: {label[:20]}...")


def check_classes(labels: set[str], params: RestructureParams) -> None:
    """Raise `SourceError` if all classes have names of splits; warn if there is only one class."""
    if params.layout == "class_folders" and len(labels) > 1 and labels <= SPLIT_NAMES:
        raise SourceError(
            f"class_folders makes the classes {', '.join(sorted(labels))}, which are names of splits",
            where="restructure.layout",
            advice="take layout split_class_folders, and name them in restructure.splits",
        )
    if len(labels) == 1:
        log.warning("one class only, %r: does restructure.subfolder name the folder above the classes?", *labels)


def open_table(text: str) -> "csv.DictReader[str]":
    """Return the rows of a table, whose columns are separated by what its first line has most of: , ; or tab."""
    first = text.partition("\n")[0]
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))


def read_labels(params: RestructureParams, splits: dict[str, str]) -> dict[str, Place]:
    """Read the CSV file of layout `csv`: the path relative to the subfolder, the label, and optionally the split.

    Raises
    ------
    SourceError
        The table cannot be read, or lists a path twice or one that the source does not have.
    """
    source = Path(params.source)
    path = str(PurePosixPath(params.subfolder or "") / (params.labels_csv or ""))
    where = f"{source}: {path}"
    try:
        text = read_source_file(source, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(where=where, wanted="UTF-8", got=error, advice="save it as UTF-8") from None
    columns = params.csv_columns
    table = open_table(text)
    places: dict[str, Place] = {}
    try:
        needed = [columns.path, columns.label] + [str(params.group_column)] * (params.group_by == "column")
        if not set(needed) <= set(table.fieldnames or ()):
            wanted = f"the columns {', '.join(needed)} and maybe {columns.split}"
            raise SourceError(
                where=where, wanted=wanted, got=table.fieldnames, advice="see restructure.csv_columns and group_column"
            )
        for row in table:
            line = f"{where}: line {table.line_num}"
            name, place = _read_row(row, columns, splits, line)
            if params.group_by == "column":
                place = place._replace(group=(row[params.group_column] or "").strip())
            if name in places:
                raise SourceError(f"{name} is listed twice", where=line, advice="keep one of its rows")
            places[name] = place
    except csv.Error as error:
        raise SourceError(where=f"{where}: line {table.line_num}", wanted="CSV", got=error) from None
    _check_listed(places, params, where)
    return places


def _read_row(
    row: dict[str | None, Any], columns: TableColumns, splits: dict[str, str], where: str
) -> tuple[str, Place]:
    """Return the path of a row, spelled as in archives and folders, and its place."""
    path, label, split = row[columns.path], row[columns.label], (row.get(columns.split) or "").strip()
    if None in row or path is None or label is None:
        raise SourceError(where=where, wanted="as many cells as there are columns", got="more or fewer")
    label = label.strip()
    if not path:
        raise SourceError(where=where, wanted="a path", got="an empty cell")
    if split and split not in splits:
        wanted = f"a split of {', '.join(splits)}"
        raise SourceError(where=where, wanted=wanted, got=repr(split), advice="see restructure.splits")
    return PurePosixPath(path).as_posix(), Place(splits[split] if split else None, label)


def _check_listed(places: dict[str, Place], params: RestructureParams, where: str) -> None:
    root = PurePosixPath(params.subfolder or "")
    files = [PurePosixPath(file.path) for file in iterate_source(Path(params.source))]
    found = {file.relative_to(root).as_posix() for file in files if file.is_relative_to(root)}
    if missing := [path for path in places if path not in found]:
        alike = fold_names(found)
        examples = list_some([path + describe_alike(path, alike) for path in missing])
        raise SourceError(f"{len(missing)} of its paths are not in the source: {examples}", where=where)
