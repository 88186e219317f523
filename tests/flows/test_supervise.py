import signal
import subprocess
import sys

import psutil

from conftest import ROOT, wait_for

SUPERVISE = ROOT / "flows" / "supervise.py"


def test_child_that_ignores_sigterm_is_killed(tmp_path):
    program = (
        "import os, pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(300)"
    )
    impatient = SUPERVISE.read_text().replace("GRACE_SECONDS = 5", "GRACE_SECONDS = 0.5")
    (tmp_path / "supervise.py").write_text(impatient)
    supervisor = subprocess.Popen(
        [sys.executable, tmp_path / "supervise.py", sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20)
    supervisor.stdin.close()
    assert supervisor.wait(20) == -signal.SIGKILL
    wait_for(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())), 10)
