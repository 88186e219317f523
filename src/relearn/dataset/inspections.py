"""What is known of an image after decoding it, kept in a database, so that no image is decoded twice."""

import base64
import json
import logging
import os
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from relearn.errors import ImageError, OutOfMemory
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import compute_fingerprint
from relearn.images.limits import MAX_PIXELS
from relearn.runtime.code import hash_code
from relearn.storage.database import Database
from relearn.storage.files import hash_bytes

log = logging.getLogger(__name__)

# The packages that decide an inspection.
CODE = ("dataset", "images")

# A file that was changed more recently may be changed again within the resolution of its time.
SETTLED_SECONDS = 2.0

SCHEMA_VERSION = 1
SCHEMA = "CREATE TABLE IF NOT EXISTS record (key TEXT PRIMARY KEY, record TEXT NOT NULL, hash TEXT NOT NULL)"


class Inspection(NamedTuple):
    """What a file's bytes are. `refusal` is the reason if they are no image; `hashes` are in base 64, or empty."""

    sha256: str
    bytes: int
    width_px: int = 0
    height_px: int = 0
    mode: str = ""
    format: str = ""
    contrast: float = 0.0
    hashes: str = ""
    refusal: str = ""


def inspect_content(content: bytes, sha256: str, max_pixels: int = MAX_PIXELS) -> Inspection:
    """Decode the bytes of a file, whole; refuse an image of more than `max_pixels`.

    Raises
    ------
    OutOfMemory
        What this machine cannot do now is no property of the bytes.
    """
    try:
        image = decode_image(content, max_pixels=max_pixels)
    except OutOfMemory:
        raise
    except ImageError as error:
        return Inspection(sha256, len(content), refusal=str(error))
    contrast, hashes = compute_fingerprint(image.rgb)
    text = base64.b64encode(hashes).decode()
    return Inspection(sha256, len(content), *image.size, image.mode, image.format, contrast, text)


class Inspections:
    """A database of inspections by content, and of contents by a file's path and stamp.

    It only saves time. Every row has its own hash and that of the code that made it; an image is inspected again if
    they do not match, or if there is no database.

    Parameters
    ----------
    path
        Of the database; it is made if it is not there.
    max_pixels
        Larger images are refused.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self._path = path
        self.max_pixels = max_pixels
        versions = [version(name) for name in ("imagehash", "numpy", "pillow-heif", "pillow", "scipy")]
        self._recipe = hash_bytes(" ".join([*versions, str(max_pixels), *hash_code(*CODE).values()]).encode())[:16]
        self._database: Database | None = None
        try:
            self._database = Database(path, [SCHEMA], SCHEMA_VERSION)
        except OSError as error:
            self._go_without(error)

    def _go_without(self, error: OSError) -> None:
        log.warning("%s: %s; images are decoded again", self._path, error.strerror)
        self._database = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._database is not None:
            self._database.__exit__(kind, error, traceback)

    def find_content(self, sha256: str) -> Inspection | None:
        """Return the inspection of these bytes, if this code made one."""
        text = self._find(f"{self._recipe} {sha256}")
        return Inspection(*json.loads(text)) if text is not None else None

    def find_file(self, path: Path, stamp: str) -> Inspection | None:
        """Return the inspection of a file that has not changed since."""
        sha256 = self._find(f"{path.absolute()} {stamp}")
        return self.find_content(sha256) if sha256 is not None else None

    def add(self, inspection: Inspection) -> None:
        """Keep an inspection by its content."""
        self._add(f"{self._recipe} {inspection.sha256}", json.dumps(inspection))

    def add_file(self, path: Path, stamp: str, sha256: str) -> None:
        """Keep the content of a file that had this stamp before it was read."""
        changed_ns = max(int(part) for part in stamp.split()[2:])
        if changed_ns < time.time_ns() - SETTLED_SECONDS * 1e9:
            self._add(f"{path.absolute()} {stamp}", sha256)

    def _find(self, key: str) -> str | None:
        for text, check in self._execute("SELECT record, hash FROM record WHERE key = ?", (_hash_text(key),)):
            if check == _hash_text(key + str(text)):
                return str(text)
        return None

    def _add(self, key: str, text: str) -> None:
        row = _hash_text(key), text, _hash_text(key + text)
        self._execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", row)

    def _execute(self, statement: str, values: tuple[str, ...]) -> list[Any]:
        try:
            return self._database.execute(statement, values) if self._database is not None else []
        except OSError as error:
            self._go_without(error)
            return []


def _hash_text(text: str) -> str:
    return hash_bytes(os.fsencode(text))
