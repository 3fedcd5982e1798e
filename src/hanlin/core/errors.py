"""Errors that a user can fix: one sentence on what is wrong, where, and how to fix it.

A `UserError` ends a command with exit code 2 and without a traceback; any other exception is a bug in Hanlin.
"""

from __future__ import annotations

import difflib
import errno
import os
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


_FIXED_BY_USERS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def explain_os_error(error: BaseException) -> UserError | None:
    """What the system refuses for a path that the user named; None if it is anything else."""
    if isinstance(error, OSError) and error.errno in _FIXED_BY_USERS and error.filename:
        what = tr("cannot be read or written: {problem}", problem=error.strerror)
        return UserError(what, os.fsdecode(error.filename), tr("check the path and its permissions"))
    return None


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def explain_memory_error(error: BaseException, where: str) -> UserError | None:
    """Why work ended when memory, of the machine or of a GPU, was used up; None if it is anything else."""
    text = str(error).lower()
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    ):
        return None
    on_gpu = "cuda" in text or "hip" in text or "gpu" in text
    return memory_error(tr("the memory of the GPU is used up") if on_gpu else tr("the memory is used up"), where)


def memory_error(what: str, where: str) -> UserError:
    """An error that says how to do with less memory."""
    return UserError(what, where, tr("lower `micro_batch_tokens` or `batch`; `hanlin plan` estimates what fits"))


def suggest_path(path: str | Path) -> str:
    """A hint for a path that leads nowhere: the nearest name in its folder, or the folder that is missing."""
    path = Path(path).absolute()
    folder = path.parent
    if not folder.is_dir():
        return tr("the folder {folder} does not exist either", folder=folder)
    names = os.listdir(folder) if os.access(folder, os.R_OK) else []
    # of two letters in five that differ, `none` would be `clone`
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    if near:
        return tr("did you mean {near}?", near=folder / near[0])
    return tr("the folder {folder} exists: check the name", folder=folder)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint for a misspelled name: the nearest known one, or all of them if none is near; None if there are none."""
    words = sorted(known)
    near = difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    if near:
        return tr("did you mean {near}?", near=near[0])
    if words:
        return tr("known: {words}", words=join_list(words))
    return None
