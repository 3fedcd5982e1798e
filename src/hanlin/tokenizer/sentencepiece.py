"""A SentencePiece model converted to a fast tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.files import check_file_size
from hanlin.core.i18n import tr, translations
from hanlin.core.limits import MAX_SENTENCEPIECE_BYTES
from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE
from hanlin.tokenizer.file_names import CONFIG_FILE, SENTENCEPIECE_FILE

_LOG = logging.getLogger(__name__)
_SHORTEST_LINE = 12
_TOLERATED_SHARE = 0.001
"""Of Llama 2's own model one token in ten thousand differs: it holds few pieces of equal scores."""
_told: set[Path] = set()


def convert_sentencepiece(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Convert a folder's SentencePiece model to a fast tokenizer, with SentencePiece's own rule for the first space.

    transformers' converter always adds a space before the very first text and nowhere else. SentencePiece does as its
    model says; it knows no special tokens within a text, so a model trained with it saw the space before each piece
    between them (`legacy: false` in the configuration says that it was trained the other way). Merges are ranked by the
    pieces' scores. If many pieces have one score, as in vocabularies that were merged with a score of 0, SentencePiece
    takes the leftmost and `tokenizer.json` cannot express that (docs/decisions/0027). Such a model is refused, unless
    `use_fast: true` in its configuration says that the ids of the converted tokenizer are wanted.

    Raises:
        UserError: If the package sentencepiece is missing, the file is not such a model, or the ids differ.
    """
    file = folder / SENTENCEPIECE_FILE
    check_file_size(file, MAX_SENTENCEPIECE_BYTES)
    try:
        import sentencepiece
        from transformers import AutoTokenizer
    except ImportError as error:
        what = tr("a SentencePiece model needs the package sentencepiece")
        raise UserError(what, file, "pip install 'hanlin[sentencepiece]'") from error
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        sets_space = processor.encode("a", out_type=str)[0] != "a"
        fast = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    except Exception as error:  # what a broken protobuf raises depends on the library beneath
        hint = tr("it must be a SentencePiece BPE model as Llama 2 has")
        what = tr("the SentencePiece model cannot be converted: {error}", error=error)
        raise UserError(what, file, hint) from error
    backend.pre_tokenizer = None
    steps: list[tokenizers.normalizers.Normalizer] = [tokenizers.normalizers.Replace(" ", SENTENCEPIECE_SPACE)]
    text_steps = [
        tokenizers.decoders.Replace(SENTENCEPIECE_SPACE, " "),
        tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Fuse(),
    ]
    if sets_space and config.get("legacy") is False:
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        steps = []
    elif sets_space:
        steps.insert(0, tokenizers.normalizers.Prepend(SENTENCEPIECE_SPACE))
    if sets_space:
        text_steps.append(tokenizers.decoders.Strip(" ", 1, 0))
    backend.normalizer = tokenizers.normalizers.Sequence(steps)
    backend.decoder = tokenizers.decoders.Sequence(text_steps)
    _check_ids(file, processor, backend, accepted=config.get("use_fast") is True)
    return backend


@dataclass(frozen=True, slots=True)
class IdDifference:
    """How often a converted tokenizer gives other ids than its SentencePiece model: shares of lines and of tokens."""

    lines: float
    tokens: float


def compare_ids(processor: Any, backend: tokenizers.Tokenizer, lines: Sequence[str]) -> IdDifference:
    """Compare the ids of a SentencePiece model and of the tokenizer that was converted from it, line by line.

    A token of SentencePiece counts as different if the other tokenizer has no token at its place in the text.
    """
    expected = processor.encode(list(lines))
    actual = [encoding.ids for encoding in backend.encode_batch_fast(list(lines), add_special_tokens=False)]
    pieces = [_places(processor, ids) - _places(processor, other) for ids, other in zip(expected, actual, strict=True)]
    num_tokens = sum(map(len, expected))
    different = sum(ids != other for ids, other in zip(expected, actual, strict=True))
    return IdDifference(different / max(1, len(lines)), sum(map(len, pieces)) / max(1, num_tokens))


def _places(processor: Any, ids: Sequence[int]) -> set[tuple[int, int]]:
    """The tokens of a line, each with the number of characters before it."""
    lengths = (len(processor.id_to_piece(token_id)) for token_id in ids if token_id < processor.get_piece_size())
    return set(zip(accumulate(lengths, initial=0), ids, strict=False))


def _check_ids(file: Path, processor: Any, backend: tokenizers.Tokenizer, accepted: bool) -> None:
    """Refuse a converted model whose ids differ on Chinese lines; if that is `accepted`, log it once in a process."""
    lines = [
        line.strip() for line in translations("zh") if len(line) > _SHORTEST_LINE
    ]  # spaces have rules of their own
    difference = compare_ids(processor, backend, lines)
    if difference.tokens <= _TOLERATED_SHARE or (accepted and file in _told):
        return
    what = tr(
        "SentencePiece itself gives other ids on {lines:.0%} of {count} Chinese lines ({tokens:.1%} of their tokens) "
        "than a fast tokenizer: pieces that share a score are joined from the left, which tokenizer.json cannot say",
        lines=difference.lines,
        count=len(lines),
        tokens=difference.tokens,
    )
    if not accepted:
        hint = tr(
            "a model that was trained with SentencePiece's ids would meet others; to take the ids of the fast "
            'tokenizer all the same, in training and in every engine, set "use_fast": true in {config_file}',
            config_file=CONFIG_FILE,
        )
        raise UserError(what, file, hint)
    _told.add(file)
    _LOG.warning("%s: %s", file, what)
