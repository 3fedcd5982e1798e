"""What a data stage did, in figures: the ledger, and what a sample of its kept and dropped rows shows.

Owns counting and sampling. The figures of the ledger are whole; languages, licenses and lengths are of a sample of kept
records whose size is told, drawn evenly over all. Files are read line by line, so memory does not grow with them.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.chat.token_counts import Count
from hanlin.core.discover import VALIDATION_FILE, record_files, record_kind
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.report.excerpts import count_characters, diff_texts, make_excerpt, to_plain_text
from hanlin.data.text.language_id import identify_language

DROPPED = "dropped.jsonl"
LEDGER = "ledger.json"
_BATCH_ROWS = 256
_LANGUAGE_CHARS = 20_000
_REASON = re.compile(rb'\{"reason": "([a-z_]+)"')
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class SampleSizes:
    """How much of a stage is looked at: kept records for figures, kept records shown, rows shown for each reason and
    pairs of near copies shown."""

    sample: int = 20_000
    kept: int = 8
    dropped: int = 4
    pairs: int = 8
    seed: int = 0


def is_data_artifact(folder: Path) -> bool:
    return (folder / LEDGER).is_file()


def compute_stage_stats(
    folder: Path, name: str, taken: SampleSizes = SampleSizes(), counting: Callable[[str], Count] | None = None
) -> dict[str, Any]:
    """The figures of one data artifact. `counting` gives for the kind of records what counts their tokens; without it
    lengths are characters.

    Raises UserError where the folder is no data artifact, or its ledger or records cannot be read.
    """
    ledger = _read_ledger(folder)
    records = record_kind(folder)
    if records is None:
        raise UserError(say("there are no records in it", "其中没有数据记录"), folder)
    files = [_file_stats(row) for row in ledger.get("files") or ledger.get("sources") or []]
    kept = [*record_files(folder, records), folder / VALIDATION_FILE]
    dropped = _sample_dropped(folder / DROPPED, ledger["dropped"], taken)
    seen = _sample_kept(kept, taken, None if counting is None else counting(records), set(dropped.pairs))
    for place, row in enumerate(files):
        found = seen.languages_of.get(f"{place}/" if "tokens" in row else row["file"], Counter())
        row["languages"] = dict(found.most_common())
    return {
        "name": name,
        "records": records,
        "rows_in": ledger["rows_in"],
        "kept": ledger["rows_kept"],
        "validation": ledger.get("rows_validation", 0),
        "written": ledger.get("rows_written"),
        "dropped": dict(sorted(ledger["dropped"].items(), key=lambda item: (-item[1], item[0]))),
        "changed": dict(sorted(ledger.get("changed", {}).items(), key=lambda item: (-item[1], item[0]))),
        "characters": ledger.get("characters"),
        "tokens": ledger.get("tokens"),
        "files": files,
        "files_skipped": ledger.get("files_skipped", []),
        "sample": {"records": seen.looked_at, "of": seen.total},
        "languages": {
            name: {"records": count, "characters": seen.characters[name]}
            for name, count in seen.languages.most_common()
        },
        "licenses": {
            name: {"records": count, "characters": seen.licensed[name]} for name, count in seen.licenses.most_common()
        },
        "lengths": {
            **_summarize_lengths(seen.lengths, "characters" if counting is None else "tokens"),
            "unrendered": dict(seen.unrendered.most_common()),
        },
        "kept_samples": seen.shown,
        "dropped_samples": dropped.shown,
        "near_duplicates": list(_diff_near_duplicates(dropped.pairs, seen.wanted)),
    }


def _read_ledger(folder: Path) -> dict[str, Any]:
    try:
        ledger = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
        ledger["rows_in"], ledger["rows_kept"], ledger["dropped"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(say("not the ledger of a data stage", "不是数据阶段的账本"), folder / LEDGER) from error
    return dict(ledger)


def _file_stats(row: Mapping[str, Any]) -> dict[str, Any]:
    """A file of a reading stage, or a source of a mix, as a row of the report."""
    dropped = row.get("dropped")
    if dropped is None:
        left = row["rows_in"] - row["rows_kept"]
        dropped = {"over_budget": left} if left else {}
    more = {name: row[name] for name in ("tokens", "share", "repeats") if name in row}
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
        **more,
    }


# --- dropped rows -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _DroppedSample:
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pairs: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def _sample_dropped(path: Path, counts: Mapping[str, int], taken: SampleSizes) -> _DroppedSample:
    """Rows of each reason to show, and near copies by the id of the record that they copy."""
    found = _DroppedSample({reason: [] for reason in sorted(counts, key=lambda reason: -counts[reason])})
    chance = random.Random(taken.seed)
    wanted = {reason: set(chance.sample(range(count), min(taken.dropped, count))) for reason, count in counts.items()}
    near = counts.get("near_duplicate", 0)
    paired = set(chance.sample(range(near), min(taken.pairs, near)))
    met: Counter[str] = Counter()
    for line in _read_lines(path):
        opening = _REASON.match(line)
        reason = opening[1].decode() if opening else ""
        place = met[reason]
        met[reason] += 1
        shows, pairs = place in wanted.get(reason, ()), reason == "near_duplicate" and place in paired
        if not shows and not pairs:
            continue
        row = _parse_line(line, path)
        fields = {name: row.get(name, "") for name in ("location", "detail", "duplicate_of")}
        if shows:
            found.shown[reason].append({**fields, "parts": make_excerpt(row["row"]) if "row" in row else []})
        if pairs:
            found.pairs[row["duplicate_of"]].append({**fields, "text": to_plain_text(row["row"])})
    return found


def _diff_near_duplicates(
    pairs: Mapping[str, Sequence[Mapping[str, Any]]], kept: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Near copies beside what they copy, the differing characters marked."""
    for of, copies in pairs.items():
        if of not in kept:
            continue
        for copy in copies:
            left, right = diff_texts(kept[of]["text"], copy["text"])
            yield {
                "duplicate_of": of,
                "kept_location": kept[of]["location"],
                "location": copy["location"],
                "kept": [{"differs": differs, "text": text} for differs, text in left],
                "dropped": [{"differs": differs, "text": text} for differs, text in right],
            }


