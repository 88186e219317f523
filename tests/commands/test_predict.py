import csv
import io
import json
import sys

import pytest

from relearn.commands.predict import print_answers
from relearn.inference.answers import Answer, Answers

HOSTILE = Answers(
    ["=cmd|'/C calc'!A0", 'a\u202e,"b'],
    [
        Answer("+1\x1b[2J.png", 'a\u202e,"b', [0.25, 0.75]),
        Answer("-x\udcff.png", "=cmd|'/C calc'!A0", [1.0, 0.0]),
    ],
    [("\x9b31m.png", "no such file")],
)


def test_csv_is_exact_for_programs(monkeypatch):
    """Also a cell that a spreadsheet would run: a mark before it would be another name."""
    shown = io.StringIO(newline="")
    monkeypatch.setattr(sys, "stdout", shown)
    print_answers(HOSTILE, "csv")
    rows = list(csv.reader(io.StringIO(shown.getvalue(), newline="")))
    assert rows[0] == ["path", "label", *(f"probability_{name}" for name in HOSTILE.classes)]
    assert [row[:2] for row in rows[1:]] == [[answer.path, answer.label] for answer in HOSTILE.answers]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_names_do_not_steer_a_terminal(monkeypatch, caplog, form):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", shown)
    print_answers(HOSTILE, form)
    for text in (shown.getvalue(), caplog.records[0].getMessage()):
        assert not any(letter in text for letter in "\x1b\x9b\u202e\udcff")
    assert r"+1\u001b[2J.png" in shown.getvalue()
    assert caplog.records[0].getMessage() == r"\u009b31m.png: no such file"
    if form == "json":
        assert [row["path"] for row in json.loads(shown.getvalue())] == [answer.path for answer in HOSTILE.answers]


def test_secrets_of_an_address_are_not_logged(capsys, caplog):
    """But printed as it was asked, so that a program finds its answer."""
    address = "https://example.org/x.png?key=secret"
    failures = [(address, "no"), ("https://me:secret@example.org/y.png", "no")]
    print_answers(Answers(["a"], [Answer(address, "a", [1.0])], failures), "csv")
    assert caplog.messages == ["https://example.org/x.png?...: no", "https://example.org/y.png: no"]
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{address},a,")
