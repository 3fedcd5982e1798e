"""The common course of the data stages: read files row by row, judge each row, drop copies, hold out, keep account.

Owns which pieces the files are read in and what a stage refuses. Does not own formats or what is judged (`corpus`,
`conversations`, `preferences`, `unpaired_preferences`), how a piece is read (`parts`), where that is done (`plan`) and how the
parts are put together (`joining`).

A run that was killed goes on after its last whole part; copies are then found over all parts. The final bytes depend
on sources, settings and seed alone, not on how many processes or machines did the work.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Reading
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import write_bytes
from hanlin.core.i18n import say
from hanlin.data.dedup.decontaminate import FILE as CONTAMINATION
from hanlin.data.dedup.decontaminate import Questions
from hanlin.data.ingest import executor
from hanlin.data.ingest.deduplicate import judged_together
from hanlin.data.ingest.executor import Meter, Tasks
from hanlin.data.ingest.finalize import write_ledger, write_records
from hanlin.data.ingest.process_split import sift_piece
from hanlin.data.ingest.shard_index import Shelf
from hanlin.data.ingest.shards import Part, finished_parts
from hanlin.data.ingest.spec import Course, Sieve
from hanlin.data.ingest.splits import Look, Piece, look
from hanlin.data.io.input_file import WHOLE_FILE
from hanlin.data.io.layout import Layout
from hanlin.data.io.sources import FileListing, SourceFile, list_files, list_reference_files
from hanlin.data.ledger import DUPLICATE_REASONS, FileStats, describe_reason


def sift(
    make: Callable[[Any, Inputs], Sieve[Any, Any]], settings: Reading, inputs: Inputs, out: Path, context: StageContext
) -> dict[str, Any]:
    """Run the stage; write its files into `out` and return its metrics. `make` is a function of a module that builds
    the stage's sieve.

    Raises UserError for what cannot be read, for a source without a record, and when too much was dropped.
    """
    files = list_files(settings.sources, inputs)
    course = Course(make, settings, inputs, context.seed, context.scratch_folder(out) / "parts")
    course.parts.mkdir(exist_ok=True)
    course.questions  # noqa: B018 - questions that cannot be read are told before anything is
    size = sum(file.path.stat().st_size for file in files.files if file.path.exists())
    looks = _looked(course, context, files, size)
    known = [piece for file in list_reference_files(inputs, course.sieve.file_name) for piece in _known_pieces(file)]
    small = size + sum(piece.bytes for piece in known) <= executor.SMALL
    pieces = _pieces(files, looks)
    parts = _sifted(course, context, [*known, *pieces], small)
    _refuse_empty(settings, files, pieces, parts[len(known) :])
    shelf = Shelf.of(course, parts, len(known))
    verdicts = judged_together(shelf, context, small)
    accounts = write_records(shelf, verdicts, out)
    whole = write_ledger(accounts, files.skipped, out)
    _check(whole, settings, files, out)
    formats = Counter(account.format for account in accounts)
    metrics = {**whole.counts(), "files": len(accounts), "formats": dict(sorted(formats.items()))}
    if course.questions is not None:
        metrics |= _write_contamination(course.questions, [part for piece in parts for part in piece], out)
    return metrics


def _known_pieces(file: SourceFile) -> list[Piece]:
    status = file.path.stat()
    seen = Look(Layout("jsonl", "utf-8"), "", True, status.st_size, status.st_mtime_ns)
    return [Piece(file, seen, span, f"{file.name}-{number:05d}", known=True)
            for number, span in enumerate(seen.pieces())]  # fmt: skip


def _looked(course: Course, context: StageContext, files: FileListing, size: int) -> list[Look]:
    """Each file's look; the whole of a file is looked at for its encoding, forty times as fast as it is judged."""
    return list(Tasks(context, course.parts, size <= 40 * executor.SMALL).each(look, course, files.files))


def _pieces(files: FileListing, looks: Sequence[Look]) -> list[Piece]:
    """What is sifted, in order. A file of a source with a limit is one piece: how much of it is wanted depends on the
    files before."""
    pieces = []
    for number, (file, seen) in enumerate(zip(files.files, looks, strict=True)):
        limit = file.settings.limit
        spans = seen.pieces() if limit is None else [WHOLE_FILE]
        pieces += [Piece(file, seen, span, f"{number:05d}-{place:05d}", limit) for place, span in enumerate(spans)]
    return pieces


