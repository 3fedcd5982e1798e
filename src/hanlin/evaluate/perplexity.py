"""The stage `perplexity`: how well a model predicts held-out text, or the answers in held-out conversations and pairs.

Tokens of different vocabularies are different things, so only the figures per character and per byte compare models
across vocabularies; the text is therefore cut by characters, never by tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from hanlin.chat.examples import render_answer
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.evaluate import Perplexity
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import validation_file
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Message, Preference, read_jsonl
from hanlin.core.resumable import Row, process_in_chunks, write_rows
from hanlin.core.text import Language, answer_language
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.inference.protocol import Score
from hanlin.tokenizer.tokenizer import Tokenizer

_CHUNK_SIZE = 64
_DEFAULT_WINDOW = 1024
_MAX_EXPONENT = 700.0  # of a finite double

ScoredRecord = Document | Conversation | Preference


@dataclass(frozen=True, slots=True)
class Sample:
    """A record as the model sees it: its token ids, and the spans [start, stop) of them that are scored."""

    id: str
    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    text: str
    """The text of the spans."""


def run(settings: Perplexity, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Score the validation records and write `perplexity.jsonl`, a row for each; return their `aggregate`.

    Raises:
        UserError: The file has no records, a window is longer than the model's context, conversations are scored and
            the model has no chat template, or the model's logits are not finite.
    """
    file = validation_file(inputs.path("data"))
    measured = list(limit_characters(_records(file), settings.max_characters))
    if not measured:
        raise UserError(tr("this file has no records to score"), file)
    # rounding moves a perplexity, a sum over thousands of tokens, by less than 0.1 %; an exam may turn on one token,
    # and stays in float32
    precision = "fastest" if settings.precision == "auto" else settings.precision
    loaded = load_engine(
        inputs.path("model"), settings.file, settings.engine, dtype=settings.dtype, precision=precision
    )
    try:
        window = _window(settings.window, loaded.engine.context_length)
        stride = choose_stride(window, settings.overlap)
        sample = (
            partial(text_sample, loaded.tokenizer)
            if isinstance(measured[0], Document)
            else partial(answer_sample, loaded.load_template())
        )

        def work(chunk: Sequence[tuple[int, ScoredRecord]]) -> list[Row]:
            def on_window(share: float) -> None:
                context.progress.update(chunk[0][0] + share * len(chunk), len(measured), unit)

            return score_samples(loaded, [sample(record) for _, record in chunk], window, stride, on_window)

        unit = tr("records")
        numbered = list(enumerate(measured))
        scratch = context.scratch_folder(out)
        rows = process_in_chunks(numbered, _CHUNK_SIZE, scratch, work, context.progress, unit=unit)
        engine = loaded.describe_numbers()
    finally:
        loaded.engine.close()
    write_rows(out / "perplexity.jsonl", rows)
    return {**engine, **aggregate(rows)}


def text_sample(tokenizer: Tokenizer, document: Document) -> Sample:
    """All of a document is scored, after a begin token (the end-of-text token if the tokenizer has no other)."""
    begin = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if begin is None:
        what = tr("the tokenizer has no token to begin a text with")
        raise UserError(what, tokenizer.folder)
    ids = [begin, *tokenizer.encode(document.text)]
    return Sample(document.id, ids, [(1, len(ids))], document.text)


def answer_sample(template: ChatTemplate, record: Conversation | Preference) -> Sample:
    """The tokens that a chat model learns are scored: a conversation's answers, or a pair's chosen one, with their stop
    tokens.
    """
    if isinstance(record, Conversation):
        examples = template.render_conversation(record)
        if not examples:
            raise UserError(tr("no answer of it is learned"), record.id)
        rendered = examples[-1]  # of a template that rewrites earlier turns, the last answer
    else:
        rendered = render_answer(record.prompt, record.chosen, template, record.id, record.tools)
    spans = _target_spans(rendered)
    answer_ids = [token_id for start, stop in spans for token_id in rendered.ids[start:stop]]
    return Sample(record.id, rendered.ids, spans, template.tokenizer.decode(answer_ids))


def score_samples(
    loaded: LoadedEngine,
    samples: Sequence[Sample],
    window: int,
    stride: int,
    on_window: Callable[[float], None] = lambda share: None,
) -> list[Row]:
    """One row for each sample: its language, its lengths, and −log p of its spans in nats.

    `on_window` is called after each window with the share of all windows that are scored.
    """
    windows = [
        (index, pair)
        for index, sample in enumerate(samples)
        for start, stop in sample.spans
        for pair in split_windows(sample.ids, start, stop, window, stride)
    ]
    done = 0

    def on_score(index: int, score: Score) -> None:
        nonlocal done
        done += 1
        on_window(done / len(windows))

    scores = loaded.engine.score([pair for _, pair in windows], on_score)
    nats, tokens = [0.0] * len(samples), [0] * len(samples)
    for (index, (_, scored)), score in zip(windows, scores, strict=True):
        nats[index] -= score.logprob
        tokens[index] += len(scored)
    rows = []
    for sample, value, count in zip(samples, nats, tokens, strict=True):
        if not math.isfinite(value):
            what = tr("the model's logits for this record are not finite")
            raise UserError(what, sample.id, tr("measure in float32"))
        rows.append(
            {
                "id": sample.id,
                "language": answer_language(sample.text),
                "tokens": count,
                "characters": len(sample.text),
                "bytes": len(sample.text.encode()),
                "nats": round(value, 4),
            }
        )
    return rows


