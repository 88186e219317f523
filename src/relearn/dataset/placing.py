"""Names of the images of the dataset, and the files under them."""

import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from relearn.dataset.layouts import MAX_NAME_BYTES
from relearn.dataset.manifest import ManifestRow, fold_name, sort_key
from relearn.dataset.splitting import SourceImage
from relearn.dataset.stamps import read_stamp
from relearn.errors import SourceError
from relearn.storage.files import hash_bytes

NamedImage = tuple[ManifestRow, SourceImage]


def name_images(images: Iterable[SourceImage]) -> list[NamedImage]:
    """Return the images with their rows, in the order of the manifest, each with a path `SPLIT/CLASS/NAME` of its own.

    No two paths are the same, not even in a file system that ignores case. The name is that of the file. If two files
    of a class and split share it, or it is too long, it is cut and gets the first 8 digits of the SHA-256 of its source
    path. If such names are shared as well, with others or with a file that happens to be called so, they get all 64
    digits. So no name depends on the order of the files.

    Raises
    ------
    SourceError
        Two images have the same path in the source.
    """
    waiting = [(image, 0 if len(PurePosixPath(image.path).name.encode()) <= MAX_NAME_BYTES else 8) for image in images]
    while True:
        sharing: defaultdict[str, list[tuple[SourceImage, int]]] = defaultdict(list)
        for image, n_digits in waiting:
            sharing[fold_name(make_path(image, n_digits))].append((image, n_digits))
        if len(sharing) == len(waiting):
            break
        waiting = [
            (image, n_digits if len(group) == 1 else lengthen_name(image, n_digits))
            for group in sharing.values()
            for image, n_digits in group
        ]
    named = [(make_row(image, make_path(image, n_digits)), image) for image, n_digits in waiting]
    return sorted(named, key=lambda pair: sort_key(pair[0]))


def make_row(image: SourceImage, path: str) -> ManifestRow:
    """Return the row of an image in the manifest."""
    seen = image.seen
    size = seen.bytes, seen.width_px, seen.height_px
    return ManifestRow(path, str(image.split), image.label, seen.sha256, *size, seen.mode, seen.format)


def make_path(image: SourceImage, n_digits: int) -> str:
    """Return the path of an image in the dataset; its name has `n_digits` of the hash of its source path."""
    name = PurePosixPath(image.path)
    text = name.name
    if n_digits:
        # A character has at most 4 bytes; these are within the 255 of a file system.
        stem = name.stem[: 50 if n_digits == 8 else 30]
        text = f"{stem}~{hash_bytes(image.path.encode())[:n_digits]}{name.suffix[:8]}"
    return f"{image.split}/{image.label}/{text}"


def lengthen_name(image: SourceImage, n_digits: int) -> int:
    """Return the next larger number of digits of the hash, for a name that is shared with `n_digits` of them."""
    if n_digits == 64:
        problem = "found twice in the source, under names that look the same"
        raise SourceError(problem, where=image.path, advice="remove one")
    return 64 if n_digits else 8


class Spool:
    """The content of images until they are placed: the bytes that were read, or the file in the source, by hash."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._unread: dict[str, tuple[Path, str]] = {}

    def add_content(self, sha256: str, content: bytes) -> None:
        """Keep the bytes of a file that was read."""
        partial = self._folder / f"{sha256}.{threading.get_ident()}"
        partial.write_bytes(content)
        partial.replace(self._folder / sha256)

    def add_file(self, sha256: str, path: Path, stamp: str) -> None:
        """Note a file that was not read, because it had this stamp before."""
        self._unread[sha256] = (path, stamp)

    def read_content(self, sha256: str) -> bytes:
        """Return the bytes of an image.

        Raises
        ------
        SourceError
            A file that was not read has changed.
        """
        kept = self._folder / sha256
        if kept.exists():
            return kept.read_bytes()
        path, _ = self._unread[sha256]
        content = path.read_bytes() if path.is_file() else b""
        if hash_bytes(content) != sha256:
            advice = "run `dvc repro` when nobody writes there"
            raise SourceError("changed while it was read", where=path, advice=advice)
        return content

    def place_images(self, rows: Iterable[ManifestRow], folder: Path) -> None:
        """Move or copy the images to their paths below `folder`, and remove the spool.

        Raises
        ------
        SourceError
            A file that was not read has changed.
        """
        left = Counter(row.sha256 for row in rows)
        for row in rows:
            target, kept = folder / row.path, self._folder / row.sha256
            target.parent.mkdir(parents=True, exist_ok=True)
            left[row.sha256] -= 1
            if not kept.exists():
                copy_unchanged(*self._unread[row.sha256], target)
            elif left[row.sha256]:
                shutil.copyfile(kept, target)
            else:
                kept.replace(target)
        shutil.rmtree(self._folder)


def copy_unchanged(path: Path, stamp: str, target: Path) -> None:
    """Copy a file that must still have this stamp."""
    try:
        shutil.copyfile(path, target)
        is_same = read_stamp(path) == stamp
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise SourceError("changed while it was copied", where=path, advice="run `dvc repro` when nobody writes there")
