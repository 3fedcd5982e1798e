"""The stage `mix`: combine records of several stages in given proportions of tokens, in a fixed order.

Tokens are counted with the tokenizer that will read them (conversations as the chat template renders them). The order
keeps the proportions throughout, so that what a training run has seen at any step has the proportions of the whole.
Counts and written rows are kept, so that a killed run resumes and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from hanlin.chat.token_counts import TokenCounter, make_token_counter
from hanlin.config.settings.mix import Mix, MixSource
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import VALIDATION_FILE, record_files, refuse_repeated
from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, parse_json, partial_path, write_json, write_text
from hanlin.core.i18n import tr
from hanlin.data.ledger import dump_json_line

CHUNK_ROWS = 5_000
"""Rows that are counted or written together: what a killed run may have to do again."""

_COUNT_BYTES = 1 << 20

Integers = npt.NDArray[np.int64]


def run(settings: Mix, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `<records>.jsonl`, `validation.jsonl`, `ledger.json` and `dropped.jsonl` (ids of rows beyond the budget).

    An id gets the index of its source as a prefix, and `~2` as a suffix if its record is written a second time. The
    validation splits of the sources are joined.

    Returns:
        The metrics.

    Raises:
        UserError: A source has no such records, or the budget is smaller than any record.
    """
    scratch = context.scratch_folder(out)
    count = make_token_counter(settings.records, inputs.path("tokenizer"))
    folders = [inputs.path(f"sources.{index}.data") for index in range(len(settings.sources))]
    refuse_repeated(folders, tr("name it once; `share` or `weight` says how much it counts"))
    sources = []
    for index, folder in enumerate(folders):
        files = record_files(folder, settings.records)
        if not files:
            what = tr("there are no {records} in it", records=settings.records)
            raise UserError(what, folder, tr("set `records`"))
        sources.append(_index_source(index, files, count, scratch, context))
    available = [int(source.tokens.sum()) for source in sources]
    targets = allocate(available, settings.sources, settings.tokens, settings.temperature)
    samples = [
        sample_rows(source.tokens, target, f"{context.seed}/{index}")
        for index, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    order = interleave([source.tokens[rows] for source, rows in zip(sources, samples, strict=True)])
    if not len(order):
        raise UserError(tr("the budget is smaller than any record"), "tokens")
    _write_rows(out / f"{settings.records}.jsonl", sources, samples, order, scratch, context)
    _write_validation(out, folders)
    return _write_ledger(settings, sources, samples, targets, out)


# --- how much of each source ------------------------------------------------------------------------------------------


def allocate(
    tokens: Sequence[int], sources: Sequence[MixSource], budget: int | None, temperature: float
) -> list[float]:
    """Allocate a budget of tokens to sources.

    Sources with a `share` get that share of the budget; the others divide the rest by weight × tokens^(1/temperature)
    (Conneau et al. 2020, arXiv 1911.02116, section 3.1, with exponent 0.3). No source gives more than `max_repeats`
    times its tokens (four repeats are nearly as good as new text: Muennighoff et al. 2023, arXiv 2305.16264); what it
    lacks is taken from the sources without a share, in proportion, as far as they have it.

    Args:
        tokens: Tokens of each source.
        sources: Their shares, weights and limits.
        budget: Tokens in all; None: all tokens of the sources without a share.
        temperature: 1: in proportion to size; larger: more of small sources.

    Returns:
        The tokens to take of each source.
    """
    weighted = [index for index, source in enumerate(sources) if source.share is None]
    fixed_share = sum(source.share or 0.0 for source in sources)
    total = sum(tokens[index] for index in weighted) / (1 - fixed_share) if budget is None else float(budget)
    limits = [source.max_repeats * size for source, size in zip(sources, tokens, strict=True)]
    allocated = [min((source.share or 0.0) * total, limit) for source, limit in zip(sources, limits, strict=True)]
    strengths = {
        index: sources[index].weight * tokens[index] ** (1 / temperature) for index in weighted if tokens[index]
    }
    while strengths:
        remaining = total - sum(allocated)
        scale = remaining / sum(strengths.values())
        full = [index for index, strength in strengths.items() if strength * scale >= limits[index]]
        for index in full or strengths:
            allocated[index] = limits[index] if full else strengths[index] * scale
        strengths = {index: strength for index, strength in strengths.items() if full and index not in full}
    return allocated


def sample_rows(tokens: Integers, target: float, salt: str) -> Integers:
    """Sample rows for a number of tokens: whole epochs in a new order each, then the beginning of one more.

    Args:
        tokens: Tokens of each row, [rows].
        target: Tokens to sample; the last epoch ends before it exceeds them.
        salt: Seed of the orders.

    Returns:
        Indices of the sampled rows; a row occurs once in each epoch.
    """
    total = int(tokens.sum())
    if total == 0 or target <= 0:
        return np.empty(0, dtype=np.int64)
    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little")
    generator = np.random.Generator(np.random.PCG64(seed))
    epochs = []
    remaining = target
    while remaining > 0:
        order = generator.permutation(len(tokens)).astype(np.int64)
        epochs.append(order[np.cumsum(tokens[order]) <= remaining + 1e-6 * total])
        remaining -= total
    return np.concatenate(epochs)


def interleave(tokens: Sequence[Integers]) -> Integers:
    """Interleave the sampled rows of all sources, each spread evenly, by tokens, over the whole.

        tokens of source 0: [10 10], of source 1: [10]  ->  (0, 0), (1, 0), (0, 1)

    Args:
        tokens: For each source the tokens of its sampled rows, [samples].

    Returns:
        The order, [rows, 2]: source, and index among its sampled rows.
    """
    midpoints = []
    for sizes in tokens:
        ends = np.cumsum(sizes)
        midpoints.append((ends - sizes / 2) / max(1, int(ends[-1]) if len(ends) else 1))
    sources = np.concatenate([np.full(len(sizes), index, dtype=np.int64) for index, sizes in enumerate(tokens)])
    indices = np.concatenate([np.arange(len(sizes), dtype=np.int64) for sizes in tokens])
    order = np.lexsort((indices, sources, np.concatenate(midpoints)))
    return np.stack([sources[order], indices[order]], axis=1)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SourceIndex:
    """The rows of a source.

    Attributes:
        files: Its record files.
        file_of_row: Index of the file of each row.
        offsets: Where the line of each row begins in its file.
        tokens: Tokens of each row.
    """

    files: tuple[Path, ...]
    file_of_row: Integers
    offsets: Integers
    tokens: Integers


def _index_source(
    index: int, files: Sequence[Path], count: TokenCounter, scratch: Path, context: StageContext
) -> _SourceIndex:
    """Count the tokens of a source in chunks; chunks that an earlier run counted are loaded."""
    file_of_row, offsets, tokens = [], [], []
    for file_index, file in enumerate(files):
        size = file.stat().st_size
        position, chunk = 0, 0
        while position < size:
            saved = scratch / f"tokens-{index:03d}-{file_index:03d}-{chunk:06d}.npz"
            if not saved.is_file():
                _count_chunk(file, position, count, saved)
            with np.load(saved, allow_pickle=False) as data:
                offsets.append(data["offsets"])
                tokens.append(data["tokens"])
                file_of_row.append(np.full(len(data["tokens"]), file_index, dtype=np.int64))
                position = int(data["end"])
            chunk += 1
            context.progress.update(position, size, tr("bytes"))
    empty = np.empty(0, dtype=np.int64)
    joined = [np.concatenate(chunks) if chunks else empty for chunks in (file_of_row, offsets, tokens)]
    return _SourceIndex(tuple(files), *joined)


def _count_chunk(file: Path, position: int, count: TokenCounter, saved: Path) -> None:
    """Count the tokens of the next rows of a file from `position` on, and write them to `saved`."""
    offsets, rows = [], []
    with file.open("rb") as lines:
        lines.seek(position)
        for line in islice(iter(lines.readline, b""), CHUNK_ROWS):
            if line.strip():
                offsets.append(position)
                rows.append(_parse_row(line, file, position))
            position += len(line)
    try:
        tokens = count(rows)
    except (KeyError, TypeError, AttributeError) as error:
        failed = (offset for row, offset in zip(rows, offsets, strict=True) if _fails(count, row))
        where = _locate(file, next(failed, offsets[0]))
        raise UserError(tr("not a record of this kind: {error}", error=error), where) from error
    with open_atomic(saved, "wb") as target:
        np.savez(target, offsets=np.array(offsets, np.int64), tokens=np.array(tokens, np.int64), end=np.int64(position))


def _fails(count: TokenCounter, row: dict[str, Any]) -> bool:
    """Whether a row cannot be counted."""
    try:
        count([row])
    except (KeyError, TypeError, AttributeError):
        return True
    return False


def _parse_row(line: bytes, file: Path, offset: int) -> dict[str, Any]:
    try:
        row: dict[str, Any] = parse_json(line)
        row["id"] + ""
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(tr("a line is not a record"), _locate(file, offset)) from error
    return row


def _locate(file: Path, offset: int) -> str:
    """The file with the number of the line that begins at an offset, for a message."""
    number = 1
    with file.open("rb") as data:
        while offset and (chunk := data.read(min(offset, _COUNT_BYTES))):
            number += chunk.count(b"\n")
            offset -= len(chunk)
    return f"{file}:{number}"


# --- writing ----------------------------------------------------------------------------------------------------------


def _write_rows(
    path: Path,
    sources: Sequence[_SourceIndex],
    samples: Sequence[Integers],
    order: Integers,
    scratch: Path,
    context: StageContext,
) -> None:
    """Write the rows in order, going on after the rows that an earlier run has certainly written.

    `core.files.open_atomic` begins anew and cannot be used here.
    """
    if path.is_file():
        return
    partial, state = partial_path(path), scratch / "written.json"
    done = (
        parse_json(state.read_text(encoding="utf-8"))
        if state.is_file() and partial.is_file()
        else {"rows": 0, "bytes": 0}
    )
    occurrences = [_count_occurrences(rows) for rows in samples]
    opened: dict[tuple[int, int], BinaryIO] = {}
    try:
        with partial.open("r+b" if done["rows"] else "wb") as file:
            file.truncate(done["bytes"])
            file.seek(done["bytes"])
            for num_written in range(done["rows"], len(order)):
                source, index = map(int, order[num_written])
                row = _read_row(sources[source], source, int(samples[source][index]), opened)
                occurrence = int(occurrences[source][index])
                row["id"] = f"{source}/{row['id']}" + (f"~{occurrence}" if occurrence > 1 else "")
                file.write((dump_json_line(row) + "\n").encode("utf-8"))
                if (num_written + 1) % CHUNK_ROWS == 0:
                    file.flush()
                    os.fsync(file.fileno())
                    write_text(state, json.dumps({"rows": num_written + 1, "bytes": file.tell()}))
                    context.progress.update(num_written + 1, len(order), tr("records"))
    finally:
        for source_file in opened.values():
            source_file.close()
    os.replace(partial, path)


def _read_row(
    source: _SourceIndex, source_index: int, row_index: int, opened: dict[tuple[int, int], BinaryIO]
) -> dict[str, Any]:
    """Read a row of a source; its file is opened once and kept in `opened`."""
    file_index = int(source.file_of_row[row_index])
    if (source_index, file_index) not in opened:
        opened[source_index, file_index] = source.files[file_index].open("rb")
    offset = int(source.offsets[row_index])
    opened[source_index, file_index].seek(offset)
    return _parse_row(opened[source_index, file_index].readline(), source.files[file_index], offset)


def _count_occurrences(rows: Integers) -> Integers:
    """For each sampled row, count its occurrences so far: `[5 3 5 5]` gives `[1 1 2 3]`."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(rows) else np.empty(0, dtype=np.int64)
    offsets = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    occurrences = np.empty(len(rows), dtype=np.int64)
    occurrences[order] = offsets + 1
    return occurrences


def _write_validation(out: Path, folders: Sequence[Path]) -> None:
    """Join the validation splits of the sources."""
    lines = (line for index, folder in enumerate(folders) for line in _read_validation(folder, index))
    first = next(lines, None)
    if first is not None:
        with open_atomic(out / VALIDATION_FILE) as file:
            file.writelines(chain([first], lines))


def _read_validation(folder: Path, source_index: int) -> Iterator[str]:
    file = folder / VALIDATION_FILE
    if folder.is_dir() and file.is_file():
        offset = 0
        with file.open("rb") as lines:
            for line in lines:
                if line.strip():
                    row = _parse_row(line, file, offset)
                    yield dump_json_line({**row, "id": f"{source_index}/{row['id']}"}) + "\n"
                offset += len(line)


def _write_ledger(
    settings: Mix,
    sources: Sequence[_SourceIndex],
    samples: Sequence[Integers],
    targets: Sequence[float],
    out: Path,
) -> dict[str, Any]:
    """Write `ledger.json` and `dropped.jsonl`: each row of a source is written once or several times, or is dropped."""
    rows: list[dict[str, Any]] = []
    tokens_written = [int(source.tokens[sample].sum()) for source, sample in zip(sources, samples, strict=True)]
    with open_atomic(out / "dropped.jsonl") as dropped_file:
        for index, (source, sample) in enumerate(zip(sources, samples, strict=True)):
            kept = np.unique(sample)
            opened: dict[tuple[int, int], BinaryIO] = {}
            for row_index in np.setdiff1d(np.arange(len(source.tokens)), kept):
                row_id = _read_row(source, index, int(row_index), opened)["id"]
                dropped_file.write(dump_json_line({"reason": "over_budget", "location": f"{index}/{row_id}"}) + "\n")
            for file in opened.values():
                file.close()
            tokens_in = int(source.tokens.sum())
            rows.append(
                {
                    "source": Path(settings.sources[index].data).name,
                    "rows_in": len(source.tokens),
                    "rows_kept": len(kept),
                    "rows_written": len(sample),
                    "tokens_in": tokens_in,
                    "tokens_target": round(targets[index]),
                    "tokens": tokens_written[index],
                    "share": tokens_written[index] / max(1, sum(tokens_written)),
                    "repeats": tokens_written[index] / max(1, tokens_in),
                }
            )
    totals = {
        name: sum(row[name] for row in rows) for name in ("rows_in", "rows_kept", "rows_written", "tokens_in", "tokens")
    }
    num_dropped = totals["rows_in"] - totals["rows_kept"]
    metrics = {**totals, "rows_dropped": num_dropped, "dropped": {"over_budget": num_dropped} if num_dropped else {}}
    if settings.tokens is not None:
        metrics["tokens_short"] = max(0, settings.tokens - totals["tokens"])
    write_json(out / "ledger.json", {**metrics, "sources": rows})
    shares = {f"{index}": {"share": row["share"], "repeats": row["repeats"]} for index, row in enumerate(rows)}
    return {**metrics, "sources": shares}
