"""The stage `mix`: records of several stages become one artifact, in proportions of tokens and a fixed order.

Owns how many tokens each source gives, which of its records, and their order. Records are taken as they are.

Tokens are counted with the tokenizer that will read them (conversations as the chat template renders them). The order
keeps the proportions throughout, so that what a training run has seen at any step is mixed as the whole. What was
counted and written is kept, so a killed run goes on where it stood and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from hanlin.chat.token_counts import TokenCounter, make_token_counter
from hanlin.config.settings.mix import Mix, MixSource
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import VALIDATION_FILE, record_files
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.ledger import dump_json_line

CHUNK = 5_000
"""Rows that are counted or written together: what a killed run may have to do again."""

Numbers = npt.NDArray[np.int64]


def run(settings: Mix, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `<records>.jsonl`, `validation.jsonl`, `ledger.json` and `dropped.jsonl` (the ids that no token was left for).

    Ids get the number of their source before them, and `~2` behind where a record is taken a second time. Held-out
    records are joined, once each. Raises UserError for a source without such records.
    """
    scratch = context.scratch_folder(out)
    count = make_token_counter(settings.records, inputs.path("tokenizer"))
    sources = []
    for place in range(len(settings.sources)):
        files = record_files(inputs.path(f"sources.{place}.data"), settings.records)
        if not files:
            what = say(f"there are no {settings.records} in it", f"其中没有 {settings.records}")
            raise UserError(what, inputs.path(f"sources.{place}.data"), say("set `records`", "请设置 records"))
        sources.append(_measured(place, files, count, scratch, context))
    tokens = [int(source.tokens.sum()) for source in sources]
    wanted = allotted(tokens, settings.sources, settings.tokens, settings.temperature)
    picks = [
        picked(source.tokens, target, f"{context.seed}/{place}")
        for place, (source, target) in enumerate(zip(sources, wanted, strict=True))
    ]
    order = woven([source.tokens[pick] for source, pick in zip(sources, picks, strict=True)])
    if not len(order):
        raise UserError(say("the budget is smaller than any record", "预算小于任何一条记录"), "tokens")
    _write(out / f"{settings.records}.jsonl", sources, picks, order, scratch, context)
    _write_heldout(out, [inputs.path(f"sources.{place}.data") for place in range(len(sources))])
    return _account(settings, sources, picks, wanted, out)


# --- how much of each -------------------------------------------------------------------------------------------------


def allotted(
    tokens: Sequence[int], sources: Sequence[MixSource], budget: int | None, temperature: float
) -> list[float]:
    """The tokens that each source gives.

    Sources with a `share` give that share of the budget; the others divide the rest by weight × tokens^(1/temperature)
    (Conneau et al. 2020, arXiv 1911.02116, section 3.1, with exponent 0.3). No source gives more than `max_repeats`
    times what it has (four repeats are nearly as good as new text: Muennighoff et al. 2023, arXiv 2305.16264); what it
    cannot give the ones without a share give in its place, in proportion, as far as they can.
    """
    free = [place for place, source in enumerate(sources) if source.share is None]
    fixed = sum(source.share or 0.0 for source in sources)
    total = sum(tokens[place] for place in free) / (1 - fixed) if budget is None else float(budget)
    most = [source.max_repeats * size for source, size in zip(sources, tokens, strict=True)]
    given = [min((source.share or 0.0) * total, limit) for source, limit in zip(sources, most, strict=True)]
    strength = {place: sources[place].weight * tokens[place] ** (1 / temperature) for place in free if tokens[place]}
    while strength:
        left = total - sum(given)
        scale = left / sum(strength.values())
        full = [place for place, size in strength.items() if size * scale >= most[place]]
        for place in full or strength:
            given[place] = most[place] if full else strength[place] * scale
        strength = {place: size for place, size in strength.items() if full and place not in full}
    return given


def picked(tokens: Numbers, target: float, salt: str) -> Numbers:
    """The places of the rows that are taken for `target` tokens: whole passes in a new order each, then the beginning
    of one more, as far as it goes without passing the target."""
    total = int(tokens.sum())
    if total == 0 or target <= 0:
        return np.empty(0, dtype=np.int64)
    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little")
    chance = np.random.Generator(np.random.PCG64(seed))
    passes = []
    left = target
    while left > 0:
        order = chance.permutation(len(tokens)).astype(np.int64)
        passes.append(order[np.cumsum(tokens[order]) <= left + 1e-6 * total])
        left -= total
    return np.concatenate(passes)


