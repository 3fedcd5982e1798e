"""Characters per token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hanlin.tokenizer.tokenizer import Tokenizer


def characters_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Characters of the texts for each of their tokens; more is better, and 0 says that there was no text."""
    characters = tokens = 0
    for batch in batches(texts, 1000):
        characters += sum(map(len, batch))
        tokens += sum(map(len, tokenizer.encode_batch(batch)))
    return characters / tokens if tokens else 0.0


def batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts in lists of `size`, the last one shorter."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
