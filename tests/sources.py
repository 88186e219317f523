"""Folders and archives of images to read, and what is read of them."""

import io
import tarfile
import zipfile

from relearn.dataset.sources import iterate_source


def read_all(source):
    """Return the bytes, or the reason for a refusal, of each path."""
    return {file.path: file.refusal or file.read() for file in iterate_source(source)}


def write_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


FILES = {"a/1.png": b"one", "a/b/2.png": b"two", "3.png": b"three"}
