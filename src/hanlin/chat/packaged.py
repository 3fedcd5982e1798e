"""The chat templates that come with Hanlin (`templates/*.jinja`), by name."""

from __future__ import annotations

import functools
import re
from importlib import resources

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr

_SPECIAL_WORD = re.compile(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>")


def packaged_names() -> tuple[str, ...]:
    """Names of the packaged chat templates."""
    files = (resources.files("hanlin.chat") / "templates").iterdir()
    return tuple(sorted(file.name.removesuffix(".jinja") for file in files if file.name.endswith(".jinja")))


def packaged_special_tokens(name: str) -> tuple[str, ...]:
    """The special tokens that a packaged template writes. Raises UserError if there is no such template."""
    return tuple(dict.fromkeys(_SPECIAL_WORD.findall(read_packaged_template(name))))


@functools.cache
def read_packaged_template(name: str) -> str:
    """Source of a packaged template. Raises UserError if there is no such template."""
    if name not in packaged_names():
        raise UserError(
            tr("there is no packaged chat template {name!r}", name=name),
            "template",
            did_you_mean(name, packaged_names()),
        )
    return (resources.files("hanlin.chat") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


@functools.cache
def packaged_template_sources() -> frozenset[str]:
    """The Jinja source of every packaged template."""
    return frozenset(read_packaged_template(name) for name in packaged_names())
