"""Statistics of a data artifact: its ledger, and a sample of its kept and dropped rows.

The figures of the ledger are of all rows. Languages, licenses and lengths are of a uniform sample of the kept records,
whose size is reported. Files are read line by line, so memory does not grow with them.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.chat.token_counts import TokenCounter
from hanlin.core.discover import VALIDATION_FILE, record_files, record_kind
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.data.report.evidence import find_evidence, read_turns
from hanlin.data.report.excerpts import count_characters, diff_texts, make_excerpt, split_parts, to_plain_text
from hanlin.data.text.language_id import identify_language

DROPPED = "dropped.jsonl"
LEDGER = "ledger.json"
_BATCH_ROWS = 256
_LANGUAGE_CHARS = 20_000
_REASON = re.compile(rb'\{"reason": "([a-z_]+)"')
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class SampleSizes:
    """How many rows to sample.

    Attributes:
        sample: Kept records for statistics.
        kept: Kept records to show.
        dropped: Dropped rows to show for each reason.
        pairs: Pairs of near-duplicates to show.
        seed: Seed of the sampling.
    """

    sample: int = 20_000
    kept: int = 8
    dropped: int = 4
    pairs: int = 8
    seed: int = 0


def is_data_artifact(folder: Path) -> bool:
    """Whether a folder holds the output of a data stage, that is, a ledger."""
    return (folder / LEDGER).is_file()


def compute_stage_stats(
    folder: Path, name: str, sizes: SampleSizes = SampleSizes(), counting: Callable[[str], TokenCounter] | None = None
) -> dict[str, Any]:
    """Compute the statistics of one data artifact.

    Args:
        folder: The artifact.
        name: Name of its stage.
        sizes: How many rows to sample.
        counting: Returns for a kind of records the function that counts their tokens; without it lengths are in
            characters.

    Raises:
        UserError: The folder is no data artifact, or its ledger or records cannot be read.
    """
    ledger = _read_ledger(folder)
    records = record_kind(folder)
    if records is None:
        raise UserError(tr("there are no records in this folder"), folder)
    files = [_file_stats(row) for row in ledger.get("files") or ledger.get("sources") or []]
    kept = [*record_files(folder, records), folder / VALIDATION_FILE]
    dropped = _sample_dropped(folder / DROPPED, ledger["dropped"], sizes)
    kept_sample = _sample_kept(kept, sizes, None if counting is None else counting(records), set(dropped.pairs))
    for index, row in enumerate(files):
        languages = kept_sample.languages_of.get(f"{index}/" if "tokens" in row else row["file"], Counter())
        row["languages"] = dict(languages.most_common())
    return {
        "name": name,
        "records": records,
        "rows_in": ledger["rows_in"],
        "kept": ledger["rows_kept"],
        "validation": ledger.get("rows_validation", 0),
        "written": ledger.get("rows_written"),
        "dropped": dict(sorted(ledger["dropped"].items(), key=lambda item: (-item[1], item[0]))),
        "changed": dict(sorted(ledger.get("changed", {}).items(), key=lambda item: (-item[1], item[0]))),
        "unread_fields": dict(sorted(ledger.get("unread_fields", {}).items(), key=lambda item: (-item[1], item[0]))),
        "cut_lines": ledger.get("cut_lines", {}),
        "characters": ledger.get("characters"),
        "tokens": ledger.get("tokens"),
        "files": files,
        "files_skipped": ledger.get("files_skipped", []),
        "sample": {"records": kept_sample.record_count, "of": kept_sample.total},
        "languages": {
            name: {"records": count, "characters": kept_sample.characters[name]}
            for name, count in kept_sample.languages.most_common()
        },
        "licenses": {
            name: {"records": count, "characters": kept_sample.license_characters[name]}
            for name, count in kept_sample.licenses.most_common()
        },
        "lengths": {
            **_summarize_lengths(kept_sample.lengths, "characters" if counting is None else "tokens"),
            "unrendered": dict(kept_sample.unrendered.most_common()),
        },
        "kept_samples": kept_sample.shown,
        "dropped_samples": dropped.shown,
        "near_duplicates": list(_diff_near_duplicates(dropped.pairs, kept_sample.originals)),
    }


def _read_ledger(folder: Path) -> dict[str, Any]:
    try:
        ledger = parse_json((folder / LEDGER).read_text(encoding="utf-8"))
        ledger["rows_in"], ledger["rows_kept"], ledger["dropped"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(tr("not the ledger of a data stage"), folder / LEDGER) from error
    return dict(ledger)


def _file_stats(row: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of a file of a reading stage, or of a source of a mix, in one form."""
    dropped = row.get("dropped")
    if dropped is None:
        remaining = row["rows_in"] - row["rows_kept"]
        dropped = {"over_budget": remaining} if remaining else {}
    mix_counts = {name: row[name] for name in ("tokens", "share", "repeats") if name in row}
    return {
        "file": row.get("file", row.get("source", "")),
        "format": row.get("format", ""),
        "encoding": row.get("encoding", ""),
        "license": row.get("license", ""),
        "rows_in": row["rows_in"],
        "kept": row["rows_kept"],
        "validation": row.get("rows_validation", 0),
        "dropped": dropped,
        "changed": row.get("changed", {}),
        "characters": row.get("characters"),
        **mix_counts,
    }


