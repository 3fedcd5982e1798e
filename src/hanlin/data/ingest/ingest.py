"""What all data stages that read files do: read and process every row, deduplicate, split, and write the ledger.

1. `splits`: probe every file, and divide it into input splits.
2. `process_split`: process every split and write shards; on all cores or on a cluster (`executor`).
3. `cut_lines`: cut the lines that many documents share, if that is wanted.
4. `deduplicate`: find duplicates over all shards (`shard_index`), and select the validation split.
5. `finalize`: write the final files.

A killed run goes on after its last finished shard. The final bytes depend on sources, settings and seed alone, not on
how many processes or machines did the work.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.config.reasons import describe_reason
from hanlin.config.settings.data import Reading
from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import changed_while_read, file_state, write_json
from hanlin.core.i18n import join_list, tr
from hanlin.data.ingest import executor
from hanlin.data.ingest.cut_lines import cut_frequent_lines
from hanlin.data.ingest.deduplicate import deduplicate
from hanlin.data.ingest.executor import Executor, ProgressCounter
from hanlin.data.ingest.finalize import write_ledger, write_records
from hanlin.data.ingest.process_split import process_split
from hanlin.data.ingest.shard_index import ShardIndex
from hanlin.data.ingest.shards import Shard, load_finished_shards
from hanlin.data.ingest.spec import DatasetSpec, WorkerContext
from hanlin.data.ingest.splits import FileProbe, InputSplit, probe_file
from hanlin.data.io.input_file import WHOLE_FILE, InputFile
from hanlin.data.io.layout import Layout
from hanlin.data.io.sources import FileListing, SourceFile, list_files, list_reference_files
from hanlin.data.ledger import DUPLICATE_REASONS, FileStats

if TYPE_CHECKING:
    from hanlin.data.dedup.decontaminate import QuestionIndex

_PROBE_SPEED = 40
"""How many times as fast a file is probed (all of it, for its encoding) as it is processed."""


def ingest(
    build_spec: Callable[[Any, Inputs], DatasetSpec[Any, Any]],
    settings: Reading,
    inputs: Inputs,
    out: Path,
    context: StageContext,
) -> dict[str, Any]:
    """Run a data stage.

    Args:
        build_spec: A function of a module that builds the stage's spec from settings and inputs.
        settings: Settings of the stage.
        inputs: Its inputs.
        out: Its folder.
        context: Seed, cores, cluster, progress.

    Returns:
        The metrics.

    Raises:
        UserError: A file cannot be read, a source has no record, or too many rows were dropped.
    """
    files = list_files(settings.sources, inputs)
    worker = WorkerContext(build_spec, settings, inputs, context.seed, context.scratch_folder(out) / "shards")
    if worker.spec.dedup.method == "none":
        _refuse_read_twice(files)
    worker.shard_folder.mkdir(exist_ok=True)
    if worker.questions is not None:  # an unreadable question set is reported before anything is processed
        for path, rows in worker.questions.unasked.items():
            context.progress.log(
                tr("{path}: {rows:,} rows have no question: nothing is compared with them", path=path, rows=rows)
            )
    worker.overlay  # noqa: B018 - and so is an overlay
    num_bytes = sum(file.path.stat().st_size for file in files.files if file.path.exists())
    probes = _probe_files(worker, context, files, num_bytes)
    _note_missing_fields(settings, context, files, probes)
    reference_splits = [
        split for file in list_reference_files(inputs, worker.spec.file_name) for split in _make_reference_splits(file)
    ]
    reference_bytes = sum(split.num_bytes for split in reference_splits)
    in_process = num_bytes + reference_bytes <= executor.SMALL_INPUT_BYTES
    splits = _make_splits(files, probes)
    shards = _process_splits(worker, context, [*reference_splits, *splits], in_process)
    _check_sources_have_records(settings, files, splits, shards[len(reference_splits) :])
    if worker.overlay is not None:
        applied: Counter[str] = Counter()
        for shard in (shard for group in shards for shard in group):
            applied.update(shard.corrections)
        worker.overlay.check_used(applied, inputs.path("overlay"))
    if worker.spec.dedup.lines is not None:
        shards = cut_frequent_lines(worker, shards, context, in_process)
    index = ShardIndex.build(worker, shards, len(reference_splits))
    result = deduplicate(index, context, in_process)
    stats_of_files = write_records(index, result, out)
    total = write_ledger(stats_of_files, files.skipped, out)
    _check_dropped_share(total, settings, files, out)
    formats = Counter(stats.format for stats in stats_of_files)
    metrics = {**total.counts(), "files": len(stats_of_files), "formats": dict(sorted(formats.items()))}
    if worker.questions is not None:
        metrics |= _write_contamination(worker.questions, [shard for group in shards for shard in group], out)
    return metrics


def _make_reference_splits(file: SourceFile) -> list[InputSplit]:
    with InputFile(file.path) as opened:
        if opened.is_compressed:  # a record is read again by its place in the file
            what = tr("records are not compared with those of a compressed file")
            raise UserError(what, file.path, tr("unpack it, and name the unpacked file"))
    probe = FileProbe(Layout("jsonl", "utf-8"), "", True, file_state(file.path.stat()))
    return [
        InputSplit(file, probe, byte_range, f"{file.name}-{index:05d}", is_reference=True)
        for index, byte_range in enumerate(probe.split())
    ]


def _probe_files(worker: WorkerContext, context: StageContext, files: FileListing, num_bytes: int) -> list[FileProbe]:
    in_process = num_bytes <= _PROBE_SPEED * executor.SMALL_INPUT_BYTES
    probes = list(Executor(context, worker.shard_folder, in_process).map(probe_file, worker, files.files))
    for file, probe in zip(files.files, probes, strict=True):
        if not probe.is_unchanged(worker.inputs.states.get(str(file.path), probe.state)):
            raise changed_while_read(file.path)
    return probes


def _refuse_read_twice(files: FileListing) -> None:
    """Refuse a file that is read twice alike where nothing drops duplicates: its records would count twice."""
    ways: dict[Path, list[Source]] = {}
    for file in files.files:
        path = file.path.resolve()
        source = file.settings.model_copy(update={"path": ""})
        if source in ways.get(path, ()):
            what = tr("this file is read twice, and `dedup` is none")
            raise UserError(what, file.path, tr("name it once; a stage `mix` says how much each source counts"))
        ways.setdefault(path, []).append(source)


def _note_missing_fields(
    settings: Reading, context: StageContext, files: FileListing, probes: Sequence[FileProbe]
) -> None:
    """Say which names of the setting `fields` no file of the source has in its first rows; one that has them is enough,
    since files of several shapes may share a mapping.
    """
    for source_index, source in enumerate(settings.sources):
        of_source = [
            set(probe.missing)
            for file, probe in zip(files.files, probes, strict=True)
            if file.source_index == source_index
        ]
        missing = set.intersection(*of_source) if source.fields and of_source else set()
        if missing:
            names = join_list(sorted(missing))
            context.progress.log(
                tr("{path}: none of the first rows has {names}, which `fields` names", path=source.path, names=names)
            )


def _make_splits(files: FileListing, probes: Sequence[FileProbe]) -> list[InputSplit]:
    """Divide the files into splits, in order.

    A file of a source with a limit is one split: how much of it is read depends on the files before it.
    """
    splits = []
    for file_index, (file, probe) in enumerate(zip(files.files, probes, strict=True)):
        limit = file.settings.limit
        byte_ranges = probe.split() if limit is None else [WHOLE_FILE]
        splits += [
            InputSplit(file, probe, byte_range, f"{file_index:05d}-{index:05d}", limit)
            for index, byte_range in enumerate(byte_ranges)
        ]
    return splits


def _process_splits(
    worker: WorkerContext, context: StageContext, splits: Sequence[InputSplit], in_process: bool
) -> list[list[Shard]]:
    """Process all splits; those with a limit come first, in this process and in order.

    Returns:
        The shards of each split.
    """
    shards: dict[int, list[Shard]] = {}
    rows_read: Counter[int] = Counter()
    total_bytes = sum(split.num_bytes for split in splits)
    progress = ProgressCounter(lambda done: context.progress.update(done, total_bytes, tr("bytes")))
    for index, split in enumerate(splits):
        if split.limit is not None:
            limit = max(0, split.limit - rows_read[split.file.source_index])
            shards[index] = process_split(worker, replace(split, limit=limit), progress)
            rows_read[split.file.source_index] += sum(shard.stats.rows_in for shard in shards[index])
        elif (finished := load_finished_shards(worker, split)) and finished[-1].is_last:
            shards[index] = finished
    remaining = [index for index in range(len(splits)) if index not in shards]
    done_bytes = total_bytes - sum(splits[index].num_bytes for index in remaining)
    pool = Executor(context, worker.shard_folder, in_process, total_bytes, done_bytes)
    results = pool.map(process_split, worker, [splits[index] for index in remaining])
    shards |= dict(zip(remaining, results, strict=True))
    return [shards[index] for index in range(len(splits))]


def _check_sources_have_records(
    settings: Reading, files: FileListing, splits: Sequence[InputSplit], shards: Sequence[Sequence[Shard]]
) -> None:
    """Raise UserError for a source without a record."""
    rows_read: Counter[int] = Counter()
    for split, shards_of_split in zip(splits, shards, strict=True):
        rows_read[split.file.source_index] += sum(shard.stats.rows_in for shard in shards_of_split)
    for source_index, source in enumerate(settings.sources):
        if not rows_read[source_index]:
            paths = [file.path for file in files.files if file.source_index == source_index]
            where = paths[0] if len(paths) == 1 else source.path
            raise UserError(tr("there is no record in it"), where)


def _write_contamination(questions: QuestionIndex, shards: Sequence[Shard], out: Path) -> dict[str, int]:
    """Write `contamination.json`; return the number of questions of each kind."""
    from hanlin.data.dedup.decontaminate import CONTAMINATION_FILE

    hits: Counter[str] = Counter()
    for shard in shards:
        hits.update(shard.questions)
    report = questions.report(hits)
    write_json(out / CONTAMINATION_FILE, report, shared=True)
    return {
        "contaminated_questions": sum(len(row["contaminated"]) for row in report["sets"]),
        "clean_questions": sum(len(row["clean"]) for row in report["sets"]),
        "unsearched_questions": sum(len(row["unsearched"]) for row in report["sets"]),
        **({"rows_without_question": sum(questions.unasked.values())} if questions.unasked else {}),
    }


def _check_dropped_share(total: FileStats, settings: Reading, files: FileListing, out: Path) -> None:
    """Raise UserError if too many rows were dropped, as happens with a wrong format or field; duplicates do not count.

    The error names the most frequent reason and the first row that was dropped for it.
    """
    num_dropped = sum(count for reason, count in total.dropped.items() if reason not in DUPLICATE_REASONS)
    if total.rows_kept and num_dropped <= settings.max_dropped * total.rows_in:
        return
    if not num_dropped:
        what = tr("every record is a duplicate of one in `dedup_against`")
        raise UserError(what, settings.sources[0].path)
    main_reason = max(
        (reason for reason in total.dropped if reason not in DUPLICATE_REASONS), key=lambda r: total.dropped[r]
    )
    dropped_path = out / "dropped.jsonl"
    with dropped_path.open(encoding="utf-8") as lines:
        example = next(row for row in map(json.loads, lines) if row["reason"] == main_reason)
    detail = f" ({example['detail']})" if "detail" in example else ""
    why = f"{describe_reason(main_reason)}{detail}"
    share = f"{num_dropped} / {total.rows_in}"
    if total.rows_kept:
        hint = tr("every dropped row is in {dropped_path}; `max_dropped` sets the limit", dropped_path=dropped_path)
        message = tr("too many rows are dropped ({share}), for example: {why}", share=share, why=why)
    else:
        hint = tr("every dropped row is in {dropped_path}", dropped_path=dropped_path)
        message = tr("nothing is left: all rows are dropped ({share}), for example: {why}", share=share, why=why)
    name, _, line = example["location"].rpartition(":")
    path = next(file.path for file in files.files if file.name == name)
    raise UserError(message, f"{path}:{line}", hint)
