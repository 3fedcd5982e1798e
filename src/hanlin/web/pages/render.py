"""The HTML pages that commands leave behind: one file each, in both languages, with nothing from outside.

Owns how a page is rendered (text of users is escaped) and written. Does not own what it shows (`report`, `commands`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def render(name: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None) -> str:
    """The page `name` of this folder with these values. What it lacks a value for is a bug of ours."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters or {})
    return environment.get_template(name).render(**values)


def write(path: Path, text: str) -> None:
    """Write a page at once or not at all."""
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(aside, path)
