"""Training a byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.tokenizer.tokenizer import Tokenizer

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Llama 3 splits text before BPE: contractions, words with what stands before them, at most three digits, runs of
signs, line ends, spaces. llama.cpp knows it by the name `llama-bpe`."""


BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], out: Path) -> Tokenizer:
    """Train a byte-level BPE tokenizer.

    Token ids: the 256 bytes first, then the merges in the order in which they were learned, then the special tokens:
    `BEGIN` and `END`, `special_tokens`, and a padding token that ends nothing. A text with fewer merges gives fewer
    entries.

    Args:
        texts: What merges are learned from; read once.
        vocab_size: Entries at most, bytes and special tokens included.
        special_tokens: Those of the chat template.
        out: The folder that the tokenizer will be saved in; nothing is written here.

    Raises:
        UserError: If `vocab_size` is too small for bytes and special tokens.
    """
    special = list(dict.fromkeys([BEGIN, END, *special_tokens, PAD]))
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise UserError(
            tr("{vocab_size} entries are too few", vocab_size=vocab_size),
            "entries",
            tr("bytes and special tokens alone need {smallest}", smallest=smallest),
        )
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    begin = backend.token_to_id(BEGIN)
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BEGIN}:0 $A:0", pair=None, special_tokens=[(BEGIN, begin)]),
        ]
    )
    config = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    return Tokenizer(backend, config, out)
