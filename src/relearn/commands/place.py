"""Where a command runs: at the root of the repository, with the paths of its arguments from where the user is."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import relearn
from relearn import paths
from relearn.errors import IntegrityError, ParamsError
from relearn.repository.root import find_root

if TYPE_CHECKING:
    from relearn.params.pipeline import Params

log = logging.getLogger(__name__)


def enter_root(*, is_needed: bool = True, needs_params: bool = False) -> Path:
    """Make the repository's root the current folder, and return the folder that the paths of arguments start from.

    That is an absolute path, or an empty one where the user is at the root. A wrong params.yaml is a warning here,
    because the command may not need it: DVC notices no unknown key, as no stage depends on it.

    Parameters
    ----------
    is_needed
        Whether it is an error if there is no root; else the current folder stays.
    needs_params
        Whether the command reads params.yaml, and so reports by itself what is wrong.
    """
    here = Path.cwd()
    try:
        root = find_root(here)
    except ParamsError:
        if is_needed:
            raise
        return Path()
    os.chdir(root)
    if not needs_params:
        try:
            read_root_params()
        except ParamsError as error:
            log.warning("warning: %s", error)
    return Path() if root == here else here


def read_root_params() -> "Params":
    """Read the params.yaml of the current folder; see `read_blocks`."""
    from relearn.params.pipeline import read_params  # a third of a second, which `relearn --help` would wait for

    return read_params(paths.PARAMS)


def warn_of_changes() -> None:
    """Log in a line which parameters and data changed since the results in the current folder were made."""
    from relearn.repository.inputs import describe_changed_inputs  # which no stage needs

    if sentence := describe_changed_inputs(Path()):
        log.warning("warning: %s", sentence)


def locate(here: Path, name: str) -> str:
    """Return the path of what an argument names in a folder; the argument itself if nothing there has its name."""
    return str(here / name) if os.path.lexists(here / name) else name


def check_code(folder: Path) -> None:
    """Raise `IntegrityError` if the folder is a clone, and the code that runs is that of another clone.

    DVC would record the hashes of the code in the folder instead of those of the code that ran.
    """
    ours, theirs = Path(relearn.__file__).parent, folder / "src" / "relearn"
    if (theirs / "cli.py").is_file() and not theirs.samefile(ours):
        raise IntegrityError(
            wanted=f"the code of this folder, {theirs}",
            got=f"that of {ours}",
            advice="run `make setup`, then `source .venv/bin/activate` here",
        )
