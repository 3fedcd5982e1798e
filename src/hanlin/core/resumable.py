"""Long lists whose finished rows survive a kill.

`process_in_chunks` keeps the rows of each chunk in a file that is written at once or not at all. Chunk boundaries do
not depend on what was done before, so a resumed run makes exactly the same requests as an uninterrupted one.
`process_each` keeps every row as soon as it is there, and never asks for it again; a resumed run then makes smaller
requests than an uninterrupted one, which changes nothing beyond rounding.
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
        progress: Is updated before and after each chunk.
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
            progress.update(len(rows), len(items), unit)  # the rate is measured from here, not from the first chunk on
            done = work(chunk)
            write_rows(file, done)
        rows += done
        progress.update(len(rows), len(items), unit)
    return rows


def process_each(
    items: Sequence[Item],
    size: int,
    scratch: Path,
    work: Callable[[Sequence[Item], Callable[[int, Row], None]], None],
    progress: Progress,
    *,
    unit: str,
) -> list[Row]:
    """Make one row for each item, in order; each is kept as soon as it is there, and read back by a later run.

    Args:
        items: All items.
        size: Items that are handed to `work` together, at most.
        scratch: Folder for the file of finished rows.
        work: Gets the items of a chunk that have no row yet, and a function that it calls with the index in them and
            the row of each, in any order.
        progress: Is updated after each row.
        unit: Name of the items, for the progress.

    Returns:
        The rows of all items.
    """
    path = scratch / FINISHED_ROWS
    rows = _read_finished(path, len(items))
    if rows:
        progress.update(len(rows), len(items), unit)
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(items), size):
            open_indices = [index for index in range(start, min(start + size, len(items))) if index not in rows]

            def keep(position: int, row: Row, indices: Sequence[int] = open_indices) -> None:
                index = indices[position]
                file.write(json.dumps([index, row], ensure_ascii=False) + "\n")
                file.flush()  # the system has it now: it outlives this process
                rows[index] = row
                progress.update(len(rows), len(items), unit)

            if open_indices:
                work([items[index] for index in open_indices], keep)
    return [rows[index] for index in range(len(items))]


FINISHED_ROWS = "finished.jsonl"
"""A line `[index, row]` for each finished row, in the order in which they were finished."""


def _read_finished(path: Path, count: int) -> dict[int, Row]:
    """The finished rows by index. What a kill or a crash of the machine cut off or damaged is removed from the file."""
    rows: dict[int, Row] = {}
    good: list[bytes] = []
    if not path.is_file():
        return rows
    lines = path.read_bytes().split(b"\n")
    for line in lines[:-1]:  # the last one is empty, or was cut off
        try:
            index, row = parse_json(line)
        except (ValueError, TypeError):
            continue
        if isinstance(row, dict) and isinstance(index, int) and 0 <= index < count:
            rows[index] = row
            good.append(line)
    if len(good) != len(lines) - 1 or lines[-1]:
        with open_atomic(path) as file:
            file.writelines(line.decode() + "\n" for line in good)
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
