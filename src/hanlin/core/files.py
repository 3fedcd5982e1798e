"""Reading and writing files: a file appears under its name when it is complete, or not at all.

A file that is being written ends in `.writing`, which an upload refuses; it is renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

PARTIAL_SUFFIX = ".writing"
"""The ending of a file that is not complete."""


def partial_path(path: Path, *, shared: bool = False) -> Path:
    """Where `path` is written before it is renamed; with `shared`, another name for each process of each machine."""
    owner = f".{socket.gethostname()}-{os.getpid()}" if shared else ""
    return path.with_name(f"{path.name}{owner}{PARTIAL_SUFFIX}")


def is_file_name(text: str) -> bool:
    """Whether a text that may be the name of something packaged (a chat template) names a file: it has a path in it,
    or ends as Jinja files do.
    """
    return text.startswith("~") or "/" in text or text.endswith((".jinja", ".jinja2", ".j2"))


@contextmanager
def open_atomic(path: Path, mode: str = "w", *, shared: bool = False, fsync: bool = False) -> Iterator[IO[Any]]:
    """Open a file for writing that appears at `path` when the block ends; an error in the block leaves `path` alone.

    Args:
        path: The file; its folder exists.
        mode: `w` (UTF-8, line ends as they are given) or `wb`.
        shared: Several processes may write `path` at the same time; the last one to end wins.
        fsync: The bytes are on the disk before the rename: for manifests and checkpoints, which must survive a crash
            of the machine.
    """
    partial = partial_path(path, shared=shared)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with partial.open(mode, **text) as file:
        yield file
        if fsync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one. Raises UserError if the file holds anything else."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(tr("not JSON: {error}", error=error), path) from error
    if not isinstance(data, dict):
        raise UserError(tr("not a JSON object"), path)
    return data


def write_sorted_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a tokenizer's or a model's JSON file as transformers writes it: keys sorted, two spaces of indent."""
    write_json(path, dict(sorted(data.items())), indent=2)
