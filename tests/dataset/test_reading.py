import errno
import os
import shutil
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import read_results, restructure, write_images
from relearn import paths
from relearn.dataset import inspections, reading, sources
from relearn.dataset.manifest import read_manifest
from relearn.errors import SourceError
from relearn.images.decoding import decode_image
from relearn.storage.files import read_json


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the contents that are decoded from now on."""
    sizes = []

    def decode(content, **options):
        sizes.append(len(content))
        return decode_image(content)

    monkeypatch.setattr(inspections, "decode_image", decode)
    return sizes


@pytest.fixture
def read(monkeypatch):
    """The paths of the files that are read from now on."""
    names = []
    original = reading.iterate_source

    def iterate(*args):
        for file in original(*args):
            yield file._replace(read=lambda file=file: names.append(file.path) or file.read())

    monkeypatch.setattr(reading, "iterate_source", iterate)
    return names


def test_unchanged_files_are_not_read_again(use_layout, settled, decoded, read):
    use_layout(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(5)])
    Path("source/a/broken.png").write_bytes(b"text")
    shutil.copy("source/a/1.png", "source/a/copy.png")
    restructure()
    results = read_results()
    assert (len(read), len(decoded)) == (12, 11)

    read.clear(), decoded.clear()
    restructure()
    assert (read, decoded) == ([], [])
    assert read_results() == results

    write_images(Path("source"), ["b/2.png", "b/new.png"], 100)
    restructure()
    assert sorted(read) == ["b/2.png", "b/new.png"]
    assert len(decoded) == 2
    fresh = read_results()
    shutil.rmtree(paths.find_cache())
    restructure()
    assert read_results() == fresh != results


def test_bytes_are_not_decoded_again_wherever_they_stand(use_layout, decoded):
    use_layout(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(5)])
    restructure()
    results = read_results()
    decoded.clear()
    with zipfile.ZipFile("source.zip", "w") as archive:
        for path in Path("source").rglob("*.png"):
            archive.write(path, path.relative_to("source"))
    use_layout(layout="class_folders", source="source.zip")
    restructure()
    assert decoded == []
    record = "data/source.json"
    assert {name: content for name, content in read_results().items() if name != record} == {
        name: content for name, content in results.items() if name != record
    }


def test_unreadable_file_is_excluded_without_its_whole_path(use_layout, monkeypatch):
    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied", "/home/me/source/a/1.png")

    use_layout(layout="class_folders")
    write_images(Path("source"), ["a/1.png", "a/2.png"])
    original = reading.iterate_source
    monkeypatch.setattr(
        reading,
        "iterate_source",
        lambda *args: [file._replace(read=refuse) if file.path == "a/1.png" else file for file in original(*args)],
    )
    _, excluded = restructure()
    assert excluded == {"a/1.png": "cannot be read: Permission denied"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["scandir", "is_dir"])
def test_folder_that_cannot_be_listed_is_an_error(forty, monkeypatch, number, call):
    restructure()
    before = read_results()
    scandir = os.scandir

    class Entry:  # as one of a file system that does not say of what kind an entry is
        def __init__(self, entry):
            self.entry = entry

        def __getattr__(self, name):
            return getattr(self.entry, name)

        def is_dir(self, **options):
            if self.entry.path == "source/b":
                raise OSError(number, os.strerror(number))
            return self.entry.is_dir(**options)

    @contextmanager
    def scan(path):
        if call == "scandir" and str(path) == "source/b":
            raise OSError(number, os.strerror(number), path)
        with scandir(path) as entries:
            yield list(entries) if call == "scandir" else [Entry(entry) for entry in entries]

    where = "source/b" if call == "scandir" else "source"
    with (
        monkeypatch.context() as patch,
        pytest.raises(SourceError, match=rf"^{where}: folder cannot be listed: {os.strerror(number)}; allow it to be"),
    ):
        patch.setattr(sources.os, "scandir", scan)
        restructure()
    assert read_results() == before


def list_source():
    return sorted(path for path in Path("source").rglob("*") if path.is_file())


def test_classes_without_an_image_are_warned_of(use_layout, caplog, set_params):
    """An empty folder, one that is full of copies of another class, one that is a link, and one without any image."""
    use_layout(layout="class_folders")
    write_images(Path("source"), ["cat/1.png", "dog/2.png", "dog/3.png", "landscape/4.png", ".hidden/5.png"])
    shutil.copy("source/landscape/4.png", "source/dog/4.png")
    Path("source/notes").mkdir()
    Path("source/notes/a.txt").write_text("text")
    for folder in ("empty", "nested/empty", "@eaDir/empty"):
        Path("source", folder).mkdir(parents=True)
    Path("source/linked").symlink_to("cat")
    warning = "source: no image was kept of empty (it has no file), landscape (all of its files are excluded), "
    warning += "linked (it has no file), nested (it has no file), notes (all of its files are excluded)"
    _, excluded = restructure()
    assert warning in caplog.messages
    assert excluded["empty/"] == "empty folder: empty has no file"
    assert excluded["nested/"] == "empty folder: nested has no file"
    assert excluded["linked"] == "link to a folder, not followed"
    assert len(excluded) == 7
    record = read_json(paths.SOURCE)
    assert record["n_files"] == len(read_manifest(paths.MANIFEST)) + 5
    assert record["lost_classes"] == {"empty": 0, "landscape": 1, "linked": 0, "nested": 0, "notes": 1}
    caplog.clear()
    shutil.make_archive("source", "zip", "source")
    with tarfile.open("source.tar", "w") as archive:
        archive.add("source", ".")
    for name in ("source.zip", "source.tar"):
        set_params({"restructure.source": name})
        restructure()
        (warning,) = [message for message in caplog.messages if "no image was kept" in message]
        assert "empty (it has no file), landscape (all of its files are excluded)" in warning
        assert "nested (it has no file), notes (all of its files are excluded)" in warning
        caplog.clear()


def test_classes_that_all_have_images_are_not_warned_of(forty, caplog):
    restructure()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("layout", ["split_class_folders", "csv"])
def test_classes_of_other_layouts_without_an_image_are_warned_of(use_layout, caplog, layout):
    use_layout(layout=layout, labels_csv="labels.csv", labels={"a": "cat", "b": "dog", "c": "owl"})
    write_images(Path("source"), ["training/a/1.png", "evaluation/a/2.png"])
    for folder in ("training/b", "training/c", "evaluation/x"):
        Path("source", folder).mkdir(parents=True)
    Path("source/training/b/3.png").write_bytes(b"")
    rows = "".join(f"{path.relative_to('source')},{path.parent.name}\n" for path in list_source())
    Path("source/labels.csv").write_text(f"path,label\n{rows}")
    restructure()
    (warning,) = [message for message in caplog.messages if "no image was kept" in message]
    owl = ", owl (it has no file)" if layout == "split_class_folders" else ""
    assert warning == f"source: no image was kept of dog (all of its files are excluded){owl}"
