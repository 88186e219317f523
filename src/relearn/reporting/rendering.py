"""Pages from the templates of this folder."""

from pathlib import Path
from typing import Any


def render_page(template: str, **values: Any) -> bytes:
    """Return a page from a template of this folder; all values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(Path(__file__).parent),
    )
    return environment.get_template(template).render(**values).encode()
