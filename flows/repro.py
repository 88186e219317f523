"""`dvc repro` under the lock of the repository, so that it and a retraining never run at once.

Usage: python -m flows.repro [ARGUMENT OF dvc repro]...
"""

import os
import sys

from flows.child import ROOT
from relearn.errors import RelearnError
from relearn.lock import LOCK, hold_lock


def main() -> None:
    """Become `dvc repro`, which keeps the lock as long as it lives."""
    try:
        with hold_lock(ROOT / LOCK, "make repro") as descriptor:
            os.set_inheritable(descriptor, True)
            os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", *sys.argv[1:]])  # noqa: S606
    except RelearnError as error:
        sys.exit(f"relearn: {error}; try again when it has ended")


if __name__ == "__main__":
    main()
