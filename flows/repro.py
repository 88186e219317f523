"""`dvc repro` under the lock of the repository, so that it and a retraining never run at once.

Usage: python -m flows.repro [ARGUMENT OF dvc repro]...
"""

import os
import sys

from flows.child import ROOT
from relearn.errors import Locked, RelearnError
from relearn.params import read_params
from relearn.paths import PARAMS
from relearn.repository.lock import LOCK, hold_lock
from relearn.runtime.text import escape_lines


def main() -> None:
    """Become `dvc repro`, which keeps the lock as long as it lives.

    The parameters are checked first: DVC would take seconds to come to the stage that checks them, and for ever to read
    a file that is made so.
    """
    try:
        with hold_lock(ROOT / LOCK, "make repro") as descriptor:
            read_params(ROOT / PARAMS)
            os.set_inheritable(descriptor, True)
            os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", *sys.argv[1:]])  # noqa: S606
    except Locked as error:
        sys.exit(escape_lines(f"relearn: {error}; try again when it has ended"))
    except RelearnError as error:
        sys.exit(escape_lines(f"relearn: {error}"))
    except OSError as error:  # the disk is full, or may not be written
        sys.exit(escape_lines(f"relearn: {error.filename or LOCK}: {error.strerror or error}"))


if __name__ == "__main__":
    main()
