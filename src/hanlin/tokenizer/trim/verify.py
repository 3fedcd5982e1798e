"""Verify that a trimmed tokenizer gives the old tokens under their new ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers

from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.trim.vocabulary import KeptEntries


def verify_entries(before: Tokenizer, after: Tokenizer, kept: KeptEntries) -> int:
    """Verify that merges alone make every kept entry as before, so that no text of kept entries changes.

    Returns:
        How many entries were compared: those that merges arrive at.

    Raises:
        RuntimeError: Names the first entry that is split otherwise.
    """
    new_ids = kept.new_ids
    model_before, model_after = _without_whole_words(before), _without_whole_words(after)
    compared = 0
    for token_id in kept.ids:
        token = before.backend.id_to_token(token_id)
        if [part.id for part in model_before.tokenize(token)] != [token_id]:
            continue
        compared += 1
        if [part.id for part in model_after.tokenize(token)] != [new_ids[token_id]]:
            raise RuntimeError(f"merges of the trimmed tokenizer do not arrive at {token!r}")
    return compared


def verify_texts(before: Tokenizer, after: Tokenizer, kept: KeptEntries, texts: Sequence[str]) -> int:
    """Verify that texts of kept entries keep their tokens, and that every text still decodes to what it did.

    Returns:
        How many texts keep all their tokens.

    Raises:
        RuntimeError: Names the first text that does not.
    """
    new_ids = kept.new_ids
    unchanged = 0
    for text, old, new in zip(texts, before.encode_batch(texts), after.encode_batch(texts), strict=True):
        expected = [new_ids.get(token_id) for token_id in old]
        if None not in expected:
            if new != expected:
                raise RuntimeError(f"the trimmed tokenizer splits {text[:80]!r} differently")
            unchanged += 1
        elif after.decode(new) != before.decode(old):
            raise RuntimeError(f"the trimmed tokenizer does not decode its own ids of {text[:80]!r}")
    return unchanged


def _without_whole_words(tokenizer: Tokenizer) -> Any:
    """The model of a tokenizer as merges alone build words."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    data = {"version": "1.0", "model": {**model, "ignore_merges": False}, "added_tokens": []}
    return tokenizers.Tokenizer.from_str(json.dumps(data, ensure_ascii=False)).model
