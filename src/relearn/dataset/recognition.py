"""What a source looks like: its layout, recognized from the names of its files and from its tables alone."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from relearn.dataset.layouts import SPLIT_WORDS, open_table
from relearn.dataset.source_files import explain_hidden

# By which a file is counted as an image before it is read, in lower case.
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
LABEL_WORDS = ("label", "labels", "class", "classes", "category", "categories", "target", "species", "breed", "name")
SPLIT_COLUMNS = ("split", "subset", "set", "fold", "partition")
MAX_TABLES = 5  # those nearest to the top: to read one, the whole source is listed again
N_ROWS_READ = 1000  # of a table, to recognize its columns
MAX_LABELS = 1000  # of food5k's names, which begin with the number of their label
MAX_STRAY_SHARE = 0.05  # of the images, which may lie beside the folders


class Recognized(NamedTuple):
    """The values of the block `restructure` that say how a source is laid out.

    splits : what the source calls each split, null for one that it has not; None if it names no splits
    labels : the class of each label in the source; None keeps the labels
    csv_columns : what the table calls path, label and split; None without a table
    """

    layout: str
    subfolder: str | None = None
    splits: dict[str, str | None] | None = None
    labels: dict[str, str] | None = None
    labels_csv: str | None = None
    csv_columns: dict[str, str] | None = None


def recognize_source(files: Iterable[str], read: Callable[[str], bytes]) -> Recognized | None:
    """Return how a source is laid out; None if it holds no image.

    Parameters
    ----------
    files
        The paths of all files of the source, with `/`.
    read
        Returns the content of one of them.
    """
    files = [path for path in files if not explain_hidden(path)]
    images = [path for path in files if PurePosixPath(path).suffix.lower() in SUFFIXES]
    if not images:
        return None
    tables = sorted(
        (path for path in files if path.lower().endswith((".csv", ".tsv"))), key=lambda path: (path.count("/"), path)
    )
    for table in tables[:MAX_TABLES]:
        if found := recognize_table(table, read(table), set(images)):
            return found
    folder = find_beginning(images)
    prefix = f"{folder}/" if folder else ""
    parts = [PurePosixPath(path.removeprefix(prefix)).parts for path in images if path.startswith(prefix)]
    tops = {path[0] for path in parts if len(path) > 1}
    if (splits := match_splits(tops)) is None:
        return Recognized("class_folders", folder)
    inner = [path for path in parts if len(path) == 2]
    numbers = sorted({name.split("_")[0] for _, name in inner if "_" in name})
    if 2 * len(inner) > len(parts) and 1 < len(numbers) <= MAX_LABELS:
        return Recognized("food5k", folder, splits, {number: number for number in numbers})
    return Recognized("split_class_folders", folder, splits)


def find_beginning(images: Sequence[str]) -> str | None:
    """Return the folder in which the layout begins: below all folders that hold nothing but one other; None is the top.

    A few images may lie beside such a folder.
    """
    beginning: list[str] = []
    rest = [PurePosixPath(path).parts for path in images]
    while True:
        tops = Counter(path[0] for path in rest if len(path) > 1)
        deep = [path[1:] for path in rest if len(path) > 2]
        if len(tops) != 1 or len(deep) < (1 - MAX_STRAY_SHARE) * len(rest):
            return "/".join(beginning) or None
        beginning += tops
        rest = deep


def match_splits(names: Iterable[str]) -> dict[str, str | None] | None:
    """Return the name of each split among others; None unless all names are those of splits, training among them.

    Without a split for evaluation, that for validation becomes it, and validation is cut from training.
    """
    found: dict[str, str | None] = dict.fromkeys(SPLIT_WORDS)
    for name in names:
        split = next((split for split, words in SPLIT_WORDS.items() if name.strip().lower() in words), None)
        if split is None or found[split] is not None:
            return None
        found[split] = name
    if found["evaluation"] is None:
        found["evaluation"], found["validation"] = found["validation"], None
    return found if found["training"] and found["evaluation"] else None


def recognize_table(path: str, content: bytes, images: set[str]) -> Recognized | None:
    """Return the layout of a CSV file that has a row per image; None if it is another.

    A column whose values are paths of images, relative to the file's folder or to the source, is that of the paths.
    Beside it there is a column whose name is one for labels, or else the one with the fewest values.
    """
    try:
        reader = open_table(content.decode("utf-8-sig"))
        rows = [row for row, _ in zip(reader, range(N_ROWS_READ), strict=False)]
    except (UnicodeDecodeError, csv.Error):
        return None
    columns = [column for column in reader.fieldnames or () if column]
    folder = PurePosixPath(path).parent
    for subfolder in dict.fromkeys((folder, PurePosixPath())):
        for column in columns:
            values = [row[column] for row in rows if row[column]]
            if values and sum((subfolder / value).as_posix() in images for value in values) > 0.5 * len(values):
                return _describe_table(path, subfolder, column, columns, rows)
    return None


def _describe_table(
    path: str, subfolder: PurePosixPath, path_column: str, columns: list[str], rows: list[dict[str, str]]
) -> Recognized | None:
    others = {column: {row[column] for row in rows} for column in columns if column != path_column}
    split = next(
        (c for c, values in others.items() if c.lower() in SPLIT_COLUMNS and match_splits(values - {"", None})), None
    )
    candidates = {column: len(values) for column, values in others.items() if column != split and len(values) > 1}
    if not candidates:
        return None
    named = [column for word in LABEL_WORDS for column in candidates if column.lower() == word]
    label = named[0] if named else min(candidates, key=lambda column: candidates[column])
    return Recognized(
        "csv",
        None if subfolder == PurePosixPath() else subfolder.as_posix(),
        match_splits(others[split] - {"", None}) if split else None,
        labels_csv=PurePosixPath(path).relative_to(subfolder).as_posix(),
        csv_columns={"path": path_column, "label": label, "split": split or "split"},
    )
