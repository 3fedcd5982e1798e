"""Errors that a user can fix: one sentence on what is wrong, where, and how to fix it.

A `UserError` ends a command with exit code 2 and without a traceback; any other exception is a bug in Hanlin.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from hanlin.core.i18n import join_list, mark, tr

CODES = {
    "bad_input": mark("something that was given is wrong; the sentence says what"),
    "usage": mark("the command line: a command, an option or a value of one"),
    "recipe": mark("the recipe, or a change to it by --set"),
    "not_found": mark("a file, a folder or a repository of a hub is not there"),
    "exists": mark("something is there already and is not overwritten"),
    "changed": mark("files of an artifact are not those that were made"),
    "missing_package": mark("a package is not installed, or cannot be imported"),
    "unreachable": mark("a server or hub cannot be reached, or fails"),
    "gated": mark("a hub lets in only some: there are terms to accept, or a token to send"),
    "rate_limited": mark("a hub has had too many requests"),
    "out_of_memory": mark("memory, of the machine or of a GPU, is used up"),
    "disk": mark("the disk is full, or a quota or limit of it is reached"),
    "access": mark("the system refuses to read or write a path"),
    "crashed": mark("a process of a stage ended without a result"),
    "internal": mark("a fault of Hanlin itself; please report it"),
}
"""What sorts of errors there are, which programs may rely on: a code keeps its meaning."""


class UserError(Exception):
    """Bad input.

    Args:
        what: What is wrong.
        where: Its location: file, line, record id or setting.
        hint: How to fix it.
        code: What sort of error it is, for programs: one of `CODES`.
    """

    code = "bad_input"

    def __init__(
        self, what: str, where: str | Path | None = None, hint: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        if code is not None:
            self.code = code

    def as_json(self) -> dict[str, str | None]:
        """The error as a command prints it with `--json`."""
        return {"code": self.code, "what": self.what, "where": self.where, "hint": self.hint}

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        return line if self.hint is None else line + tr(" (hint: {hint})", hint=self.hint)

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None, str | None, str]]:
        return (type(self), (self.what, self.where, self.hint, self.code))


class UnsupportedToolsError(UserError):
    """A chat template has no form for tools and their calls."""


_FIXED_BY_USERS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO, errno.ELOOP)
_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_NO_SPACE_TEXTS = (
    ("No space left on device", errno.ENOSPC),
    ("(os error 28)", errno.ENOSPC),
    ("Disk quota exceeded", _NO_SPACE[1]),
    ("(os error 122)", _NO_SPACE[1]),
    ("File too large", errno.EFBIG),
    ("(os error 27)", errno.EFBIG),
    ("PytorchStreamWriter failed writing", errno.ENOSPC),
)
"""How libraries in Rust and C++, and `shutil`, pass on what the system says."""


def no_home_folder(where: str | Path | None) -> UserError:
    """The error for a path that begins with `~` where no home folder is known; `where` is the path."""
    what = tr("there is no home folder to put in place of ~")
    return UserError(what, where, tr("set HOME, or write the whole path"), "not_found")


_NO_HOME = "Could not determine home directory"
"""What `Path.home` and `Path.expanduser` say for a user without a home folder, as containers have, and for `~name`."""


def explain_os_error(error: BaseException) -> UserError | None:
    """What the system refuses for a path that the user named, and full disks; None if it is anything else."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and not isinstance(error, UserError):
        text = str(error)
        if isinstance(error, RuntimeError) and _NO_HOME in text:
            return no_home_folder(None)
        number = next((number for words, number in _NO_SPACE_TEXTS if words in text), None)
    name = getattr(error, "filename", None)
    where = os.fsdecode(name) if isinstance(name, str | bytes) and name else None
    if number in _NO_SPACE:
        reasons = {
            errno.ENOSPC: tr("the disk is full"),
            errno.EFBIG: tr("the file grows larger than this system or its limit (ulimit -f) allows"),
        }
        what = reasons.get(number or 0, tr("the quota of this disk is used up"))
        return UserError(what, where, tr("free some space and run again; finished work is kept"), "disk")
    if isinstance(error, FileNotFoundError) and "temporary directory" in (error.strerror or ""):
        return UserError(tr("there is no folder for temporary files"), None, tr("name one in TMPDIR"))
    if isinstance(error, OSError) and number in _FIXED_BY_USERS and where:
        what = tr("cannot be read or written: {problem}", problem=error.strerror)
        return UserError(what, where, tr("check the path and its permissions"), "access")
    return None


def explain_import_error(error: BaseException) -> UserError | None:
    """A package of others that is not there or does not import, as after half an installation; None if it is anything
    else.
    """
    name = (error.name or "") if isinstance(error, ImportError) else ""
    package = name.partition(".")[0]
    if not package or package == "hanlin" or package in sys.stdlib_module_names:
        return None
    if isinstance(error, ModuleNotFoundError) and name == package:
        what = tr("the package {name} is not installed", name=package)
    else:
        what = tr("the package {name} cannot be imported: {error}", name=package, error=error)
    hint = tr("`pip install hanlin` installs what is missing; `hanlin doctor` lists it")
    return UserError(what, None, hint, "missing_package")


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
    hint = tr("lower `micro_batch_tokens` or `batch`; `hanlin plan` estimates what fits")
    return UserError(what, where, hint, "out_of_memory")


def killed_error(stage: str, code: int) -> UserError:
    """What to say of a stage whose process was ended from outside, or by a fault in a library.

    Args:
        stage: Its name.
        code: Its exit code; below zero the signal's number, as Python's `subprocess` has it.
    """
    if code == -9:
        return memory_error(tr("it was killed (signal 9), as systems do when memory runs out"), stage)
    if code in (-4, -6, -7, -8, -11):  # illegal instruction, abort, bus error, arithmetic, segmentation fault
        what = tr("a library that it uses crashed (signal {number})", number=-code)
        hint = tr("one of its input files may be damaged; earlier stages are kept")
        return UserError(what, stage, hint, "crashed")
    if code < 0:
        what = tr("its process was ended from outside (signal {number})", number=-code)
    else:
        what = tr("its process ended without a result")
    return UserError(what, stage, tr("the same command goes on from here"), "crashed")


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
