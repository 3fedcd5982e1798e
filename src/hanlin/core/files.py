"""Reading and writing files: a file appears under its name when it is complete, or not at all.

A file that is being written ends in `.writing`, which an upload refuses; it is renamed when it is complete. Before
large files are written the space is checked.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from hanlin.core.errors import UserError, no_home_folder
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_JSON_BITS, MAX_JSON_DEPTH, MAX_SETTINGS_BYTES

PARTIAL_SUFFIX = ".writing"
"""The ending of a file that is not complete."""


class FileState(NamedTuple):
    """What tells whether a file is the one that it was: no change of its bytes leaves all four as they are.

    Size, time and inode alone do: a program can set the time of a file back. The time of the last change of the inode
    (`ctime`, on POSIX) no program can set.
    """

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int


class HashedFile(NamedTuple):
    """The SHA-256 of a file, and the state in which it has it."""

    state: FileState
    sha256: str


def file_state(status: os.stat_result) -> FileState:
    """The state of a file from `os.stat` or `os.fstat`."""
    ctime_ns = status.st_ctime_ns if os.name == "posix" else 0  # on Windows the time when it was created
    return FileState(status.st_size, status.st_mtime_ns, status.st_ino, ctime_ns)


def changed_while_read(path: Path) -> UserError:
    """The error for a file that is not the one that it was when it was opened, or when it was hashed."""
    return UserError(tr("it changed while it was read"), path, tr("run again when no program writes to it"))


def show_file_name(name: str) -> str:
    r"""A file's name as a text that UTF-8 can hold: bytes that are not UTF-8 become escapes (`\xff`)."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def remove_link(path: Path) -> Path:
    """Return the path, after a link that was there is removed: what is written would be where it leads to."""
    if path.is_symlink():
        path.unlink()
    return path


def _open_own(path: str, flags: int) -> int:
    """Open a file for writing, never one that a link at its place leads to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def open_regular(path: Path) -> BinaryIO:
    """Open a file of others for reading.

    Raises:
        UserError: It is a FIFO, which would be waited for without end, a device, which may have no end, or a folder.
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(tr("not a regular file"), path)
    return os.fdopen(descriptor, "rb")


def check_downloaded(path: Path) -> None:
    """Raise UserError for what often stands in place of a file that was not downloaded."""
    with open_regular(path) as file:
        start = file.read(64)
    if not start:
        raise UserError(tr("the file is empty"), path, tr("copy or download it again"))
    if start.startswith(b"version https://git-lfs"):
        raise UserError(tr("this is the pointer of Git LFS, not the file itself"), path, tr("run `git lfs pull` there"))
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(tr("this is a web page, not a file of weights"), path, tr("copy or download it again"))


def partial_path(path: Path, *, shared: bool = False) -> Path:
    """Where `path` is written before it is renamed; with `shared`, another name for each process of each machine."""
    owner = f".{socket.gethostname()}-{os.getpid()}" if shared else ""
    return path.with_name(f"{path.name}{owner}{PARTIAL_SUFFIX}")


def expand_home(path: Path) -> Path:
    """A path with the home folder in place of `~` or `~name` at its start.

    A shell does that for a word of its own, but not for what follows `--out=`, nor for a variable in a file of settings
    (`HANLIN_HOME=~/hanlin` for systemd or Docker): there a folder called `~` would be made. A name that is there, or
    of nobody (`~draft.jsonl`), stays as it is, as in a shell.

    Raises:
        UserError: It begins with `~`, and there is no home folder.
    """
    if os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError as error:
        if path.parts[0] != "~":
            return path
        raise no_home_folder(path) from error


def is_file_name(text: str) -> bool:
    """Whether a text that may be the name of something packaged (a chat template) names a file: it has a path in it,
    or ends as Jinja files do.
    """
    return text.startswith("~") or "/" in text or text.endswith((".jinja", ".jinja2", ".j2"))


@contextmanager
def open_atomic(path: Path, mode: str = "w", *, shared: bool = False, fsync: bool = False) -> Iterator[IO[Any]]:
    """Open a file for writing that appears at `path` when the block ends; an error in the block leaves `path` alone and
    nothing beside it.

    Args:
        path: The file; its folder exists.
        mode: `w` (UTF-8, line ends as they are given) or `wb`.
        shared: Several processes may write `path` at the same time; the last one to end wins.
        fsync: The bytes are on the disk before the rename: for manifests and checkpoints, which must survive a crash
            of the machine.
    """
    partial = partial_path(path, shared=shared)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    remove_link(partial)
    try:
        with open(partial, mode, opener=_open_own, **text) as file:
            yield file
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = str(path)  # a write that fails does not say where
        raise


def write_bytes(path: Path, data: bytes, *, shared: bool = False, fsync: bool = False) -> None:
    """Write a file at once or not at all; `shared` and `fsync` as in `open_atomic`."""
    with open_atomic(path, "wb", shared=shared, fsync=fsync) as file:
        file.write(data)


def write_text(path: Path, text: str, *, shared: bool = False, fsync: bool = False) -> None:
    """Write a text file in UTF-8 at once or not at all; `shared` and `fsync` as in `open_atomic`."""
    with open_atomic(path, shared=shared, fsync=fsync) as file:
        file.write(text)