def woven(tokens: Sequence[Numbers]) -> Numbers:
    """The order of all picked rows, (rows, 2): source and place among its picks. Each source is spread evenly, by
    tokens, over the whole."""
    middles = []
    for sizes in tokens:
        ends = np.cumsum(sizes)
        middles.append((ends - sizes / 2) / max(1, int(ends[-1]) if len(ends) else 1))
    owners = np.concatenate([np.full(len(sizes), place, dtype=np.int64) for place, sizes in enumerate(tokens)])
    places = np.concatenate([np.arange(len(sizes), dtype=np.int64) for sizes in tokens])
    order = np.lexsort((places, owners, np.concatenate(middles)))
    return np.stack([owners[order], places[order]], axis=1)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Measured:
    """A source's rows: in which of its files, where they begin, how many tokens they are."""

    files: tuple[Path, ...]
    owners: Numbers
    starts: Numbers
    tokens: Numbers


def _measured(
    place: int, files: Sequence[Path], count: TokenCounter, scratch: Path, context: StageContext
) -> _Measured:
    """Count a source's tokens; what an earlier try counted is taken over by chunk."""
    owners, starts, tokens = [], [], []
    for number, file in enumerate(files):
        size = file.stat().st_size
        position, chunk = 0, 0
        while position < size:
            saved = scratch / f"tokens-{place:03d}-{number:03d}-{chunk:06d}.npz"
            if not saved.is_file():
                _count_chunk(file, position, count, saved)
            with np.load(saved, allow_pickle=False) as data:
                starts.append(data["starts"])
                tokens.append(data["tokens"])
                owners.append(np.full(len(data["tokens"]), number, dtype=np.int64))
                position = int(data["end"])
            chunk += 1
            context.progress.update(position, size, "bytes")
    empty = np.empty(0, dtype=np.int64)
    joined = [np.concatenate(parts) if parts else empty for parts in (owners, starts, tokens)]
    return _Measured(tuple(files), *joined)


