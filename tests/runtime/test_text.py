"""Names of anyone, shown: Markdown is rendered by an independent library, terminals obey control characters."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import render_markdown
from relearn.runtime.text import (
    count_nouns,
    escape_controls,
    escape_lines,
    escape_markdown,
    format_json,
    holds_control_character,
)

NAMES = [
    "![x](http://host/x.png)",
    "[x](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<!-- x -->",
    "a|b",
    "a\\|b",
    "`x`",
    "``x",
    "*x* _x_ __x__ ~~x~~",
    "# x",
    "- x",
    "1. x",
    "> x",
    "---",
    "&lt;img&gt; &#60;",
    "http://host www.host.com a@host.com <http://host>",
    "\\",
    "x\\",
    ":x: $x$ ^x^",
    "[x]: http://host",
    "x\ny",
    "\x1b]8;;http://host\x07x\x1b]8;;\x07",
    "Crème brûlée",
    "写真\u3000一",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_show_as_they_are_in_markdown(name):
    shown, tags = render_markdown(f"- {escape_markdown(name)} end")
    assert shown.strip() == f"{escape_controls(name)} end"
    assert tags == {"ul", "li"}
    shown, tags = render_markdown(f"| a | b |\n| --- | --- |\n| {escape_markdown(name)} | second |")
    assert escape_controls(name) in shown
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert shown.split()[-1] == "second"
    shown, tags = render_markdown(f"{escape_markdown(name)}, taken for x")
    assert shown.strip() == f"{escape_controls(name)}, taken for x"
    assert tags == {"p"}


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Zs"])))
def test_any_name_shows_as_it_is_in_markdown(name):
    shown, tags = render_markdown(f"x{escape_markdown(name)}x")
    assert shown.strip() == f"x{escape_controls(name)}x"
    assert tags == {"p"}


@given(st.text())
def test_any_text_is_one_line_without_control_characters(text):
    shown = escape_controls(text)
    assert not holds_control_character(shown)
    assert not any(unicodedata.category(letter) == "Cs" for letter in shown)
    assert shown.isascii() or shown.encode()
    assert [escape_controls(line) for line in text.split("\n")] == escape_lines(text).split("\n")


@given(st.dictionaries(st.text(), st.text()))
def test_json_is_the_same_value_without_control_characters(value):
    text = format_json(value)
    assert json.loads(text) == value
    assert not any(holds_control_character(line) for line in text.split("\n"))


def test_what_people_write_stays():
    for name in ("Crème brûlée", "写真\u3000一", "क्\u200dष", "👩\u200d🌾", "a\u00a0b"):
        assert escape_controls(name) == name
    assert escape_controls("\x1b[2J\x9b\x7f\u202e\udcff") == "\\u001b[2J\\u009b\\u007f\\u202e\\udcff"


def test_one_thing_has_no_plural():
    assert [count_nouns(number, "file") for number in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
