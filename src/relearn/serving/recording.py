"""Images and answers, kept to be labeled: hidden in a folder, so that nothing learns from them before a person did.

    FOLDER/.unlabeled/SHA256.jpeg       the bytes of an image, under its hash
    FOLDER/.unlabeled/answers.jsonl     one line per answer

`relearn restructure` and a retraining leave hidden folders alone, also if FOLDER is `retrain.landing`.
"""

import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from relearn.images.formats import recognize_format
from relearn.serving.measurements import Measurements

log = logging.getLogger(__name__)

UNLABELED = ".unlabeled"
ANSWERS = "answers.jsonl"
MAX_PENDING_BYTES = 64 << 20
# What a file takes on most disks, at least.
BLOCK_BYTES = 4096


class Recorder:
    """Keeps images in a thread of its own, up to a number of bytes; then it stops, and the oldest stay.

    Parameters
    ----------
    folder
        It is made if it is missing, and counts with what is in it.
    limit_bytes
        Of all images and answers, on the disk.
    """

    def __init__(self, folder: Path, limit_bytes: int, measurements: Measurements) -> None:
        self._measurements = measurements
        self._folder = folder / UNLABELED
        self._limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._n_bytes = sum(_count_bytes(entry.stat().st_size) for entry in os.scandir(self._folder) if entry.is_file())
        self._n_pending_bytes = 0
        self._lock = threading.Lock()  # of the line above
        self._stopped = False
        self._executor = ThreadPoolExecutor(1, "record")

    def record(self, content: bytes, answer: dict[str, Any]) -> None:
        """Keep the bytes of an image, and its answer, whose `sha256` is that of the image; do not wait for the disk."""
        if self._stopped:
            return
        with self._lock:
            is_full = self._n_pending_bytes + len(content) > MAX_PENDING_BYTES
            self._n_pending_bytes += 0 if is_full else len(content)
        if is_full:
            self._measurements.refuse("not recorded", f"{MAX_PENDING_BYTES:,} bytes wait for the disk")
            return
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **answer}) + "\n"
        self._executor.submit(self._write, content, answer["sha256"], line.encode())

    def _write(self, content: bytes, sha256: str, line: bytes) -> None:
        try:
            path = self._folder / f"{sha256}.{(recognize_format(content) or 'bin').lower()}"
            is_new = not path.exists()
            n_bytes = len(line) + (_count_bytes(len(content)) if is_new else 0)
            if self._stopped or self._n_bytes + n_bytes > self._limit_bytes:
                self._stop(f"{self._limit_bytes:,} bytes are full")
                return
            if is_new:
                _write_image(path, content)
            with (self._folder / ANSWERS).open("ab") as file:
                file.write(line)
            self._n_bytes += n_bytes
        except OSError as error:
            self._stop(error.strerror or type(error).__name__)
        finally:
            with self._lock:
                self._n_pending_bytes -= len(content)

    def _stop(self, reason: str) -> None:
        if not self._stopped:
            self._stopped = True
            log.warning("%s: no more images are recorded: %s", self._folder, reason)

    def close(self) -> None:
        """Write what waits."""
        self._executor.shutdown()


def _count_bytes(n_bytes: int) -> int:
    """Return the bytes that a file of this length takes on the disk."""
    return -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _write_image(path: Path, content: bytes) -> None:
    """Write a file whole; `write_file` would list the folder each time."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