def choose_stride(window: int, overlap: int) -> int:
    """The most ids that a window scores: all but those that it repeats, half of it at most, and the first id of the
    record, which every window begins with.
    """
    return window - max(1, min(overlap, window // 2))


def split_windows(
    ids: Sequence[int], start: int, stop: int, window: int, stride: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut ids[start:stop] into parts of at most `stride` and give each its context.

    Args:
        ids: All ids of the record.
        start: The first id to score.
        stop: The id behind the last to score.
        window: The most ids of context and part together.
        stride: The most ids of a part.

    Yields:
        (context, scored) pairs. The context begins with the first id of all, whatever is left out after it.
    """
    for position in range(start, stop, stride):
        end = min(stop, position + stride)
        first = max(1, end - window + 1)
        yield (ids[0], *ids[first:position]), tuple(ids[position:end])


def limit_characters(records: Iterable[ScoredRecord], limit: int | None) -> Iterator[ScoredRecord]:
    """Records until `limit` characters of their language are reached; a document that exceeds it is cut there."""
    used: dict[Language, int] = {}
    for record in records:
        text = _text_of(record)
        if not text:
            continue
        language = answer_language(text)
        remaining = len(text) if limit is None else limit - used.get(language, 0)
        if remaining <= 0:
            continue
        used[language] = used.get(language, 0) + len(text)
        yield replace(record, text=text[:remaining]) if isinstance(record, Document) else record


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures over all records, and under `zh` and `en` those of each language."""
    metrics: dict[str, Any] = _aggregate_rows(rows)
    for language in ("zh", "en"):
        language_rows = [row for row in rows if row["language"] == language]
        if language_rows:
            metrics[language] = _aggregate_rows(language_rows)
    return metrics


def _aggregate_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    tokens, characters, size = (sum(row[name] for row in rows) for name in ("tokens", "characters", "bytes"))
    nats = sum(row["nats"] for row in rows)
    return {
        "records": len(rows),
        "tokens": tokens,
        "characters": characters,
        "bytes": size,
        "characters_per_token": characters / tokens,
        "perplexity": math.exp(min(nats / tokens, _MAX_EXPONENT)),
        "nats_per_token": nats / tokens,
        "nats_per_character": nats / max(1, characters),
        "bits_per_character": nats / max(1, characters) / math.log(2),
        "bits_per_byte": nats / max(1, size) / math.log(2),
    }


def _text_of(record: ScoredRecord) -> str:
    """What is measured of a record, as nearly as it is known before it is rendered."""
    if isinstance(record, Document):
        return record.text
    turns: Iterable[Message] = record.messages if isinstance(record, Conversation) else (record.chosen,)
    return "".join(
        turn.text + "".join(json.dumps(dict(call.arguments), ensure_ascii=False) for call in turn.tool_calls)
        for turn in turns
        if turn.role == "assistant"
    )


def _target_spans(rendered: TokenizedExample) -> list[tuple[int, int]]:
    """The spans [start, stop) of ids that are training targets: one for each answer."""
    mask = [False, *rendered.loss_mask, False]
    borders = [index for index, (before, now) in enumerate(pairwise(mask)) if before != now]
    return list(zip(borders[::2], borders[1::2], strict=True))


def _window(window: int | None, context_length: int) -> int:
    if window is None:
        return min(_DEFAULT_WINDOW, context_length)
    if window > context_length:
        what = tr(
            "a window of {window} tokens is longer than the model's context of {context_length}",
            window=window,
            context_length=context_length,
        )
        raise UserError(what, "window", tr("set window to {context_length} or less", context_length=context_length))
    return window


def _records(file: Path) -> Iterator[ScoredRecord]:
    """The records of a file, of the kind that its first line is."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"{}")
    try:
        keys = frozenset(parse_json(first))
    except (ValueError, TypeError):
        keys = frozenset()  # the reader says what is wrong with the line
    if "messages" in keys:
        yield from read_jsonl(file, Conversation)
    elif "chosen" in keys:
        yield from read_jsonl(file, Preference)
    else:
        yield from read_jsonl(file, Document)
