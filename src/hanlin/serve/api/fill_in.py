"""Fill in the middle: a prompt of what comes before a gap and what comes after it, for models that were trained so."""

from __future__ import annotations

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ServedModel

_TOKENS = (
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
"""The tokens before the prefix, before the suffix and before the answer."""


def find_fill_in_ids(model: ServedModel) -> tuple[int, int, int] | None:
    """The ids of the three tokens that mark a gap, or None if the model's tokenizer has none."""
    for tokens in _TOKENS:
        prefix, suffix, middle = map(model.tokenizer.token_id, tokens)
        if prefix is not None and suffix is not None and middle is not None:
            return prefix, suffix, middle
    return None


def encode_fill_in(model: ServedModel, prefix: str, suffix: str) -> tuple[int, ...]:
    """Prompt ids that ask for the text between `prefix` and `suffix`.

    The suffix goes on from the answer: a space that the tokenizer puts before a text is put before the prefix alone, as
    Code Llama was trained (its `tokenizer.py`, `encode_infilling`).

    Raises:
        ApiError: 400 that names `suffix` if the model has no form for it, and as `ServedModel.encode_text`.
    """
    marks = find_fill_in_ids(model)
    if marks is None:
        what = tr("this model has no tokens to fill in text before a suffix")
        raise ApiError(400, what, param="suffix", code="unsupported_value")
    bos = (model.tokenizer.bos_id,) if model.tokenizer.adds_bos and model.tokenizer.bos_id is not None else ()
    before = model.encode_text(prefix)[len(bos) :] if prefix else ()
    after = model.encode_text(suffix, continuation=True) if suffix else ()
    return (*bos, marks[0], *before, marks[1], *after, marks[2])
