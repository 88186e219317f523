"""`dvc repro` under the lock of the repository, so that it and a retraining never run at once.

Usage: python -m flows.repro [ARGUMENT OF dvc repro]...
"""

import os
import sys
from pathlib import Path

from flows.child import ROOT, exit_with
from relearn.errors import Locked, RelearnError, SourceError
from relearn.params.pipeline import read_params
from relearn.paths import PARAMS
from relearn.repository.lock import LOCK, hold_lock


def check_inputs(root: Path) -> None:
    """Raise what DVC notices late, in words of its own, or not at all.

    Raises
    ------
    ParamsError
        `params.yaml` is wrong.
    SourceError
        The images are not there, and no `.dvc` file says where they come from.
    """
    source = read_params(root / PARAMS).restructure.source
    path = root / source
    if not path.exists() and not any(Path(f"{part}.dvc").exists() for part in (path, *path.parents)):
        advice = "put the images there, or set restructure.source"
        raise SourceError("no such file or folder", where=source, advice=advice)


def main() -> None:
    """Become `dvc repro`, which keeps the lock as long as it lives.

    Parameters and source are checked first: DVC needs seconds to reach the stage that checks them, and may read a
    hostile file for ever.
    """
    try:
        with hold_lock(ROOT / LOCK, "make repro") as descriptor:
            check_inputs(ROOT)
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
