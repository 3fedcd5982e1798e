"""A new vocabulary from text, and how well a vocabulary fits a text.

Owns training from nothing. Does not own growing a vocabulary that a model already has (`vocabulary_extension`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hanlin.chat.packaged import template_tokens
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.train import train_byte_level_bpe


def train_tokenizer(texts: Iterable[str], entries: int, template: str, out: Path) -> Tokenizer:
    """Train a byte-level BPE tokenizer of at most `entries` entries and save it in `out` with its chat template.

    Raises UserError if `entries` is too small for the bytes and the special tokens of `template`, a packaged one.
    """
    tokenizer = train_byte_level_bpe(texts, entries, template_tokens(template), out)
    out.mkdir(parents=True, exist_ok=True)
    ChatTemplate.named(template, tokenizer).save(out)
    return Tokenizer.load(out)


def train(settings: TrainTokenizer, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Work of the stage `TrainTokenizer`: the tokenizer lies in `out`; the figures say how well it fits."""
    paths = inputs.paths("text")
    count = 0

    def told() -> Iterator[str]:
        nonlocal count
        for text in read_texts(paths):
            count += 1
            context.progress.update(count, count, say("documents", "篇"))
            yield text

    tokenizer = train_tokenizer(told(), settings.entries, settings.template, out)
    if not count:
        raise UserError(
            say("there is no text to learn a vocabulary from", "没有可用于学习词表的文本"),
            ", ".join(map(str, paths)),
            say("give documents, or .txt or .jsonl files", "请给出 documents 产物或 .txt、.jsonl 文件"),
        )
    validation = list(read_texts(paths, validation=True))
    measured = validation or [text for _, text in zip(range(2000), read_texts(paths), strict=False)]
    return {
        "documents": count,
        "entries": len(tokenizer),
        "measured_on": "validation" if validation else "train",
        "characters_per_token": characters_per_token(tokenizer, measured),
    }
