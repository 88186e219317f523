"""What the tasks of one retraining share, and the commands that they run."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger

from flows.artifacts import publish_left
from flows.child import ROOT, run_child
from flows.options import Options
from relearn import paths
from relearn.errors import CommandFailed
from relearn.params.pipeline import RetrainParams
from relearn.retraining.arrivals import Left, describe_left
from relearn.retraining.folders import HIDDEN
from relearn.runtime.text import escape_controls

DVC = [sys.executable, "-m", "dvc"]
STATE = Path(".relearn/retrain")
WORKTREE = ROOT / STATE / "relearn-retraining"  # git names its own folder for it like the last part
N_LEFT_LOGGED = 20


class Note(NamedTuple):
    """What a person should know beside how the run ended.

    key, what, left : the artifact that lists files, what they are, and each with the reason
    text : what the message of the run says; by default how many files these are, and the first of them
    """

    key: str
    what: str
    left: tuple[Left, ...]
    text: str = ""


class Job(NamedTuple):
    """What the tasks of one retraining share.

    base, params : the branch that is run, and its settings
    options : what this run does differently
    lock : descriptor of the lock, which every child holds too
    deadline : by `time.monotonic()`
    was_unpushed : whether an earlier run could not push
    notes : what a person should know beside how the run ended
    """

    base: str
    params: RetrainParams
    options: Options
    lock: int
    deadline: float
    was_unpushed: bool
    notes: list[Note]

    def execute(self, command: list[str], folder: Path = WORKTREE, parse: Callable[[str], None] | None = None) -> None:
        """Run a command in a folder, with the code that is there; its lines go to the log, or as they are to `parse`.

        Raises
        ------
        CommandFailed
            Its exit code is not 0; the message has its last lines.
        """
        code, last_lines = run_child(
            command,
            None if parse else get_run_logger().info,
            parse=parse,
            folder=folder,
            variables={
                "PYTHONPATH": str(folder / "src"),
                "RELEARN_CACHE": str(paths.find_cache().absolute()),
                "GIT_TERMINAL_PROMPT": "0",
            },
            descriptors=[self.lock],
            deadline=self.deadline,
        )
        if code:
            lines = "\n".join(last_lines)
            name = command[2:] if command[0] == sys.executable else command
            raise CommandFailed(f"ended with exit code {code}; its last lines:\n{lines}", where=" ".join(name))

    def note(self, text: str) -> None:
        """Report something: in the log now, at the end with the state."""
        get_run_logger().info("%s", escape_controls(text))
        self.notes.append(Note("", "", (), text))

    def note_left(self, left: Sequence[Left], what: str, key: str = "landing", text: str = "") -> None:
        """Report files that are not taken or not used: in the log now, at the end as an artifact and with the state."""
        lines = [f"{what}: {path}: {reason}" for path, reason in left[:N_LEFT_LOGGED]]
        lines += [f"{what}: and {len(left) - N_LEFT_LOGGED:,} more"] * (len(left) > N_LEFT_LOGGED)
        for line in lines:
            get_run_logger().warning("%s", escape_controls(line))
        if left:
            self.notes.append(Note(key, what, tuple(left), text))


def publish_notes(notes: Sequence[Note]) -> list[str]:
    """Publish what was noted, one artifact per key, and return it in short."""
    notes = list(dict.fromkeys(notes))  # a task that is tried again notes it again
    for key in dict.fromkeys(note.key for note in notes if note.left):
        publish_left(key, [(note.what, entry) for note in notes if note.key == key for entry in note.left])
    texts = []
    for note in notes:
        named = [entry for entry in note.left if entry.reason != HIDDEN]
        texts.append(note.text or (describe_left(named, note.what) if named else ""))
    return [text for text in texts if text]