# --- kept records -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _KeptSample:
    total: int = 0
    looked_at: int = 0
    lengths: list[int] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    licensed: Counter[str] = field(default_factory=Counter)
    languages_of: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unrendered: Counter[str] = field(default_factory=Counter)
    shown: list[dict[str, Any]] = field(default_factory=list)
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)


def _sample_kept(files: Sequence[Path], taken: SampleSizes, count: Count | None, ids: set[str]) -> _KeptSample:
    """Figures of a sample of the records in these files, some to show, and those with the wanted ids."""
    found = _KeptSample(total=sum(1 for file in files for _ in _read_lines(file)))
    chance = random.Random(taken.seed)
    sample = sorted(chance.sample(range(found.total), min(taken.sample, found.total)))
    chosen = set(sample)
    shown = set(chance.sample(sample, min(taken.kept, len(sample))))
    waiting: list[Mapping[str, Any]] = []
    place = 0
    for file in files:
        for line in _read_lines(file):
            named = _ID.match(line) if ids else None
            is_wanted = named is not None and json.loads(named[1]) in ids
            if place in chosen or is_wanted:
                row = _parse_line(line, file)
                if is_wanted:
                    found.wanted[row["id"]] = {"location": row.get("source", ""), "text": to_plain_text(row)}
                if place in chosen:
                    _add_record(row, found, place in shown)
                    waiting.append(row)
            place += 1
            if count is not None and len(waiting) >= _BATCH_ROWS:
                _add_lengths(count, waiting, file, found)
                waiting.clear()
            elif count is None:
                found.lengths += map(count_characters, waiting)
                waiting.clear()
    if count is not None and waiting:
        _add_lengths(count, waiting, files[0], found)
    return found


def _add_record(row: Mapping[str, Any], found: _KeptSample, show: bool) -> None:
    text = to_plain_text(row)
    language = identify_language(text[:_LANGUAGE_CHARS])
    found.looked_at += 1
    found.languages[language] += 1
    found.characters[language] += len(text)
    license = str(row.get("meta", {}).get("license", ""))
    found.licenses[license] += 1
    found.licensed[license] += len(text)
    source = str(row.get("source", ""))
    found.languages_of[source.rpartition(":")[0]][language] += 1
    found.languages_of[str(row["id"]).partition("/")[0] + "/"][language] += 1
    if show:
        found.shown.append({"id": row["id"], "location": source, "language": language, "parts": make_excerpt(row)})


def _add_lengths(count: Count, rows: Sequence[Mapping[str, Any]], file: Path, found: _KeptSample) -> None:
    """Add the lengths of rows. Those that the template cannot render (it knows no tools) are told, not refused."""
    try:
        found.lengths += count(rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(say(f"not such a record: {error}", f"不是此类记录：{error}"), file) from error
    except UserError as error:
        if len(rows) == 1:
            found.unrendered[error.what] += 1
        else:
            for row in rows:
                _add_lengths(count, [row], file, found)


def _summarize_lengths(lengths: Sequence[int], unit: str) -> dict[str, Any]:
    """A histogram whose bins double: 1-7, 8-15, 16-31, ... (the last ones hold the longest), and what stands where."""
    if not lengths:
        return {"unit": unit, "bins": []}
    ordered = sorted(lengths)
    steps = Counter(max(2, math.frexp(length)[1] - 1) for length in ordered)
    bins = [
        {"from": 0 if step == 2 else 2**step, "below": 2 ** (step + 1), "records": steps[step]}
        for step in range(min(steps), max(steps) + 1)
    ]
    at = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in _QUANTILES.items()}
    mean = sum(ordered) / len(ordered)
    return {"unit": unit, "total": sum(ordered), "mean": mean, **at, "longest": ordered[-1], "bins": bins}


_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


# --- files ------------------------------------------------------------------------------------------------------------


def _read_lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            yield from (line for line in file if not line.isspace())
    except OSError as error:
        raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), path) from error


def _parse_line(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        row.keys()
    except (ValueError, AttributeError) as error:
        raise UserError(say("a line is not a record", "有一行不是记录"), path) from error
    return row
