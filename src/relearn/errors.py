"""What can go wrong for a reason that the user can fix, and the exit code that says so.

| exit code | family |
|---|---|
| 0 | done |
| 1 | done in part: some inputs of `relearn predict` or `relearn explain` could not be read as images |
| 2 | wrong usage: an argument or an option |
| 3 | wrong parameters: `params.yaml` or a variable |
| 4 | bad data: sources, images, a gate that did not pass, features that no head can be fitted on |
| 5 | lost integrity: a file is missing, damaged, or not the one that its record names |
| 6 | environment: memory, disk, libraries, weights, git, another process, time |
"""

from typing import Any


class RelearnError(Exception):
    """The root of all errors whose text is for a user: wanted X, got Y; do Z.

    Parameters
    ----------
    problem
        What went wrong, where `wanted` and `got` do not say it.
    where
        The path, row, key or command that it concerns; the text begins with it.
    wanted, got
        What was expected, and what came instead.
    advice
        What to do; the text ends with it.
    """

    exit_code = 6

    def __init__(
        self,
        problem: str = "",
        *,
        where: object = None,
        wanted: object = None,
        got: object = None,
        advice: str | None = None,
    ) -> None:
        self.where, self.wanted, self.got, self.advice = where, wanted, got, advice
        facts = {"wanted": wanted, "got": got}
        parts = [problem, *(f"{name} {fact}" for name, fact in facts.items() if fact is not None)]
        text = ", ".join(part for part in parts if part)
        super().__init__(("" if where is None else f"{where}: ") + text + (f"; {advice}" if advice else ""))


class ParamsError(RelearnError):
    """A parameter or a variable is not what the stages agreed on."""

    exit_code = 3


class DataError(RelearnError):
    """The root of what is wrong with data."""

    exit_code = 4


class SourceError(DataError):
    """The images to learn from cannot be found, opened or distinguished."""


class UnreachableSource(SourceError):
    """The source could not be reached; another try may succeed."""


class MisplacedFile(SourceError):
    """A file has no place in the layout of its source; the text is the reason alone."""


class NotTaken(SourceError):
    """A file of a landing folder cannot be taken; the text is the reason alone."""


class ImageError(DataError):
    """One file cannot be read as an image; the text is the reason alone."""


class DamagedImage(ImageError):
    """The file contradicts its format."""


class UnsupportedImage(ImageError):
    """The file may be sound, but its pixels are not read."""


class OutOfMemory(ImageError):
    """The machine could not decode the file now; that is no property of the file, and is not kept."""

    exit_code = RelearnError.exit_code


class ValidationFailed(DataError):
    """The data did not pass a gate."""


class TrainingError(DataError):
    """The features do not allow a head to be fitted or evaluated."""


class ComparisonError(DataError):
    """Two revisions cannot be compared."""


class IntegrityError(RelearnError):
    """A file is missing, damaged, or not the one that its record names."""

    exit_code = 5


class AbsentFile(IntegrityError):
    """No place has a file of a commit."""


class LostFeatures(IntegrityError):
    """The feature store had the features of an image, and has them no more."""


class NetworkError(RelearnError):
    """The network, a layer of it, its weights or its backend cannot be used."""


class UnfitFeature(NetworkError):
    """A feature is NaN, infinite, or too large for its dtype; `row` is the image's number in the batch, from 0."""

    def __init__(self, problem: str = "", *, row: int = 0, **facts: Any) -> None:
        super().__init__(problem, **facts)
        self.row = row


class UnlikeWorker(NetworkError):
    """A worker of the cluster computes features by another recipe than this machine."""


class StoreError(RelearnError):
    """The feature store cannot hold what it must."""


class RepositoryError(RelearnError):
    """The git repository is not in the state that a command needs."""


class Locked(RelearnError):
    """Another process has the lock."""


class CommandFailed(RelearnError):
    """A command ended with another exit code than 0."""


class OutOfTime(RelearnError):
    """A command ran longer than it may."""
