"""The two languages of the project, 简体中文 and English: which a person is spoken to in, and which a text is in.

Owns the choice: every message stands beside its translation where it is used. Owns, too, how a text's own language is
told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


def chinese() -> bool:
    """Whether messages are in Chinese: by `HANLIN_LANG` (`zh` or `en`), else by the locale of the environment."""
    chosen = os.environ.get("HANLIN_LANG")
    if not chosen:
        chosen = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return chosen.lower().startswith("zh")


def say(en: str, zh: str) -> str:
    """The one of two texts of equal meaning that the reader wants."""
    return zh if chinese() else en


def join_list(items: Iterable[object]) -> str:
    """Join names for a message: `a, b, c` in English, `a、b、c` in Chinese."""
    return say(", ", "、").join(map(str, items))
