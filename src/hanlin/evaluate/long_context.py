"""The stage `long_context`: whether a model finds a passkey in texts of growing length, and how its perplexity changes
with the position.

The passkey test is that of Mohtashami and Jaggi 2023 (arXiv:2305.16300, section 4.2): a number in the middle of text
that says nothing, asked for at the end. It is scored and not generated: it counts as found if each of its tokens is the
most likely one, which is what greedy decoding would write.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hanlin.config.settings.evaluate import LongContext
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import validation_file
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Document, read_jsonl
from hanlin.core.resumable import Row, process_in_chunks, write_rows
from hanlin.evaluate.perplexity import text_sample
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.tokenizer.tokenizer import Tokenizer

FIRST_LENGTH = 512
"""The shortest text; those after it are twice as long each."""
FILLER = {
    "zh": "河水慢慢地流，岸边的树一动不动。有人走过去，有人走回来，什么事也没有发生。",
    "en": "The river runs slowly, the trees on its bank stand still. People come, people go, and nothing happens. ",
}
OPENING = {
    "zh": "下面的长文里藏着一个口令，请找到并记住它，最后会问到。\n",
    "en": "A passkey is hidden in the long text below. Find it and remember it; it is asked for at the end.\n",
}
NEEDLE = {
    "zh": "请记住，口令是：{key}。口令是：{key}。",
    "en": "Remember that the passkey is:{key}. The passkey is:{key}. ",
}
QUESTION = {"zh": "\n请问口令是什么？口令是：", "en": "\nWhat is the passkey? The passkey is:"}


@dataclass(frozen=True, slots=True)
class PasskeyCase:
    """A text of `length` tokens with a key at `depth` (0: at its beginning, 1: at its end)."""

    length: int
    depth: float
    prompt_ids: tuple[int, ...]
    key_ids: tuple[int, ...]


def run(settings: LongContext, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Score every case and document, and write `passkey.jsonl` and `positions.jsonl`; return the metrics.

    Raises:
        UserError: A length is longer than the model's context or too short for the text around the key; the data holds
            no text; the tokenizer has no token to begin a text with.
    """
    documents = _documents(inputs.optional_path("data"), settings.max_documents)
    loaded = load_engine(
        inputs.path("model"), settings.file, settings.engine, dtype=settings.dtype, precision=settings.precision
    )
    try:
        lengths = choose_lengths(settings.lengths, loaded.engine.context_length)
        cases = build_cases(settings, lengths, loaded.tokenizer, context.seed)
        scratch = context.scratch_folder(out)

        def score_cases(chunk: Sequence[PasskeyCase]) -> list[Row]:
            scores = loaded.engine.score([(case.prompt_ids, case.key_ids) for case in chunk])
            for score, case in zip(scores, chunk, strict=True):
                _check_finite(score.logprob, tr("a text of {length:,} tokens", length=case.length))
            return [
                {"length": case.length, "depth": case.depth, "tokens": len(case.prompt_ids) + len(case.key_ids),
                 "found": score.greedy, "logprob": round(score.logprob / len(case.key_ids), 4)}
                for case, score in zip(chunk, scores, strict=True)
            ]  # fmt: skip

        def score_documents(chunk: Sequence[Document]) -> list[Row]:
            return [score_positions(loaded, document, lengths[-1]) for document in chunk]

        (scratch / "passkey").mkdir(exist_ok=True)
        passkeys = process_in_chunks(
            cases, 1, scratch / "passkey", score_cases, context.progress, unit=tr("long texts")
        )
        (scratch / "positions").mkdir(exist_ok=True)
        positions = process_in_chunks(
            documents, 1, scratch / "positions", score_documents, context.progress, unit=tr("documents")
        )
        engine = loaded.describe_numbers()
    finally:
        loaded.engine.close()
    write_rows(out / "passkey.jsonl", passkeys)
    write_rows(out / "positions.jsonl", positions)
    return {
        **engine,
        "longest": lengths[-1],
        "passkey": aggregate_passkeys(passkeys),
        **({"positions": aggregate_positions(positions)} if positions else {}),
    }


def choose_lengths(wanted: Sequence[int], limit: int) -> list[int]:
    """The lengths to test: those of the settings, or 512, 1,024, 2,048 and so on up to the model's context.

    Raises:
        UserError: A length is longer than the context.
    """
    if not wanted:
        lengths = [FIRST_LENGTH << step for step in range(32) if FIRST_LENGTH << step < limit]
        return [*lengths, limit]
    if max(wanted) > limit:
        what = tr("a text of {length:,} tokens is longer than the model's context of {limit:,}", length=max(wanted),
                  limit=limit)  # fmt: skip
        raise UserError(what, "lengths", tr("extend it with `extend_context`, or set shorter lengths"))
    return sorted(set(wanted))


