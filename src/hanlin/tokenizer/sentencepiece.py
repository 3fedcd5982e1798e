"""A SentencePiece model converted to a fast tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE


def convert_sentencepiece(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Convert a folder's SentencePiece model to a fast tokenizer, with SentencePiece's own rule for the first space.

    transformers' converter always adds a space before the very first text and nowhere else. SentencePiece does as its
    model says; it knows no special tokens within a text, so a model trained with it saw the space before each piece
    between them (`legacy: false` in the configuration says that it was trained the other way). Merges are ranked by the
    pieces' scores. If many pieces have one score, as in vocabularies that were merged with a score of 0, SentencePiece
    takes the leftmost and `tokenizer.json` cannot express that: ids then differ here and there from SentencePiece's,
    and agree with those of every engine that reads the converted file.

    Raises:
        UserError: If the package sentencepiece is missing, or the file is not such a model.
    """
    file = folder / SENTENCEPIECE_FILE
    try:
        import sentencepiece
        from transformers import AutoTokenizer
    except ImportError as error:
        what = tr("a SentencePiece model needs the package sentencepiece")
        raise UserError(what, file, "pip install 'hanlin[sentencepiece]'") from error
    try:
        sets_space = sentencepiece.SentencePieceProcessor(model_file=str(file)).encode("a", out_type=str)[0] != "a"
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
    return backend
