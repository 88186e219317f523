import io
import logging
import sys

import pytest

from relearn.runtime import progress
from relearn.runtime.progress import track_progress


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


def test_items_may_count_for_more_than_one(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "relearn"):
        assert list(track_progress(["ab", "c"], 3, "evaluate", "resamples", count=len)) == ["ab", "c"]
    assert "evaluate: 2 of 3 resamples, " in caplog.text
    assert "evaluate: 3 resamples in " in caplog.text


def test_items_may_count_for_a_part(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "relearn"):
        assert list(track_progress("abc", 1, "train", "values of C", count={"a": 0, "b": 0.25, "c": 0.75}.get)) == [
            *"abc"
        ]
    lines = caplog.text.splitlines()
    assert len(lines) == 3  # nothing is done with the first
    assert "train: 0.25 of 1 values of C, " in lines[0]
    assert "train: 1 of 1 values of C, " in lines[1]
    assert "train: 1 values of C in " in lines[2]


class Clock:
    """Stands for the module `time`."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def batches(monkeypatch):
    """Seven items in batches of three, of which the first takes 100 s and the others 12 s."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)

    def make():
        for number in range(7):
            clock.now += {0: 100, 3: 12, 6: 12}.get(number, 0)
            yield number

    return make()


def test_time_left_is_estimated_from_the_second_batch_on(batches, caplog):
    with caplog.at_level(logging.INFO, "relearn"):
        assert list(track_progress(batches, 7, "extract", batch_size=3)) == [*range(7)]
    assert caplog.messages == [
        "extract: 3 of 7 images",
        "extract: 6 of 7 images, 0.25 images/s, 4 s left",
        "extract: 7 of 7 images, 0.17 images/s, 0 s left",
        "extract: 7 images in 124.0 s, 0.056 images/s",
    ]


def test_bar_counts_whole_batches(batches, monkeypatch):
    from rich.progress import Progress

    counts = []
    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda *arguments: (counts.append(arguments[2]), advance(*arguments)))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(track_progress(batches, 7, "extract", batch_size=3)) == [*range(7)]
    assert counts == [3, 3, 1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [Terminal, io.StringIO])
def test_what_is_quick_shows_nothing(terminal, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stderr = terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with caplog.at_level(logging.INFO, "relearn"):
        assert list(track_progress(range(3), 3, "train", quiet_seconds=60)) == [0, 1, 2]
    assert stderr.getvalue() + caplog.text == ""


def test_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track_progress(range(3), 3, "extract")) == [0, 1, 2]
    assert "extract" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