def build_cases(settings: LongContext, lengths: Sequence[int], tokenizer: Tokenizer, seed: int) -> list[PasskeyCase]:
    """Every case: `samples` keys at each of `depths` depths in a text of each length, drawn with the seed."""
    cases = []
    for length in lengths:
        for step in range(settings.depths):
            depth = step / max(1, settings.depths - 1)
            for sample in range(settings.samples):
                key = str(random.Random(f"{seed} {length} {step} {sample}").randrange(10_000, 100_000))
                cases.append(build_case(settings.language, length, depth, key, tokenizer))
    return cases


def build_case(language: str, length: int, depth: float, key: str, tokenizer: Tokenizer) -> PasskeyCase:
    """A text with as much filler as `length` tokens hold, the key included. Raises UserError if they hold none."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]

    def encode(num_fillers: int) -> tuple[list[int], list[int]]:
        before = round(depth * num_fillers)
        parts = (OPENING[language], FILLER[language] * before, NEEDLE[language].format(key=key),
                 FILLER[language] * (num_fillers - before), QUESTION[language])  # fmt: skip
        text = "".join(parts)
        prompt = tokenizer.encode(text)
        whole = tokenizer.encode(text + key)
        key_ids = whole[len(prompt) :] if whole[: len(prompt)] == prompt else tokenizer.encode(key)
        return [*begin, *prompt], key_ids

    empty, one = (sum(map(len, encode(count))) for count in (0, 1))
    num_fillers = (length - empty) // max(1, one - empty)
    prompt_ids, key_ids = encode(max(0, num_fillers))
    while num_fillers > 0 and len(prompt_ids) + len(key_ids) > length:  # fillers in a row may need a token more
        num_fillers -= 1
        prompt_ids, key_ids = encode(num_fillers)
    if num_fillers < 1:
        what = tr("{length} tokens do not hold a passkey and text around it", length=length)
        raise UserError(what, "lengths", tr("set lengths of {least} or more", least=one))
    return PasskeyCase(length, depth, tuple(prompt_ids), tuple(key_ids))


def position_edges(limit: int) -> list[int]:
    """The borders of the ranges of positions: 0, 512, 1,024, 2,048 and so on, and the last position."""
    edges = [0, *(FIRST_LENGTH << step for step in range(32) if FIRST_LENGTH << step < limit)]
    return [*edges, limit]


def score_positions(loaded: LoadedEngine, document: Document, limit: int) -> Row:
    """−log p of a document's tokens in nats, and their number, for each range of positions, in one pass."""
    ids = list(text_sample(loaded.tokenizer, document).ids[:limit])
    ranges = [(max(1, start), min(stop, len(ids))) for start, stop in pairwise(position_edges(limit))]
    ranges = [(start, stop) for start, stop in ranges if start < stop]
    scores = loaded.engine.score([(ids[:start], ids[start:stop]) for start, stop in ranges])
    nats = [round(-score.logprob, 4) for score in scores]
    for value in nats:
        _check_finite(value, document.id)
    return {
        "id": document.id,
        "starts": [0 if start == 1 else start for start, _ in ranges],
        "tokens": [stop - start for start, stop in ranges],
        "nats": nats,
    }


def _check_finite(value: float, where: str) -> None:
    """Raise UserError for a score that is no number: a key would count as not found."""
    if not math.isfinite(value):
        raise UserError(tr("the model's logits for this record are not finite"), where, tr("measure in float32"))


def aggregate_passkeys(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of keys that were found, of all, by length, and of each cell of length and depth."""
    cells: dict[tuple[int, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["length"], row["depth"]), []).append(row)
    by_length: dict[str, list[bool]] = {}
    for row in rows:
        by_length.setdefault(str(row["length"]), []).append(row["found"])
    return {
        "found": sum(row["found"] for row in rows) / len(rows),
        "by_length": {length: sum(found) / len(found) for length, found in by_length.items()},
        "cells": [
            {"length": length, "depth": depth, "found": sum(row["found"] for row in cell) / len(cell),
             "logprob": sum(row["logprob"] for row in cell) / len(cell)}
            for (length, depth), cell in cells.items()
        ],
    }  # fmt: skip


def aggregate_positions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Perplexity for each range of positions, over all documents that reach it."""
    tokens: dict[int, int] = {}
    nats: dict[int, float] = {}
    for row in rows:
        for start, count, value in zip(row["starts"], row["tokens"], row["nats"], strict=True):
            tokens[start] = tokens.get(start, 0) + count
            nats[start] = nats.get(start, 0.0) + value
    return [
        {"start": start, "tokens": tokens[start], "perplexity": math.exp(min(nats[start] / tokens[start], 700.0))}
        for start in sorted(tokens)
    ]


def _documents(folder: Path | None, limit: int) -> list[Document]:
    """The longest documents of the validation split, which reach the most positions."""
    if folder is None:
        return []
    file = validation_file(folder)
    documents = [document for document in read_jsonl(file, Document) if document.text]
    if not documents:
        raise UserError(tr("this file has no records to score"), file)
    return sorted(documents, key=lambda document: -len(document.text))[:limit]
