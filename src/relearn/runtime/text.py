"""Names and messages as a terminal, a Markdown page and a JSON file may show them.

The name of a file or a class comes from anyone who can add an image. It must neither control a terminal nor become part
of a page.
"""

import json
import string
import unicodedata
from typing import Any

# Control characters, direction marks, lone surrogates, line separators. Joiners are part of words and emoji.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
_MARKDOWN = set(string.punctuation) - set("/,;?%'\"")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\\": "&#92;"}


def is_control_character(character: str) -> bool:
    """Return whether a character breaks a line or controls a terminal; spaces and joiners of all kinds do not."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def holds_control_character(name: str) -> bool:
    """Return whether a name holds a control character."""
    return any(is_control_character(character) for character in name)


def escape_controls(text: str) -> str:
    r"""Return text in one line that a terminal prints as it is, with control characters escaped as in JSON: `\n`."""
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if _is_unprintable(c) else c for c in text)


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE and character not in _JOINERS


def escape_lines(text: str) -> str:
    """Return text of several lines, each escaped by `escape_controls`."""
    return "\n".join(map(escape_controls, text.split("\n")))


def count_nouns(number: int, noun: str) -> str:
    """Return a number of things in words: `1 file`, `2,000 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escape_markdown(text: str) -> str:
    """Return text that Markdown and HTML show as it is, also in a table cell.

    CommonMark 0.31, sections 2.4 and 2.5: a backslash removes the meaning of any ASCII punctuation, and an entity has
    none. Characters that begin HTML, a cell or an escape become entities, because some renderers look for these first.
    """
    return "".join(_ENTITIES.get(c, f"\\{c}") if c in _MARKDOWN else c for c in escape_controls(text))


def format_json(value: Any) -> str:
    """Return `value` as indented JSON that is safe to print on a terminal."""
    return escape_lines(json.dumps(value, indent=2, ensure_ascii=False))