# --- dropped rows -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _DroppedSample:
    """Dropped rows to show by reason, and near-duplicates by the id of the kept record."""

    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pairs: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def _sample_dropped(path: Path, counts: Mapping[str, int], sizes: SampleSizes) -> _DroppedSample:
    """Sample dropped rows of each reason, and near-duplicates by the id of the record that they duplicate."""
    sample = _DroppedSample({reason: [] for reason in sorted(counts, key=lambda reason: -counts[reason])})
    rng = random.Random(sizes.seed)
    shown_indices = {
        reason: set(rng.sample(range(count), min(sizes.dropped, count))) for reason, count in counts.items()
    }
    near = counts.get("near_duplicate", 0)
    paired_indices = set(rng.sample(range(near), min(sizes.pairs, near)))
    count_by_reason: Counter[str] = Counter()
    for line in _read_lines(path):
        reason_match = _REASON.match(line)
        reason = reason_match[1].decode() if reason_match else ""
        index = count_by_reason[reason]
        count_by_reason[reason] += 1
        is_shown = index in shown_indices.get(reason, ())
        is_paired = reason == "near_duplicate" and index in paired_indices
        if not is_shown and not is_paired:
            continue
        row = _parse_line(line, path)
        fields = {name: row.get(name, "") for name in ("location", "detail", "duplicate_of")}
        if is_shown:
            evidence = find_evidence(row["row"], reason, row.get("detail", "")) if "row" in row else None
            sample.shown[reason].append(
                {
                    **fields,
                    "evidence": None if evidence is None else evidence.to_json(),
                    "parts": make_excerpt(read_turns(row["row"])) if "row" in row else [],
                }
            )
        if is_paired:
            sample.pairs[row["duplicate_of"]].append({**fields, "text": to_plain_text(row["row"])})
    return sample


