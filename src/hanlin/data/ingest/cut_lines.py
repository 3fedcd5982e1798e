"""Cut the lines that many documents share from the records of all shards, before duplicates are searched.

The shards are written again beside the old ones. A killed run goes on after the last one that was finished: which lines
are cut depends on all shards alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import accumulate

from hanlin.core.context import StageContext
from hanlin.core.files import write_bytes
from hanlin.data.dedup.keys import Hashes
from hanlin.data.dedup.lines import cut_lines, find_frequent_lines
from hanlin.data.ingest.executor import Executor, ProgressCounter
from hanlin.data.ingest.process_split import dump_record
from hanlin.data.ingest.shard_index import LOCATION
from hanlin.data.ingest.shards import Shard, ShardArrayBuilder, load_shard
from hanlin.data.ingest.spec import WorkerContext
from hanlin.data.ledger import Drop, FileStats, count_cut_lines, format_dropped_row

_RULE = "dedup_lines"


@dataclass(frozen=True)
class _Cut:
    """What a worker needs to cut lines: the stage, and the sorted hashes of the lines."""

    worker: WorkerContext
    frequent: Hashes


def cut_frequent_lines(
    worker: WorkerContext, shards: Sequence[Sequence[Shard]], context: StageContext, in_process: bool
) -> list[list[Shard]]:
    """Cut the lines that are in more than `dedup.lines` documents.

    Args:
        worker: The stage.
        shards: The shards of each split.
        context: Cores or cluster.
        in_process: Do it in this process.

    Returns:
        The shards to go on with, of each split; those of other stages stay.
    """
    own = [shard for group in shards for shard in group if shard.reference_path is None]
    limit = worker.spec.dedup.lines
    assert limit is not None

    def read() -> Iterator[Hashes]:
        return (shard.load_array(".lines.npy") for shard in own)

    frequent = find_frequent_lines(read, sum(map(len, read())), limit)
    if not len(frequent):
        return [list(group) for group in shards]
    executor = Executor(context, worker.shard_folder, in_process)
    cut = iter(list(executor.map(_cut_shard, _Cut(worker, frequent), own)))
    return [[shard if shard.reference_path is not None else next(cut) for shard in group] for group in shards]


def _cut_shard(cut: _Cut, shard: Shard, progress: ProgressCounter) -> Shard:
    """Write a shard again without the lines; `progress` is unused."""
    stem = shard.stem.with_name(f"{shard.stem.name}-cut")
    if (finished := load_shard(stem)) is not None:
        return finished
    spec = cut.worker.spec
    stats = FileStats(**{name: getattr(shard.stats, name) for name in FileStats.__dataclass_fields__})
    stats.dropped, stats.changed = Counter(stats.dropped), Counter(stats.changed)
    stats.unread_fields, stats.cut_lines = Counter(stats.unread_fields), Counter(stats.cut_lines)
    stats.read_languages = Counter(stats.read_languages)
    kept: list[bytes] = []
    dropped: list[bytes] = []
    arrays, builder = shard.load_arrays(), ShardArrayBuilder(spec, cut.worker.seed)
    lines = shard.records_path.read_bytes()
    ends = accumulate(arrays["num_bytes"].tolist())
    columns = (arrays[name].tolist() for name in ("num_bytes", "tail_bytes", "row", "line"))
    for (size, tail_bytes, row, line_number), end in zip(zip(*columns, strict=True), ends, strict=True):
        line = lines[end - size : end]
        record = spec.record_type.from_json(json.loads(line))
        text = cut_lines(record.text, cut.frequent)
        if text != record.text:
            if len(text.strip()) < spec.min_chars:
                drop = Drop("too_short", f"{len(text.strip())} characters beside lines of other documents")
                stats.dropped[drop.reason] += 1
                fields = {name: value for name, value in record.to_json().items() if name not in ("id", "source")}
                dropped.append((format_dropped_row(drop, record.source, fields) + "\n").encode("utf-8"))
                continue
            count_cut_lines(stats.cut_lines, record.text, text)
            record = replace(record, text=text)
            line, tail_bytes = dump_record(record)
            stats.changed[_RULE] += 1
        kept.append(line)
        builder.append(record, row, line_number, len(line), tail_bytes)
    written = Shard(stem, stats, shard.questions, shard.is_last, shard.num_lines)
    write_bytes(written.path(".kept.jsonl"), b"".join(kept), shared=True)
    earlier = shard.path(".dropped.jsonl").read_bytes().splitlines(keepends=True)
    rows: list[bytes] = list(merge(earlier, dropped, key=_get_line_number))
    write_bytes(written.path(".dropped.jsonl"), b"".join(rows), shared=True)
    builder.write(written)
    written.write_summary()
    return written


def _get_line_number(dropped_row: bytes) -> int:
    match = LOCATION.search(dropped_row)
    assert match is not None
    return int(match[2])
