"""Messages in the reader's language: English in the code, 简体中文 in a gettext catalog.

A message is written once, in English, where it is used: `tr("{name}: no such file", name=path.name)`. Its translation
is in `locale/zh_CN/LC_MESSAGES/hanlin.po`, with the same `{placeholders}`; `make messages` brings the catalog up to
date, and building the package compiles it to the `hanlin.mo` that is read here.
"""

from __future__ import annotations

import functools
import gettext
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]

LOCALE = Path(__file__).resolve().parents[1] / "locale"
DOMAIN = "hanlin"
_LOCALES = {"zh": "zh_CN"}
_CHOSEN: ContextVar[Language | None] = ContextVar("language", default=None)
"""What `use_language` chose for the work at hand; None: the process's language."""


def language() -> Language:
    """The reader's language: what `use_language` chose, or `HANLIN_LANG` (`zh`, `en`), or the environment's locale."""
    if (in_context := _CHOSEN.get()) is not None:
        return in_context
    chosen = os.environ.get("HANLIN_LANG")
    if not chosen:
        chosen = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


@contextmanager
def use_language(chosen: Language) -> Iterator[None]:
    """Messages made inside the block, and in tasks and threads that it starts, are in this language.

    A server answers readers of both languages at once, so that the process's language cannot decide.
    """
    token = _CHOSEN.set(chosen)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


@functools.cache
def _catalog(name: Language) -> gettext.NullTranslations:
    locales = [_LOCALES[name]] if name in _LOCALES else []
    return gettext.translation(DOMAIN, LOCALE, locales, fallback=True) if locales else gettext.NullTranslations()


def translate(message: str, to: Language) -> str:
    """The translation of a message, its placeholders not filled in; the message itself if there is none."""
    return _catalog(to).gettext(message) if message else message


def translations(to: Language) -> list[str]:
    """All messages in a language: a sample of plain text that is always at hand; empty for English."""
    return list(getattr(_catalog(to), "_catalog", {}).values())


def tr(message: str, /, **values: object) -> str:
    """A message in the reader's language with its placeholders filled in.

    Args:
        message: The English text, a literal (the catalog is made from literals), with `{name}` for each value.
        values: What the placeholders stand for. A message without values is not formatted, so its braces are text.

    Example:
        `tr("{rows:,} rows in {path}", rows=1200, path="a.jsonl")` is `1,200 rows in a.jsonl`.
    """
    text = translate(message, language())
    return text.format(**values) if values else text


def mark(message: str) -> str:
    """Mark a message of a table for the catalog; it is translated by `tr` where it is shown."""
    return message


def join_list(items: Iterable[object]) -> str:
    """Join names for a message: `a, b, c` in English, `a、b、c` in Chinese."""
    return ("、" if language() == "zh" else ", ").join(map(str, items))
