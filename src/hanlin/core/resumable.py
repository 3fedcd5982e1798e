"""Long lists processed in chunks that survive a kill: the rows of each chunk are a file, written at once or not at all.

Chunk boundaries do not depend on what was done before, so a resumed run makes exactly the same requests as an
uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, parse_json
from hanlin.core.i18n import tr
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
    """Make one row for each item, in order; finished chunks of an earlier run are read back.

    Args:
        items: All items.
        size: Items in a chunk.
        scratch: Folder for the files of finished chunks.
        work: Makes the rows of a chunk, one for each item.
        progress: Is updated after each chunk.
        unit: Name of the items, for the progress.

    Returns:
        The rows of all items.
    """
    rows: list[Row] = []
    for index, start in enumerate(range(0, len(items), size)):
        chunk = items[start : start + size]
        file = scratch / f"rows-{index:05d}.jsonl"
        done = _read_back(file, len(chunk))
        if done is None:
            done = work(chunk)
            write_rows(file, done)
        rows += done
        progress.update(len(rows), len(items), unit)
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON rows, one a line, at once or not at all."""
    with open_atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote. Raises UserError with file and line if a line is not a JSON object."""
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise UserError(tr("not a JSON object"), f"{path}:{number}")
                rows.append(row)
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
    except ValueError as error:  # of JSON or of UTF-8
        where = f"{path}:{len(rows) + 1}"
        raise UserError(tr("not a line of JSON in UTF-8"), where) from error
    return rows


def _read_back(file: Path, count: int) -> list[Row] | None:
    """The rows of a chunk that an earlier run finished, or None if it did not or a crash of the machine damaged it."""
    if not file.is_file():
        return None
    try:
        rows = read_rows(file)
    except UserError:
        return None
    return rows if len(rows) == count else None
