"""Rendering of HTML pages: one file each, in both languages, without outside resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.core.i18n import translate

if TYPE_CHECKING:
    from markupsafe import Markup


def render_page(name: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None) -> str:
    """Render a template of this folder; texts of users are escaped.

    Args:
        name: File name of the template.
        values: Its variables.
        filters: Jinja filters beside the usual ones.

    Returns:
        The page.

    Raises:
        jinja2.UndefinedError: A variable of the template has no value.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters or {})
    environment.globals["t"] = in_both_languages
    page = environment.get_template(name).render(**values)
    # a row that was dropped for half a character is shown too, and so is a name of a file that is no UTF-8
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def in_both_languages(message: str, /, **values: object) -> Markup:
    """A message of the catalog in both languages, of which the page shows one; values are escaped."""
    return show_both(message.format(**values), translate(message, "zh").format(**values))


def show_both(english: str, chinese: str) -> Markup:
    """Two texts of equal meaning as HTML, of which the page shows one."""
    from markupsafe import Markup

    return Markup('<span class="zh">{}</span><span class="en">{}</span>').format(chinese, english)
