"""`python -m relearn`, as DVC runs the stages: with the code of the current folder, whose hashes DVC records.

What is installed may be the code of another folder: of another clone, or of the clone that an experiment in a temporary
folder (`dvc exp run --temp`) was started from.
"""

import os
import sys
from pathlib import Path

here = Path("src").absolute()
search_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if (
    (here / "relearn" / "__main__.py").is_file()
    and not (here / "relearn").samefile(Path(__file__).parent)
    and search_path[0] != str(here)
):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *filter(None, search_path)])}
    os.execve(sys.executable, [sys.executable, "-m", "relearn", *sys.argv[1:]], environment)  # noqa: S606

from relearn.cli import main  # noqa: E402

main()
