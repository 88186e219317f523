"""The model that answers, and the next one: loaded and tried beside it, then put in its place."""

import logging
import math
import os
import time
from pathlib import Path

import numpy as np

from relearn.errors import IntegrityError, RelearnError
from relearn.inference.exported import ADVICE, MODEL, RECORD, read_export_record
from relearn.runtime.text import escape_controls
from relearn.serving.measurements import Measurements
from relearn.serving.served import ServedModel
from relearn.storage.files import hash_file

log = logging.getLogger(__name__)

# A failure may pass, such as one of memory: the same files are tried again after this time.
RETRY_SECONDS = 60
THREADS_ADVICE = "serve it with one thread (RELEARN_THREADS=1), or export the classifier again with `relearn export`"

Stamp = tuple[str, tuple[tuple[int, int, int], ...]]


class Follower:
    """The newest model of a folder that could be loaded.

    Parameters
    ----------
    folder
        What `relearn export` wrote, or a link to such a folder, which is followed each time.

    Attributes
    ----------
    model : ServedModel
        The one that answers. A request keeps the one that it began with.
    failure : str or None
        Why the newest model could not be loaded, without paths; None if it is the one that answers.

    Raises
    ------
    IntegrityError
        There is no model in the folder, it is damaged, or it fails its test.
    """

    def __init__(self, folder: Path, measurements: Measurements) -> None:
        self._folder = folder
        self._measurements = measurements
        stamp = _stamp_files(folder)
        self._stamp: Stamp | None = stamp
        self._retry_at = math.inf
        self.model = load_model(Path(stamp[0]))
        self.failure: str | None = None
        measurements.name_model(self.model.record)

    def check(self) -> None:
        """Look whether the folder holds another model now; if it does, load it, and let it answer."""
        before, self._stamp = self._stamp, None
        try:
            self._stamp = stamp = _stamp_files(self._folder)
            if stamp == before and time.monotonic() < self._retry_at:
                return
            self._retry_at = math.inf
            # The link may be switched meanwhile: read where it led when the stamp was taken.
            folder = Path(stamp[0])
            record = read_export_record(folder)
            is_same = record == self.model.record and hash_file(folder / MODEL) == record.model_sha256
            if not is_same or self.failure:
                self.model = load_model(folder)
                self._measurements.name_model(self.model.record)
                self._measurements.reloads.labels("done").inc()
                log.info("%s is now %s", self._folder, describe_model(self.model))
            self._note(None)
        except Exception as error:  # noqa: BLE001  # whatever the files hold, the model that answers stays
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._note(error)

    def _note(self, error: Exception | None) -> None:
        self._measurements.failed.set(error is not None)
        if error is None:
            self.failure = None
            return
        failure = _leave_out_path(error)
        if failure != self.failure:
            self._measurements.reloads.labels("failed").inc()
            reason = escape_controls(str(error)) if isinstance(error, RelearnError | OSError) else repr(error)
            log.error("%s stays in use, because the next one failed: %s", describe_model(self.model), reason)
        self.failure = failure


def load_model(folder: Path) -> ServedModel:
    """Load a model, and try both of its sessions on one image.

    Raises
    ------
    IntegrityError
        It is missing or damaged, returns no probabilities, or not the same ones from both.
    """
    model = ServedModel(folder)
    size_px = model.record.image_size_px
    image = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), np.uint8)
    first, second = (model.predict_one(image, on_all_cores=on_all_cores) for on_all_cores in (True, False))
    if first.tobytes() != second.tobytes():
        wanted = "the same probabilities of the same image with any number of threads"
        raise IntegrityError(where=folder / MODEL, wanted=wanted, got="others", advice=THREADS_ADVICE)
    return model


def describe_model(model: ServedModel) -> str:
    """Return the version of a model and the beginning of its hash."""
    return f"{model.record.version or 'a model without a version'} (sha256 {model.record.model_sha256[:12]})"


def _stamp_files(folder: Path) -> Stamp:
    """Return what changes with the files of a model: where they are, and inode, time and size of each."""
    target = os.path.realpath(folder)
    if not os.path.lexists(os.path.join(target, RECORD)):
        raise IntegrityError("no exported model there", where=folder, advice="make one with `relearn export`")
    if not os.path.lexists(os.path.join(target, MODEL)):
        raise IntegrityError(f"{MODEL} is missing", where=folder, advice=ADVICE)
    statuses = [os.stat(os.path.join(target, name)) for name in (RECORD, MODEL)]
    return target, tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in statuses)


def _leave_out_path(error: Exception) -> str:
    """Return the reason as anyone may read it."""
    if isinstance(error, RelearnError):
        return str(error).removeprefix(f"{error.where}: ")
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
