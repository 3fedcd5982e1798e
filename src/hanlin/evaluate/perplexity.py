"""How well a model predicts what it never saw: held-out text, or the answers in held-out conversations and pairs.

Tokens of different vocabularies are different things, so only the figures by character and byte compare models across
vocabularies; the text is therefore cut by characters, never by tokens. Does not own likelihoods (`engines/`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate, TokenizedExample
from hanlin.config.settings.evaluate import Perplexity
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import validation_file
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Conversation, Document, Message, Preference, read_jsonl
from hanlin.core.resumable import Row, process_in_chunks, write_rows
from hanlin.core.text import Language, answer_language
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.tokenizer.tokenizer import Tokenizer

_CHUNK = 64
_USUAL_WINDOW = 1024
_LARGEST_EXPONENT = 700.0  # of a finite double

Measurable = Document | Conversation | Preference


@dataclass(frozen=True, slots=True)
class Sample:
    """A record as the model sees it: its ids, and the stretches [start, stop) of them that are predicted."""

    id: str
    ids: Sequence[int]
    stretches: Sequence[tuple[int, int]]
    text: str
    """What the stretches say."""


def run(settings: Perplexity, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Measure the held-out records and write `perplexity.jsonl`, a row for each; return `summed` of them.

    Raises UserError when nothing is held out, when a window is longer than the model's context, when conversations
    are measured and the model has no chat template, and when the model's logits are not numbers.
    """
    file = validation_file(inputs.path("data"))
    measured = list(within(_records(file), settings.max_characters))
    if not measured:
        raise UserError(say("nothing is held out in this file", "文件中没有留出内容"), file)
    opened = load_engine(inputs.path("model"), settings.file, settings.engine, dtype=settings.dtype)
    try:
        window = _window(settings.window, opened.engine.context_length)
        stride = window - min(settings.overlap, window // 2)
        sample = (
            partial(text_sample, opened.tokenizer)
            if isinstance(measured[0], Document)
            else partial(answer_sample, opened.load_template())
        )

        def work(chunk: Sequence[Measurable]) -> list[Row]:
            return measure(opened, [sample(record) for record in chunk], window, stride)

        rows = process_in_chunks(
            measured, _CHUNK, context.scratch_folder(out), work, context.progress, unit=say("records", "条")
        )
        engine_name = opened.engine.name
    finally:
        opened.engine.close()
    write_rows(out / "perplexity.jsonl", rows)
    return {"engine": engine_name, **summed(rows)}


def text_sample(tokenizer: Tokenizer, document: Document) -> Sample:
    """All of a document is predicted, after a begin token (the end of text where a tokenizer has no other)."""
    begin = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if begin is None:
        what = say("the tokenizer has no token to begin a text with", "分词器没有可作文本开头的词元")
        raise UserError(what, tokenizer.folder)
    ids = [begin, *tokenizer.encode(document.text)]
    return Sample(document.id, ids, [(1, len(ids))], document.text)


def answer_sample(template: ChatTemplate, record: Conversation | Preference) -> Sample:
    """What a chat model learns is predicted: a conversation's answers, or a pair's preferred one, with their ends."""
    if isinstance(record, Conversation):
        rendered = template.render_conversation(record)
        stretches = _learnt(rendered)
    else:
        rendered = template.render([*record.prompt, record.chosen], where=record.id)
        stretches = _learnt(rendered)[-1:]
    said = [number for start, stop in stretches for number in rendered.ids[start:stop]]
    return Sample(record.id, rendered.ids, stretches, template.tokenizer.decode(said))


def measure(opened: LoadedEngine, samples: Sequence[Sample], window: int, stride: int) -> list[Row]:
    """One row for each sample: its language, its lengths, and −log p of what is predicted in nats."""
    cut = [
        (place, pair)
        for place, sample in enumerate(samples)
        for start, stop in sample.stretches
        for pair in windows_of(sample.ids, start, stop, window, stride)
    ]
    scores = opened.engine.score([pair for _, pair in cut])
    nats, tokens = [0.0] * len(samples), [0] * len(samples)
    for (place, (_, scored)), score in zip(cut, scores, strict=True):
        nats[place] -= score.logprob
        tokens[place] += len(scored)
    rows = []
    for sample, value, count in zip(samples, nats, tokens, strict=True):
        if not math.isfinite(value):
            what = say("the model's logits for this record are not numbers", "模型对该条记录给出的 logits 不是数值")
            raise UserError(what, sample.id, say("measure in float32", "请用 float32 测量"))
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


def windows_of(
    ids: Sequence[int], start: int, stop: int, window: int, stride: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut ids[start:stop] into pieces of at most `stride`, each with what stands before it: (context, scored) pairs.

    A pair is at most `window` ids long. Its context begins with the first id of all, whatever had to be left out after.
    """
    for place in range(start, stop, stride):
        end = min(stop, place + stride)
        first = max(1, end - window + 1)
        yield (ids[0], *ids[first:place]), tuple(ids[place:end])


def within(records: Iterable[Measurable], limit: int | None) -> Iterator[Measurable]:
    """Records until `limit` characters of their language are reached; a document that passes it is cut there."""
    used: dict[Language, int] = {}
    for record in records:
        text = _text_of(record)
        if not text:
            continue
        language = answer_language(text)
        left = len(text) if limit is None else limit - used.get(language, 0)
        if left <= 0:
            continue
        used[language] = used.get(language, 0) + len(text)
        yield replace(record, text=text[:left]) if isinstance(record, Document) else record


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures over all records, and under `zh` and `en` over those of each language."""
    metrics: dict[str, Any] = _figures(rows)
    for language in ("zh", "en"):
        own = [row for row in rows if row["language"] == language]
        if own:
            metrics[language] = _figures(own)
    return metrics


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    tokens, characters, size = (sum(row[name] for row in rows) for name in ("tokens", "characters", "bytes"))
    nats = sum(row["nats"] for row in rows)
    return {
        "records": len(rows),
        "tokens": tokens,
        "characters": characters,
        "bytes": size,
        "characters_per_token": characters / tokens,
        "perplexity": math.exp(min(nats / tokens, _LARGEST_EXPONENT)),
        "nats_per_token": nats / tokens,
        "nats_per_character": nats / max(1, characters),
        "bits_per_character": nats / max(1, characters) / math.log(2),
        "bits_per_byte": nats / max(1, size) / math.log(2),
    }


def _text_of(record: Measurable) -> str:
    """What is measured of a record, as nearly as it is known before it is rendered."""
    if isinstance(record, Document):
        return record.text
    turns: Iterable[Message] = record.messages if isinstance(record, Conversation) else (record.chosen,)
    return "".join(
        turn.text + "".join(json.dumps(dict(call.arguments), ensure_ascii=False) for call in turn.tool_calls)
        for turn in turns
        if turn.role == "assistant"
    )


def _learnt(rendered: TokenizedExample) -> list[tuple[int, int]]:
    """The stretches [start, stop) of learned ids: one for each answer."""
    borders = [
        place
        for place, (before, now) in enumerate(
            zip([False, *rendered.loss_mask], [*rendered.loss_mask, False], strict=True)
        )
        if before != now
    ]
    return list(zip(borders[::2], borders[1::2], strict=True))


def _window(wanted: int | None, longest: int) -> int:
    if wanted is None:
        return min(_USUAL_WINDOW, longest)
    if wanted > longest:
        what = say(
            f"a window of {wanted} tokens is longer than the model's context of {longest}",
            f"窗口 {wanted} 个词元超过模型上下文 {longest}",
        )
        raise UserError(what, "window", say(f"set window to {longest} or less", f"请将 window 设为不超过 {longest}"))
    return wanted


def _records(file: Path) -> Iterator[Measurable]:
    """The records of a file, of the kind that its first line is."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"{}")
    try:
        keys = frozenset(json.loads(first))
    except (ValueError, TypeError):
        keys = frozenset()  # the reader says what is wrong with the line
    if "messages" in keys:
        yield from read_jsonl(file, Conversation)
    elif "chosen" in keys:
        yield from read_jsonl(file, Preference)
    else:
        yield from read_jsonl(file, Document)
