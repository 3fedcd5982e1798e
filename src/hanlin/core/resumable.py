"""Long lists worked through in chunks that survive a kill: each chunk is a file, written whole or not at all.

Does not know what a row means. Chunk borders do not depend on what was done before, so a resumed run asks the engine
exactly what an unbroken one asks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.progress import Progress

Item = TypeVar("Item")
Row = dict[str, Any]


def process_in_chunks(
    items: Sequence[Item],
    size: int,
    scratch: Path,
    work: Callable[[Sequence[Item]], list[Row]],
    progress: Progress,
    *,
    unit: str,
) -> list[Row]:
    """One row for each item, in order. `work` makes the rows of up to `size` items; finished chunks are read back."""
    rows: list[Row] = []
    for number, start in enumerate(range(0, len(items), size)):
        chunk = items[start : start + size]
        file = scratch / f"rows-{number:05d}.jsonl"
        done = _read_back(file, len(chunk))
        if done is None:
            done = work(chunk)
            write_rows(file, done)
        rows += done
        progress.update(len(rows), len(items), unit)
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON rows, one a line, at once or not at all."""
    aside = path.with_name(path.name + ".writing")
    with aside.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(aside, path)


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote. Raises UserError with file and line where a line is not a JSON object."""
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(say("not a JSON object", "不是 JSON 对象"), f"{path}:{number}")
                rows.append(row)
    except OSError as error:
        raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), path) from error
    except ValueError as error:  # of JSON or of UTF-8
        where = f"{path}:{len(rows) + 1}"
        raise UserError(say("not a line of JSON in UTF-8", "该行不是 UTF-8 的 JSON"), where) from error
    return rows


def _read_back(file: Path, count: int) -> list[Row] | None:
    """The rows of a chunk that an earlier try finished; None where it did not, or a crash of the machine emptied it."""
    if not file.is_file():
        return None
    try:
        rows = read_rows(file)
    except UserError:
        return None
    return rows if len(rows) == count else None