def _diff_near_duplicates(
    pairs: Mapping[str, Sequence[Mapping[str, Any]]], kept_records: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Show near-duplicates beside the kept record, with the differing characters marked."""
    for kept_id, copies in pairs.items():
        if kept_id not in kept_records:
            continue
        for copy in copies:
            kept_parts, dropped_parts = diff_texts(kept_records[kept_id]["text"], copy["text"])
            yield {
                "duplicate_of": kept_id,
                "kept_location": kept_records[kept_id]["location"],
                "location": copy["location"],
                "kept": [{"differs": differs, "text": text} for differs, text in kept_parts],
                "dropped": [{"differs": differs, "text": text} for differs, text in dropped_parts],
            }


# --- kept records -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _KeptSample:
    """Counts over the sampled kept records, records to show, and by id the records that others duplicate."""

    total: int = 0
    record_count: int = 0
    lengths: list[int] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    license_characters: Counter[str] = field(default_factory=Counter)
    languages_of: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unrendered: Counter[str] = field(default_factory=Counter)
    shown: list[dict[str, Any]] = field(default_factory=list)
    originals: dict[str, dict[str, Any]] = field(default_factory=dict)


def _sample_kept(files: Sequence[Path], sizes: SampleSizes, count: TokenCounter | None, ids: set[str]) -> _KeptSample:
    """Compute the statistics of a sample of the records, with some to show and the records with `ids`."""
    sample = _KeptSample(total=sum(1 for file in files for _ in _read_lines(file)))
    rng = random.Random(sizes.seed)
    indices = sorted(rng.sample(range(sample.total), min(sizes.sample, sample.total)))
    sampled = set(indices)
    shown = set(rng.sample(indices, min(sizes.kept, len(indices))))
    batch: list[Mapping[str, Any]] = []
    index = 0
    for file in files:
        for line in _read_lines(file):
            id_match = _ID.match(line) if ids else None
            is_original = id_match is not None and parse_json(id_match[1]) in ids
            if index in sampled or is_original:
                row = _parse_line(line, file)
                if is_original:
                    sample.originals[row["id"]] = {"location": row.get("source", ""), "text": to_plain_text(row)}
                if index in sampled:
                    _add_record(row, sample, index in shown)
                    batch.append(row)
            index += 1
            if count is not None and len(batch) >= _BATCH_ROWS:
                _add_lengths(count, batch, file, sample)
                batch.clear()
            elif count is None:
                sample.lengths += map(count_characters, batch)
                batch.clear()
    if count is not None and batch:
        _add_lengths(count, batch, files[0], sample)
    return sample


def _add_record(row: Mapping[str, Any], sample: _KeptSample, show: bool) -> None:
    text = to_plain_text(row)
    language = identify_language(text[:_LANGUAGE_CHARS])
    sample.record_count += 1
    sample.languages[language] += 1
    sample.characters[language] += len(text)
    license = str(row.get("meta", {}).get("license", ""))
    sample.licenses[license] += 1
    sample.license_characters[license] += len(text)
    source = str(row.get("source", ""))
    sample.languages_of[source.rpartition(":")[0]][language] += 1
    sample.languages_of[str(row["id"]).partition("/")[0] + "/"][language] += 1
    if show:
        sample.shown.append(
            {"id": row["id"], "location": source, "language": language, "parts": make_excerpt(split_parts(row))}
        )


def _add_lengths(count: TokenCounter, rows: Sequence[Mapping[str, Any]], file: Path, sample: _KeptSample) -> None:
    """Add the lengths of rows. Rows that the template cannot render (it knows no tools) are counted, not refused."""
    try:
        sample.lengths += count(rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(tr("not such a record: {error}", error=error), file) from error
    except UserError as error:
        if len(rows) == 1:
            sample.unrendered[error.what] += 1
        else:
            for row in rows:
                _add_lengths(count, [row], file, sample)


def _summarize_lengths(lengths: Sequence[int], unit: str) -> dict[str, Any]:
    """Summarize lengths: total, mean, median, 90th and 99th percentile, longest, and a histogram of doubling bins.

    Example:
        bins 0-7, 8-15, 16-31, ..., each as {from, below, records}.
    """
    if not lengths:
        return {"unit": unit, "bins": []}
    ordered = sorted(lengths)
    steps = Counter(max(2, math.frexp(length)[1] - 1) for length in ordered)
    bins = [
        {"from": 0 if step == 2 else 2**step, "below": 2 ** (step + 1), "records": steps[step]}
        for step in range(min(steps), max(steps) + 1)
    ]
    quantiles = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in _QUANTILES.items()}
    mean = sum(ordered) / len(ordered)
    return {"unit": unit, "total": sum(ordered), "mean": mean, **quantiles, "longest": ordered[-1], "bins": bins}


_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


# --- files ------------------------------------------------------------------------------------------------------------


def _read_lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            yield from (line for line in file if not line.isspace())
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error


def _parse_line(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = parse_json(line)
        row.keys()
    except (ValueError, AttributeError) as error:
        raise UserError(tr("a line is not a record"), path) from error
    return row
