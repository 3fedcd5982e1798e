"""Reading and writing files: whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hanlin.core.errors import UserError
from hanlin.core.i18n import say

if TYPE_CHECKING:
    pass


def write_aside(path: Path, text: str) -> None:
    """Write a text file at once or not at all."""
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(aside, path)


def write_json_aside(path: Path, data: Mapping[str, Any]) -> None:
    write_aside(path, json.dumps(dict(sorted(data.items())), ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file, empty when there is no file. Raises UserError when it is not one."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(say(f"not JSON: {error}", f"不是合法 JSON：{error}"), path) from error
    if not isinstance(data, dict):
        raise UserError(say("not a JSON object", "不是 JSON 对象"), path)
    return data


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` when it is whole; two processes may write the same one."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.writing")
    with aside.open("wb") as file:
        yield file
    os.replace(aside, path)


def write_whole(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)