def _sifted(course: Course, context: StageContext, pieces: Sequence[Piece], small: bool) -> list[list[Part]]:
    """The parts of each piece. Those with a limit are done here, in order, before the others."""
    found: dict[int, list[Part]] = {}
    read: Counter[int] = Counter()
    total = sum(piece.bytes for piece in pieces)
    meter = Meter(lambda done: context.progress.update(done, total, "bytes"))
    for number, piece in enumerate(pieces):
        if piece.limit is not None:
            left = max(0, piece.limit - read[piece.file.source_index])
            found[number] = sift_piece(course, replace(piece, limit=left), meter)
            read[piece.file.source_index] += sum(part.account.rows_in for part in found[number])
        elif (parts := finished_parts(course, piece)) and parts[-1].last:
            found[number] = parts
    left_over = [number for number in range(len(pieces)) if number not in found]
    before = total - sum(pieces[number].bytes for number in left_over)
    tasks = Tasks(context, course.parts, small, total, before)
    answers = tasks.each(sift_piece, course, [pieces[number] for number in left_over])
    found |= dict(zip(left_over, answers, strict=True))
    return [found[number] for number in range(len(pieces))]


def _refuse_empty(
    settings: Reading, files: FileListing, pieces: Sequence[Piece], parts: Sequence[Sequence[Part]]
) -> None:
    """Raise UserError for a source without a record."""
    read: Counter[int] = Counter()
    for piece, mine in zip(pieces, parts, strict=True):
        read[piece.file.source_index] += sum(part.account.rows_in for part in mine)
    for place, source in enumerate(settings.sources):
        if not read[place]:
            paths = [file.path for file in files.files if file.source_index == place]
            where = paths[0] if len(paths) == 1 else source.path
            raise UserError(say("there is no record in it", "其中没有任何记录"), where)


def _write_contamination(questions: Questions, parts: Sequence[Part], out: Path) -> dict[str, int]:
    hits: Counter[str] = Counter()
    for part in parts:
        hits.update(part.questions)
    account = questions.account(hits)
    write_bytes(
        out / CONTAMINATION, (json.dumps(account, ensure_ascii=False, indent=1) + "\n").encode("utf-8"), shared=True
    )
    return {
        "contaminated_questions": sum(len(row["contaminated"]) for row in account["sets"]),
        "clean_questions": sum(len(row["clean"]) for row in account["sets"]),
        "unsearched_questions": sum(len(row["unsearched"]) for row in account["sets"]),
    }


def _check(whole: FileStats, settings: Reading, files: FileListing, out: Path) -> None:
    """Refuse a result from which too much was dropped: a wrong format or field looks just like that."""
    lost = sum(count for reason, count in whole.dropped.items() if reason not in DUPLICATE_REASONS)
    if whole.rows_kept and lost <= settings.max_dropped * whole.rows_in:
        return
    if not lost:
        what = say("every record is a copy of one in `dedup_against`", "每条记录都是 dedup_against 中已有记录的重复")
        raise UserError(what, settings.sources[0].path)
    commonest = max(
        (reason for reason in whole.dropped if reason not in DUPLICATE_REASONS), key=lambda r: whole.dropped[r]
    )
    with (out / "dropped.jsonl").open(encoding="utf-8") as lines:
        first = next(row for row in map(json.loads, lines) if row["reason"] == commonest)
    detail = f" ({first['detail']})" if "detail" in first else ""
    why = f"{describe_reason(commonest)}{detail}"
    kept = f"{lost} / {whole.rows_in}"
    hint = say(
        f"every dropped row is in {out / 'dropped.jsonl'}; `max_dropped` sets the limit",
        f"被丢弃的行都在 {out / 'dropped.jsonl'}；上限由 max_dropped 设置",
    )
    message = say(f"too many rows are dropped ({kept}), as this one: {why}", f"丢弃的行过多（{kept}），例如此行：{why}")
    name, _, line = first["location"].rpartition(":")
    path = next(file.path for file in files.files if file.name == name)
    raise UserError(message, f"{path}:{line}", hint)
