"""`dvc repro` under the lock of the repository, so that it and a retraining never run at once.

Usage: python -m flows.repro [ARGUMENT OF dvc repro]...
"""

import os
import sys

from flows.child import ROOT, exit_with
from relearn.errors import Locked, RelearnError
from relearn.params.pipeline import read_params
from relearn.paths import PARAMS
from relearn.repository.lock import LOCK, hold_lock


def main() -> None:
    """Become `dvc repro`, which keeps the lock as long as it lives.

    The parameters are checked first: DVC needs seconds to reach the stage that checks them, and may read a hostile file
    for ever.
    """
    try:
        with hold_lock(ROOT / LOCK, "make repro") as descriptor:
            read_params(ROOT / PARAMS)
            os.set_inheritable(descriptor, True)
            os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", *sys.argv[1:]])  # noqa: S606
    except Locked as error:
        exit_with(Locked(str(error), advice="try again when it has ended"))
    except RelearnError as error:
        exit_with(error)
    except OSError as error:  # a full disk, no right to write
        exit_with(RelearnError(error.strerror or str(error), where=error.filename or LOCK))


if __name__ == "__main__":
    main()
