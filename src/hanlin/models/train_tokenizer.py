"""The stage `train_tokenizer`: a new byte-level BPE tokenizer with a chat template.

Adding tokens to a tokenizer that a model already has is in `hanlin.models.extend_vocab`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hanlin.chat.packaged import packaged_special_tokens
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts, refuse_repeated
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.train import train_byte_level_bpe


def train_tokenizer(texts: Iterable[str], vocab_size: int, template: str, out: Path) -> Tokenizer:
    """Train a byte-level BPE tokenizer and save it with its chat template.

    Args:
        texts: Training texts, read once.
        vocab_size: Largest number of tokens.
        template: Name of a packaged chat template; its special tokens are added.
        out: Folder to write; it is made.

    Raises:
        UserError: `vocab_size` is too small for the 256 bytes and the special tokens.
    """
    tokenizer = train_byte_level_bpe(texts, vocab_size, packaged_special_tokens(template), out)
    out.mkdir(parents=True, exist_ok=True)
    ChatTemplate.from_packaged(template, tokenizer).save(out)
    return Tokenizer.load(out)


def run(settings: TrainTokenizer, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the tokenizer into `out`; return its size and how well it compresses the validation (or training) texts.

    Raises:
        UserError: There is no text, or `settings.entries` is too small.
    """
    paths = inputs.paths("text")
    refuse_repeated(paths, tr("name it once"))
    count = 0

    def read_with_progress() -> Iterator[str]:
        nonlocal count
        for text in read_texts(paths):
            count += 1
            context.progress.update(count, count, tr("documents"))
            yield text

    tokenizer = train_tokenizer(read_with_progress(), settings.entries, settings.template, out)
    if not count:
        raise UserError(
            tr("there is no text to train a tokenizer on"),
            ", ".join(map(str, paths)),
            tr("give documents, or .txt or .jsonl files"),
        )
    validation = list(read_texts(paths, validation=True))
    measured_texts = validation or [text for _, text in zip(range(2000), read_texts(paths), strict=False)]
    return {
        "documents": count,
        "entries": len(tokenizer),
        "measured_on": "validation" if validation else "train",
        "characters_per_token": characters_per_token(tokenizer, measured_texts),
    }
