"""Characters per token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hanlin.tokenizer.tokenizer import Tokenizer


def characters_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Average characters per token of the texts: higher is better; 0 if there are no texts."""
    characters = tokens = 0
    for batch in batches(texts, 1000):
        characters += sum(map(len, batch))
        tokens += sum(map(len, tokenizer.encode_batch(batch)))
    return characters / tokens if tokens else 0.0


def batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Group the texts into lists of `size`; the last one may be shorter."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
