"""What can go wrong for a reason that the person at the keyboard can mend."""


class RelearnError(Exception):
    """The root: its text is for a person, and says what was wanted, what came, where, and what to do."""


class ParamsError(RelearnError):
    """`params.yaml` is not what the stages agreed on."""


class SourceError(RelearnError):
    """The images to learn from cannot be found, opened or told apart."""


class ImageError(RelearnError):
    """One file cannot be read as an image; the text is the reason alone."""


class IntegrityError(RelearnError):
    """A file is missing, damaged, or not the one that its record names."""


class ValidationFailed(RelearnError):
    """The data did not pass the gate."""


class NetworkError(RelearnError):
    """The network, a layer of it or its weights cannot be had."""


class StoreError(RelearnError):
    """The store of features cannot hold what it must."""


class TrainingError(RelearnError):
    """The features do not allow a classifier to be fitted or judged."""


class ComparisonError(RelearnError):
    """Two revisions cannot be compared."""


class RepositoryError(RelearnError):
    """The git repository is not in the state that a retraining needs."""
