"""Run a command that never outlives the one who asked for it.

Usage: python supervise.py COMMAND [ARGUMENT...], started as the leader of a new session with a pipe as its stdin.

When the other end of the pipe closes, be it in good order or because its owner was killed, the whole process group is
ended: SIGTERM, and SIGKILL to what is left after some seconds. `dvc` alone would leave the stage that it runs behind.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 5
LAST_SECONDS = 0.5


def main(command: list[str]) -> int:
    """Run `command`, and return its exit code, or 128 + the signal that ended it."""
    # A handler and not SIG_IGN, which the child would inherit.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    is_alone = threading.Event()
    watcher = threading.Thread(target=_watch_owner, args=(child, is_alone), daemon=True)
    watcher.start()
    code = child.wait()
    if is_alone.is_set():
        watcher.join()  # which ends this process with the rest of the group
    os.killpg(0, signal.SIGTERM)  # whatever it left behind
    return code if code >= 0 else 128 - code


def _watch_owner(child: "subprocess.Popen[bytes]", is_alone: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    is_alone.set()
    os.killpg(0, signal.SIGTERM)
    try:
        child.wait(GRACE_SECONDS)
        time.sleep(LAST_SECONDS)  # for those below it
    except subprocess.TimeoutExpired:
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
