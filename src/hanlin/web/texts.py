"""The reader's language of a request, and the messages of scripts."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from hanlin.core.i18n import Language, translate

STATIC = Path(__file__).parent / "static"
LANGUAGE_COOKIE = "hanlin_language"
LOCALE_OF: dict[Language, str] = {"en": "en", "zh": "zh-CN"}
"""The value of the attribute `lang` of a page."""
_IN_SCRIPTS = re.compile(r"""\bt\(\s*"((?:[^"\\]|\\.)*)\"""")


def choose_language(cookie: str | None, accept_language: str | None, default: Language) -> Language:
    """The language in which a request is answered.

    Args:
        cookie: What the reader switched to, if it is a language.
        accept_language: The header `Accept-Language`, as in `zh-CN,zh;q=0.9,en;q=0.8`.
        default: The language if neither names one that there is.
    """
    if cookie == "zh":
        return "zh"
    if cookie == "en":
        return "en"
    ranked: list[tuple[float, Language]] = []
    for entry in (accept_language or "")[:1000].split(","):
        name, _, parameters = entry.strip().partition(";")
        weight = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", parameters)
        language: Language | None = {"zh": "zh", "en": "en"}.get(name.partition("-")[0].strip().lower())  # type: ignore[assignment]
        if language is not None:
            ranked.append((float(weight[1]) if weight else 1.0, language))
    best = max(ranked, key=lambda pair: pair[0], default=(0.0, default))
    return best[1] if best[0] > 0 else default


@functools.cache
def find_messages(script: str) -> tuple[str, ...]:
    """The messages of a script below `static/`: the literals of its calls `t("...")`, as `make messages` finds them."""
    text = (STATIC / script).read_text(encoding="utf-8")
    return tuple(dict.fromkeys(match[1].replace('\\"', '"') for match in _IN_SCRIPTS.finditer(text)))


@functools.cache
def translate_scripts(scripts: tuple[str, ...], language: Language) -> dict[str, str]:
    """For some scripts each message with its translation; empty for English, which is what the scripts hold."""
    if language == "en":
        return {}
    messages = (message for script in scripts for message in find_messages(script))
    return {message: translate(message, language) for message in messages}
