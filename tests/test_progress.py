import io
import logging
import sys

from relearn import progress
from relearn.progress import track_progress


def test_log_says_how_far(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "relearn"):
        assert list(track_progress("abc", 3, "extract")) == ["a", "b", "c"]
    lines = caplog.text.splitlines()
    assert len(lines) == 4
    assert "extract: 2 of 3 images, " in lines[1]
    assert " images/s, " in lines[1]
    assert lines[1].endswith(" s left")
    assert "extract: 3 images in " in lines[-1]


def test_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track_progress(range(3), 3, "extract")) == [0, 1, 2]
    assert "extract" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