def write_json(
    path: Path, data: Any, *, indent: int | None = 1, sort_keys: bool = False, shared: bool = False, fsync: bool = False
) -> None:
    """Write JSON data with a line end after it, characters as they are, at once or not at all."""
    text = json.dumps(data, ensure_ascii=False, indent=indent, sort_keys=sort_keys)
    write_text(path, text + "\n", shared=shared, fsync=fsync)


def format_json(data: Any, indent: int | None = None) -> str:
    """JSON text that every program reads, characters as they are: `null` for NaN and infinity, which JSON has not.

    Python writes and reads `NaN`; `jq`, browsers and most other languages refuse the whole text for it.
    """
    try:
        return json.dumps(data, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(data), ensure_ascii=False, indent=indent)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, max_bytes: int = MAX_SETTINGS_BYTES) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one. Raises UserError as `load_json_object` does."""
    return load_json_object(path, max_bytes) if path.is_file() else {}


def load_json_object(path: Path, max_bytes: int = MAX_SETTINGS_BYTES, hint: str | None = None) -> dict[str, Any]:
    """Read a JSON object from a file that exists, within the limits on size, depth and numbers.

    Raises:
        UserError: It is too large, no JSON, no object, or its texts are no Unicode.
    """
    with open_regular(path) as file:
        check_file_size(path, max_bytes)
        data = file.read()
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise UserError(tr("not JSON: {error}", error=error), path, hint) from error
    except TypeError as error:
        raise UserError(str(error), path, hint) from error


def check_file_size(path: Path, max_bytes: int) -> None:
    """Raise UserError if a file is larger than a limit, before it is read."""
    size = path.stat().st_size
    if size > max_bytes:
        what = tr("the file has {size:,} bytes, but at most {limit:,} are read", size=size, limit=max_bytes)
        raise UserError(what, path)


def parse_json(data: str | bytes) -> Any:
    r"""Parse JSON that may be of others: a row, a list, a file, each within what Python and UTF-8 can hold.

    `json.loads` has three more ways to fail than `JSONDecodeError`: a row of 100,000 brackets ends in a RecursionError,
    a number of 5,000 digits in a ValueError, and half a character (`\ud800`) in an error when it is written.

    Raises:
        json.JSONDecodeError: It is no JSON, nested too deeply, or holds such a number or half a character.
        UnicodeDecodeError: The bytes are not UTF-8.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        value = json.loads(text)
        # counting costs nothing; a row with so many brackets is rare and may be flat
        if text.count("[") + text.count("{") > _MANY_BRACKETS and _is_deeper(value, _MAX_ROW_DEPTH):
            raise RecursionError
        if _SURROGATE_TEXT.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError(tr("nested too deeply"), "", 0) from None
    except UnicodeEncodeError:
        raise json.JSONDecodeError(tr("half of a surrogate pair"), "", 0) from None
    except ValueError as error:
        raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from None
    return value


_MANY_BRACKETS = 500
_MAX_ROW_DEPTH = 100
"""Levels of a row; records have fewer than ten."""
_SURROGATE_TEXT = re.compile(r"\\u[dD][89a-fA-F]")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper; found without recursion."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object within the limits on depth and numbers; its size is the caller's to limit.

    Raises:
        ValueError: It is no JSON, or beyond a limit.
        TypeError: It is no object.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError(_depth_problem()) from None
    if not isinstance(value, dict):
        raise TypeError(tr("not a JSON object"))
    _check_json(value, _SURROGATE.search(data) is not None)
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half a character, written as an escape; beside its other half it is a whole one."""


def _depth_problem() -> str:
    return tr("nested deeper than {limit} levels", limit=MAX_JSON_DEPTH)


def _check_json(value: Any, with_surrogates: bool) -> None:
    """Raise ValueError for too deep data, too long integers, and halves of characters."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner: list[Any] = []
        for item in level:
            for entry in item.values() if isinstance(item, dict) else item:
                kind = type(entry)
                if kind is dict or kind is list:
                    inner.append(entry)
                elif kind is int and entry.bit_length() > MAX_JSON_BITS:
                    raise ValueError(tr("an integer of more than {limit} bits", limit=MAX_JSON_BITS))
                elif kind is str and with_surrogates:
                    entry.encode()
            if with_surrogates and isinstance(item, dict):
                "".join(item).encode()
        if not inner:
            return
        level = inner
    raise ValueError(_depth_problem())


def write_sorted_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a tokenizer's or a model's JSON file as transformers writes it: keys sorted, two spaces of indent."""
    write_json(path, dict(sorted(data.items())), indent=2)


def check_free_space(out: Path, needed: int) -> None:
    """Raise UserError if `needed` bytes do not fit on the disk of `out`."""
    free = shutil.disk_usage(out).free
    if needed > free:
        what = tr(
            "the files need {needed:.2f} GB, the disk has {free:.2f} GB free",
            needed=needed / 1000000000.0,
            free=free / 1000000000.0,
        )
        raise UserError(what, out, tr("free some space or write fewer files"))


@contextmanager
def catch_full_disk(out: Path) -> Iterator[None]:
    """Turn the system's errors for a full disk inside the block into a UserError about `out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG):
            raise
        what = tr("no space to write the file: {strerror}", strerror=error.strerror)
        raise UserError(what, out, tr("free some space and run again")) from error


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file, which appears at `target` when it is complete; skip it if `target` has the same size already."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    shutil.copyfile(source, remove_link(partial))
    os.replace(partial, target)
