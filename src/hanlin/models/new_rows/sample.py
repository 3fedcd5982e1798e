"""The texts that new rows are learned from: a sample of all texts."""

from __future__ import annotations

import random
from collections.abc import Iterable

SNIPPET_CHARACTERS = 500
SAMPLED_SNIPPETS = 4000
"""Two million characters: half of 8,000 new tokens occur 40 times in them, 1 % never."""


def sample_texts(texts: Iterable[str], seed: int) -> list[str]:
    """Return 4,000 snippets of at most 500 characters, each with the same chance (Vitter 1985, algorithm R)."""
    chance = random.Random(seed)
    sample: list[str] = []
    seen = 0
    for text in texts:
        for start in range(0, len(text), SNIPPET_CHARACTERS):
            seen += 1
            snippet = text[start : start + SNIPPET_CHARACTERS]
            if len(sample) < SAMPLED_SNIPPETS:
                sample.append(snippet)
            elif (index := chance.randrange(seen)) < SAMPLED_SNIPPETS:
                sample[index] = snippet
    chance.shuffle(sample)
    return sample
