"""Commands in process groups of their own, which end with the process that started them."""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from relearn.errors import OutOfTime, RelearnError
from relearn.runtime.text import escape_controls, escape_lines

ROOT = Path(__file__).resolve().parent.parent
SUPERVISE = ROOT / "flows" / "supervise.py"
N_LAST_LINES = 10


def _list_variables() -> dict[str, str]:
    """Return this process's environment with what DVC and its stages need."""
    return {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
        # The `python` of dvc.yaml is this one.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def exit_with(error: RelearnError) -> NoReturn:
    """End this process with an error in words and the exit code of its family."""
    sys.stderr.write(escape_lines(f"relearn: {error}") + "\n")
    sys.exit(error.exit_code)


def run_child(
    command: list[str],
    report: Callable[[str], None] | None = None,
    *,
    parse: Callable[[str], None] | None = None,
    folder: Path = ROOT,
    variables: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    deadline: float | None = None,
) -> tuple[int, list[str]]:
    """Run a command in its own process group, and report each line that is not blank as it comes.

    However this function ends, and even if this process is killed, no process of the group goes on.

    Parameters
    ----------
    report
        Gets each line as a log may show it; see `escape_controls`.
    parse
        Gets each line as it is, without its end.
    variables
        Of the environment, beside this process's own.
    descriptors
        Open files that the group holds open too, such as a lock.
    deadline
        By `time.monotonic()`: when the group is ended.

    Returns
    -------
    The exit code and the last lines, as a log may show them.

    Raises
    ------
    OutOfTime
        The deadline came first.
    """
    last_lines: deque[str] = deque(maxlen=N_LAST_LINES)
    late = threading.Event()
    with subprocess.Popen(
        [sys.executable, str(SUPERVISE), *command],
        cwd=folder,
        env=_list_variables() | dict(variables or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=descriptors,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        owner = child.stdin

        def _end() -> None:
            late.set()
            owner.close()

        timer = threading.Timer(max(0, deadline - time.monotonic()), _end) if deadline is not None else None
        try:
            if timer:
                timer.start()
            for line in child.stdout:
                if not line.strip():
                    continue
                shown = escape_controls(line.rstrip().expandtabs())
                last_lines.append(shown)
                if report:
                    report(shown)
                if parse:
                    parse(line.rstrip("\n"))
        finally:
            if timer:
                timer.cancel()
            owner.close()
            child.wait()
    if late.is_set():
        last = last_lines[-1] if last_lines else "none"
        raise OutOfTime(f"ended, because the time limit has passed; its last line: {last}", where=" ".join(command[1:]))
    return child.returncode, list(last_lines)
