"""Texts that new rows are learned from: a sample of all texts, and the rows of it that hold the most new tokens."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence

SNIPPET_CHARACTERS = 500
SAMPLED_SNIPPETS = 4000
"""Two million characters: half of 8,000 new tokens occur 40 times in them, 1 % never."""
ROW_TOKENS = 256
"""Old tokens of a row at most; a fifth of a page is enough to read a word in its context."""

Row = list[int]


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


def cut_rows(texts: Iterable[Sequence[int]], lengths: Sequence[int], first_id: int) -> list[Row]:
    """Cut texts in new ids into rows of at most 255 old tokens, between tokens; those without a new token are left out.

    Args:
        texts: Texts in new ids.
        lengths: Old tokens of each new token.
        first_id: Id of the first new token.
    """
    rows: list[Row] = []
    for text in texts:
        row: Row = []
        length = 1  # the begin token
        for token_id in text:
            width = lengths[token_id - first_id] if token_id >= first_id else 1
            if row and length + width > ROW_TOKENS:
                rows.append(row)
                row, length = [], 1
            row.append(token_id)
            length += width
        rows.append(row)
    return [row for row in rows if any(token_id >= first_id for token_id in row)]


def select_rows(rows: Sequence[Row], lengths: Sequence[int], first_id: int, old_tokens: int) -> list[Row]:
    """Select rows of about `old_tokens` old tokens in all.

    The first half are the first rows, as natural text has them: from these the model learns how often a token is right.
    The other half are those that hold the most new tokens that were rare so far, so that as few as possible are missed.
    """

    def width(row: Row) -> int:
        return 1 + sum(lengths[token_id - first_id] if token_id >= first_id else 1 for token_id in row)

    selected: list[Row] = []
    counts: Counter[int] = Counter()
    total = 0

    def take(row: Row) -> None:
        nonlocal total
        selected.append(row)
        counts.update(token_id for token_id in row if token_id >= first_id)
        total += width(row)

    def worth(row: Row) -> float:
        return sum(1 / (1 + counts[token_id]) ** 2 for token_id in set(row) if token_id >= first_id) / width(row)

    index = 0
    while index < len(rows) and total < old_tokens / 2:
        take(rows[index])
        index += 1
    # what a row is worth only falls as others are taken: one that is still worth the most when looked at again is it
    heap = [(-worth(row), number) for number, row in enumerate(rows[index:], start=index)]
    heapq.heapify(heap)
    while heap and total < old_tokens:
        _, number = heapq.heappop(heap)
        now = -worth(rows[number])
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, number))
        else:
            take(rows[number])
    return selected
