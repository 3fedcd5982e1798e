"""Errors that a user can fix: one sentence on what is wrong, where, and how to fix it.

A `UserError` ends a command with exit code 2 and without a traceback; any other exception is a bug in Hanlin.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from hanlin.core.i18n import join_list, tr


class UserError(Exception):
    """Bad input.

    Args:
        what: What is wrong.
        where: Its location: file, line, record id or setting.
        hint: How to fix it.
    """

    def __init__(self, what: str, where: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        return line if self.hint is None else line + tr(" (hint: {hint})", hint=self.hint)

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None, str | None]]:
        return (type(self), (self.what, self.where, self.hint))


class UnsupportedToolsError(UserError):
    """A chat template has no form for tools and their calls."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint for a misspelled name: the nearest known one, or all of them if none is near; None if there are none."""
    words = sorted(known)
    near = difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    if near:
        return tr("did you mean {near}?", near=near[0])
    if words:
        return tr("known: {words}", words=join_list(words))
    return None