def _count_chunk(file: Path, position: int, count: TokenCounter, saved: Path) -> None:
    starts, rows = [], []
    with file.open("rb") as lines:
        lines.seek(position)
        for line in islice(iter(lines.readline, b""), CHUNK):
            if line.strip():
                starts.append(position)
                rows.append(_row(line, file))
            position += len(line)
    try:
        tokens = count(rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(say(f"not such a record: {error}", f"不是此类记录：{error}"), file) from error
    aside = saved.with_suffix(".writing")
    with aside.open("wb") as opened:
        np.savez(opened, starts=np.array(starts, np.int64), tokens=np.array(tokens, np.int64), end=np.int64(position))
    os.replace(aside, saved)


def _row(line: bytes, file: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        row["id"] + ""
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(say("a line is not a record", "有一行不是记录"), file) from error
    return row


# --- writing ----------------------------------------------------------------------------------------------------------


def _write(
    path: Path,
    sources: Sequence[_Measured],
    picks: Sequence[Numbers],
    order: Numbers,
    scratch: Path,
    context: StageContext,
) -> None:
    """Write the rows in order, going on after what an earlier try is known to have written."""
    if path.is_file():
        return
    aside, state = path.with_name(path.name + ".writing"), scratch / "written.json"
    done = (
        json.loads(state.read_text(encoding="utf-8"))
        if state.is_file() and aside.is_file()
        else {"rows": 0, "bytes": 0}
    )
    times = [_times(pick) for pick in picks]
    opened: dict[tuple[int, int], BinaryIO] = {}
    try:
        with aside.open("r+b" if done["rows"] else "wb") as file:
            file.truncate(done["bytes"])
            file.seek(done["bytes"])
            for number in range(done["rows"], len(order)):
                owner, place = map(int, order[number])
                row = _read(sources[owner], owner, int(picks[owner][place]), opened)
                again = int(times[owner][place])
                row["id"] = f"{owner}/{row['id']}" + (f"~{again}" if again > 1 else "")
                file.write((dump_json_line(row) + "\n").encode("utf-8"))
                if (number + 1) % CHUNK == 0:
                    file.flush()
                    os.fsync(file.fileno())
                    _write_state(state, number + 1, file.tell())
                    context.progress.update(number + 1, len(order), say("records", "条"))
    finally:
        for source in opened.values():
            source.close()
    os.replace(aside, path)


def _write_state(state: Path, rows: int, size: int) -> None:
    aside = state.with_suffix(".writing")
    aside.write_text(json.dumps({"rows": rows, "bytes": size}), encoding="utf-8")
    os.replace(aside, state)


def _read(source: _Measured, owner: int, place: int, opened: dict[tuple[int, int], BinaryIO]) -> dict[str, Any]:
    file = int(source.owners[place])
    if (owner, file) not in opened:
        opened[owner, file] = source.files[file].open("rb")
    opened[owner, file].seek(int(source.starts[place]))
    return _row(opened[owner, file].readline(), source.files[file])


def _times(pick: Numbers) -> Numbers:
    """For each pick whether its row is taken for the first time (1), the second (2), ..."""
    order = np.argsort(pick, kind="stable")
    sorted_ = pick[order]
    first = np.flatnonzero(np.append(True, sorted_[1:] != sorted_[:-1])) if len(pick) else np.empty(0, dtype=np.int64)
    within = np.arange(len(pick)) - np.repeat(first, np.diff(np.append(first, len(pick))))
    times = np.empty(len(pick), dtype=np.int64)
    times[order] = within + 1
    return times


def _write_heldout(out: Path, folders: Sequence[Path]) -> None:
    lines = [line for place, folder in enumerate(folders) for line in _heldout(folder, place)]
    if lines:
        _write_whole(out / VALIDATION_FILE, "".join(lines))


def _heldout(folder: Path, place: int) -> Iterator[str]:
    file = folder / VALIDATION_FILE
    if folder.is_dir() and file.is_file():
        with file.open("rb") as lines:
            for line in lines:
                row = _row(line, file)
                yield dump_json_line({**row, "id": f"{place}/{row['id']}"}) + "\n"


def _account(
    settings: Mix, sources: Sequence[_Measured], picks: Sequence[Numbers], wanted: Sequence[float], out: Path
) -> dict[str, Any]:
    """Write the account: each row that was in is taken, once or several times, or left out for want of tokens."""
    rows: list[dict[str, Any]] = []
    taken = [int(source.tokens[pick].sum()) for source, pick in zip(sources, picks, strict=True)]
    with (out / "dropped.jsonl.writing").open("w", encoding="utf-8", newline="\n") as dropped:
        for place, (source, pick) in enumerate(zip(sources, picks, strict=True)):
            kept = np.unique(pick)
            opened: dict[tuple[int, int], BinaryIO] = {}
            for left in np.setdiff1d(np.arange(len(source.tokens)), kept):
                name = _read(source, place, int(left), opened)["id"]
                dropped.write(dump_json_line({"reason": "over_budget", "location": f"{place}/{name}"}) + "\n")
            for file in opened.values():
                file.close()
            total = int(source.tokens.sum())
            rows.append(
                {
                    "source": Path(settings.sources[place].data).name,
                    "rows_in": len(source.tokens),
                    "rows_kept": len(kept),
                    "rows_written": len(pick),
                    "tokens_in": total,
                    "tokens_wanted": round(wanted[place]),
                    "tokens": taken[place],
                    "share": taken[place] / max(1, sum(taken)),
                    "repeats": taken[place] / max(1, total),
                }
            )
    os.replace(out / "dropped.jsonl.writing", out / "dropped.jsonl")
    whole = {
        name: sum(row[name] for row in rows) for name in ("rows_in", "rows_kept", "rows_written", "tokens_in", "tokens")
    }
    left_out = whole["rows_in"] - whole["rows_kept"]
    metrics = {**whole, "rows_dropped": left_out, "dropped": {"over_budget": left_out} if left_out else {}}
    if settings.tokens is not None:
        metrics["tokens_short"] = max(0, settings.tokens - whole["tokens"])
    _write_whole(out / "ledger.json", json.dumps({**metrics, "sources": rows}, ensure_ascii=False, indent=1) + "\n")
    shares = {f"{place}": {"share": row["share"], "repeats": row["repeats"]} for place, row in enumerate(rows)}
    return {**metrics, "sources": shares}


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(aside, path)
