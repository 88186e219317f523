import errno
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from conftest import draw_image, encode_image, read_results, restructure, write_images
from relearn import paths
from relearn.dataset import inspections, reading
from relearn.errors import SourceError
from relearn.images.decoding import decode_image


def rename_away():
    Path("source/d").rename("elsewhere")


def rename_within():
    Path("source/d").rename("source/e")


def replace_file():
    Path("source/c/new").write_bytes(encode_image(draw_image(99)))
    Path("source/c/new").replace("source/c/3.png")


CHANGES = {
    "folder renamed away": (rename_away, "10 files gone|folder cannot be listed|no such file"),
    "folder renamed within": (rename_within, "10 files gone .*, 10 files new|folder cannot be listed"),
    "folder deleted": (lambda: shutil.rmtree("source/d"), "10 files gone|folder cannot be listed"),
    "source renamed": (lambda: Path("source").rename("other"), "source.*: no such file or folder"),
    "file deleted": (lambda: Path("source/c/3.png").unlink(), r"1 file gone \(c/3\.png\); run `dvc repro` when nobody"),
    "file added": (lambda: write_images(Path("source"), ["c/new.png"], 500), r"1 file new \(c/new\.png\)"),
    "file replaced": (replace_file, r"1 file changed \(c/3\.png\)"),
    "folder added": (lambda: write_images(Path("source"), ["x/1.png", "x/2.png"], 600), "2 files new"),
}


# What happens to a file before its folder is listed is no change.
@pytest.mark.parametrize(
    ("name", "when"),
    [
        (name, when)
        for name in CHANGES
        for when in ("first file", "last file")
        if "folder" in name or when != "first file"
    ],
)
def test_source_that_changes_while_it_is_read_is_an_error(forty, monkeypatch, name, when):
    """Another thread changes it for good once the first, or the last, image is decoded."""
    change, message = CHANGES[name]
    n_decoded = []
    lock = threading.Lock()

    def decode(content, **options):
        with lock:
            n_decoded.append(1)
            if len(n_decoded) == (1 if when == "first file" else 40):
                change()
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    with pytest.raises(SourceError, match=message):
        restructure()
    assert not paths.DATASET.exists()


def test_source_that_other_processes_rename_is_read_as_it_was_at_one_time(forty):
    """A folder of ten that is away half of the time: an error, or all or none of them, and never a part."""
    renaming = "import os, sys, time\nwhile True:\n"
    renaming += " os.rename('source/c', 'away'); time.sleep(0.004); os.rename('away', 'source/c'); time.sleep(0.004)\n"
    process = subprocess.Popen([sys.executable, "-c", renaming])
    counts = Counter()
    try:
        for _ in range(40):
            try:
                kept, excluded = restructure()
            except SourceError:
                counts["error"] += 1
            else:
                counts[len(kept), len(excluded)] += 1
    finally:
        process.kill()
        process.wait()
    assert counts.keys() <= {"error", (40, 0), (30, 0)}
    assert counts["error"] > 3


@pytest.mark.parametrize("call", ["stat", "open"])
def test_file_that_is_away_only_when_it_is_read_is_an_error(forty, monkeypatch, call):
    real = getattr(Path, call)
    is_away = [True]

    def fail_once(path, *arguments, **options):
        if path.as_posix() == "source/c/3.png" and is_away:
            is_away.clear()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, call, fail_once)
    with pytest.raises(SourceError, match=r"^source: changed while it was read: 1 file changed \(c/3\.png\)"):
        restructure()


def test_files_that_are_away_at_each_look_are_an_error(forty, monkeypatch):
    """Their folder is there whenever it is listed, and away whenever one of its files is looked at."""
    real = Path.stat

    def fail(path, *arguments, **options):
        if path.as_posix().startswith("source/c/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(SourceError, match=r"^source: changed while it was read: 10 files changed \(c/0\.png"):
        restructure()


@pytest.mark.parametrize("name", ["source.zip", "source.tar.gz"])
def test_archive_that_is_replaced_while_it_is_read_is_an_error(forty, set_params, monkeypatch, name):
    shutil.make_archive("source", "zip", "source")
    shutil.make_archive("source", "gztar", "source")
    set_params({"restructure.source": name})
    restructure()
    shutil.rmtree(paths.find_cache())
    before = read_results()

    lock = threading.Lock()

    def decode(content, **options):
        with lock:
            shutil.copy(name, "new")
            Path("new").replace(name)
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    with pytest.raises(SourceError, match=rf"^{name}: changed while it was read: 1 file changed \({name}\); run"):
        restructure()
    assert read_results() == before


def test_source_that_changes_after_its_table_was_read_is_an_error(use_layout, monkeypatch):
    use_layout(layout="csv", labels_csv="labels.csv")
    write_images(Path("source"), [f"{n}.png" for n in range(9)])
    Path("source/labels.csv").write_text("path,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(9)))
    layout = reading.Layout
    for change in (Path("source/3.png").unlink, lambda: Path("source/labels.csv").write_text("path,label\n")):

        def choose(params, change=change):
            places = layout(params)
            change()
            return places

        with (
            monkeypatch.context() as patch,
            pytest.raises(SourceError, match=r"^source: changed while it was read: 1 file (gone|changed) \("),
        ):
            patch.setattr(reading, "Layout", choose)
            restructure()
        write_images(Path("source"), [f"{n}.png" for n in range(9)])


def test_hidden_files_may_come_and_go(forty, monkeypatch):
    def decode(content, **options):
        for name in ("source/.DS_Store", "source/a/Thumbs.db", "source/@eaDir"):
            Path(name).write_bytes(content)
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    kept, _ = restructure()
    assert len(kept) == 40
