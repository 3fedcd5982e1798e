"""The command lines of the benchmarks: what means nothing is refused in one sentence, with exit code 2.

The functions that take a text are types of `argparse`, which puts the name of the argument before their sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hanlin.core.errors import UserError

BAD_INPUT = 2


class RefusedError(SystemExit):
    """The end of a benchmark whose input means nothing; `str` is the sentence that was printed."""

    def __init__(self, what: str) -> None:
        super().__init__(BAD_INPUT)
        self._what = what

    def __str__(self) -> str:
        return self._what


def refuse(what: str) -> NoReturn:
    """End with one sentence."""
    print(f"error: {what}", file=sys.stderr)
    raise RefusedError(what)


def run_main(main: Callable[[], None]) -> None:
    """Run a benchmark; a file or setting of the user's that cannot be used is no traceback."""
    try:
        main()
    except UserError as error:
        refuse(str(error))
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        refuse(f"{os.fsdecode(error.filename)}: {error.strerror}")


# --- types of arguments -----------------------------------------------------------------------------------------------


def existing_path(text: str) -> Path:
    """A file or folder that is there."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def existing_file(text: str) -> Path:
    """A file that is there."""
    path = existing_path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, and a file is needed")
    return path


def existing_folder(text: str) -> Path:
    """A folder that is there."""
    path = existing_path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file, and a folder is needed")
    return path


def model_folder(text: str) -> Path:
    """A folder with the configuration of a model."""
    path = existing_folder(text)
    if not (path / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no model folder: it has no config.json")
    return path


def folder_to_write(text: str) -> Path:
    """A folder that is there or can be made."""
    path = Path(text)
    if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
        raise argparse.ArgumentTypeError(f"{text} cannot be a folder: a file is there")
    return path


def file_to_write(text: str) -> Path:
    """A file that can be written, in a folder that is there or can be made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, and a file is to be written")
    folder_to_write(str(path.parent))
    return path


def positive_int(text: str) -> int:
    """A whole number from 1."""
    return _whole_number(text, 1)


def non_negative_int(text: str) -> int:
    """A whole number from 0."""
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {least}")
    return number


def finite_float(text: str) -> float:
    """A number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is no number")
    return number


def positive_float(text: str) -> float:
    """A number above 0."""
    number = finite_float(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def non_negative_float(text: str) -> float:
    """A number from 0."""
    number = finite_float(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def share(text: str) -> float:
    """A number above 0, up to 1."""
    number = positive_float(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return number


def names_among(known: Collection[str]) -> Callable[[str], str]:
    """Names with commas between, each one of some; the text stays as it is."""

    def check(text: str) -> str:
        unknown = [name for name in text.split(",") if name and name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return text

    return check


def list_of(kind: Callable[[str], Any]) -> Callable[[str], str]:
    """Values with commas between, each of a type; the text stays as it is."""

    def check(text: str) -> str:
        for part in filter(None, text.split(",")):
            kind(part)
        return text

    return check


# --- the environment and files ----------------------------------------------------------------------------------------


def from_environment(name: str, what: str, kind: Callable[[str], Any] = existing_path) -> Any:
    """The value of a variable that a benchmark needs, such as `model_folder` of `HANLIN_MODEL`.

    Args:
        name: The variable.
        what: What it names.
        kind: The type of the value.
    """
    text = os.environ.get(name)
    if not text:
        refuse(f"set {name} to {what}")
    return of_variable(name, text, kind)


def number_from_environment(name: str, default: int) -> int:
    """A whole number from 1 in a variable that may be set."""
    number: int = of_variable(name, os.environ.get(name) or str(default), positive_int)
    return number


def of_variable(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    """A text from a variable, of a type."""
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        refuse(f"{name}: {error}")


def read_json_lines(file: Path, fields: Collection[str] = (), lines: Iterator[str] | None = None) -> list[Any]:
    """The rows of a file of JSON lines; blank lines are none.

    Args:
        file: The file.
        fields: What every row has.
        lines: Its lines, if it is not plain UTF-8.
    """
    rows: list[Any] = []
    try:
        read = file.read_text(encoding="utf-8", errors="surrogatepass").split("\n") if lines is None else lines
        for number, line in enumerate(read, start=1):
            if not line.strip():
                continue
            row = json.loads(line)
            missing = [name for name in fields if not isinstance(row, dict) or name not in row]
            if missing:
                refuse(f"{file}:{number}: a row without {missing[0]!r}")
            rows.append(row)
    except json.JSONDecodeError as error:
        refuse(f"{file}:{number}: not JSON: {error.msg}")
    except UnicodeDecodeError:
        refuse(f"{file}: not UTF-8")
    return rows
