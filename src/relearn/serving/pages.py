"""The two pages of the server, each in one file that asks nobody else for anything."""

import base64
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Page(NamedTuple):
    """HTML, and the Content-Security-Policy that allows its own style and script, and no other."""

    content: bytes
    policy: str


def read_page(name: str) -> Page:
    """Read a page of this folder, and put the style of both into it."""
    text, style = ((HERE / file).read_text(encoding="utf-8") for file in (name, "style.css"))
    text = text.replace("<style></style>", f"<style>\n{style}</style>")
    style, script = (_hash_element(text, element) for element in ("style", "script"))
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(text.encode(), policy)


def _hash_element(text: str, element: str) -> str:
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
