"""What each thousand entries of an extended vocabulary gains, and the size that pays for itself.

An extension appends entries and merges behind those of its base, in the order in which they were learned. The
vocabulary "as of its first n new entries" has the merges before the first one that makes a later entry. Byte pair
encoding applies the merge of the lowest rank first; so it passes through the result of the shorter vocabulary before
it applies a later merge, and only joins tokens from there on. The tokens of the shorter vocabulary are therefore
those of the longer one, each new one split as the shorter vocabulary splits it alone: a text is encoded once, not
once for each size.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.tokenizer.tokenizer import Tokenizer

PER_ENTRIES = 1000
"""Gains are stated per so many entries, whatever the distance of the points."""
MAX_POINTS = 1000
"""Most points of a curve: each builds a vocabulary, that of Llama 3 in half a second."""


@dataclass(frozen=True, slots=True)
class Growth:
    """The curve of an extension.

    Attributes:
        new_entries: Entries that it has more than its base.
        points: Tokens of each text by how many of the first new entries are used, ascending: 0, `step`, ..., all.
    """

    new_entries: int
    points: tuple[tuple[int, Mapping[str, int]], ...]


def measure_growth(
    base: Tokenizer, tokenizer: Tokenizer, ids: Mapping[str, Mapping[int, int]], step: int
) -> Growth | None:
    """Count the tokens of texts with only the first new entries of an extension, in steps.

    Args:
        base: The tokenizer that was extended.
        tokenizer: The extended one.
        ids: How often each id of `tokenizer` occurs in each text.
        step: New entries from one point to the next.

    Returns:
        The curve; None if `tokenizer` has other entries or merges than `base` before its new ones, no new ones, or new
        ones in another order than that of their merges.

    Raises:
        UserError: The step is so small that the curve would have more than `MAX_POINTS`.
    """
    sizes = _Sizes.of(base, tokenizer)
    if sizes is None:
        return None
    if sizes.new_entries > MAX_POINTS * step:
        what = tr(
            "a step of {step} gives {count:,} points for the {entries:,} new entries of {name}",
            step=step,
            count=-(-sizes.new_entries // step),
            entries=sizes.new_entries,
            name=tokenizer.folder.name,
        )
        least = -(-sizes.new_entries // MAX_POINTS)
        raise UserError(what, "step", tr("set it to {least} or more", least=least))
    new_ids = sorted({token_id for counts in ids.values() for token_id in counts if token_id >= sizes.first_id})
    points = []
    for entries in [*range(0, sizes.new_entries, step), sizes.new_entries]:
        lengths = sizes.lengths(entries, new_ids)
        tokens = {
            name: sum(count * lengths.get(token_id, 1) for token_id, count in counts.items())
            for name, counts in ids.items()
        }
        points.append((entries, tokens))
    return Growth(sizes.new_entries, tuple(points))


def gains_per_thousand(points: list[tuple[int, int]]) -> list[float]:
    """The gain in characters per token from each point to the next, in percent per 1,000 entries.

    Example:
        From 200 tokens to 160 by 500 entries, characters per token grow by 25 %, which is 50 % per 1,000 entries:
        `gains_per_thousand([(0, 200), (500, 160)])` is `[50.0]`.
    """
    return [
        100 * (before / after - 1) * PER_ENTRIES / (entries - previous) if after else 0.0
        for (previous, before), (entries, after) in pairwise(points)
    ]


def size_that_pays(points: list[tuple[int, int]], min_gain: float) -> int:
    """The most new entries of which the last step still gains `min_gain` percent per 1,000 entries; 0 if none does."""
    gains = gains_per_thousand(points)
    return max((entries for (entries, _), gain in zip(points[1:], gains, strict=True) if gain >= min_gain), default=0)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """An extended vocabulary that can be cut off after any number of new entries."""

    first_id: int
    new_entries: int
    model: Mapping[str, Any]
    merges: list[tuple[str, str]]
    highest_ids: list[int]
    """The highest id that a merge or one before it makes, for each merge."""
    tokens: Mapping[int, str]

    @classmethod
    def of(cls, base: Tokenizer, tokenizer: Tokenizer) -> _Sizes | None:
        before, after = _read(base), _read(tokenizer)
        first = len(base)
        if before["model"]["type"] != "BPE" or after["model"]["type"] != "BPE" or len(tokenizer) <= first:
            return None
        if any(before[part] != after[part] for part in ("normalizer", "pre_tokenizer")):
            return None
        old, new = (each.backend.get_vocab(with_added_tokens=True) for each in (base, tokenizer))
        old_merges, merges = _merges(before), _merges(after)
        if merges[: len(old_merges)] != old_merges or any(new.get(token) != number for token, number in old.items()):
            return None
        vocab = after["model"]["vocab"]
        highest, highest_ids, made = first - 1, [], set()
        for left, right in merges:
            token_id = vocab[left + right]
            if first <= token_id < highest and token_id not in made:
                return None
            made.add(token_id)
            highest = max(highest, token_id)
            highest_ids.append(highest)
        tokens = {number: token for token, number in vocab.items()}
        return cls(first, len(tokenizer) - first, after["model"], merges, highest_ids, tokens)

    def lengths(self, entries: int, token_ids: list[int]) -> dict[int, int]:
        """Into how many tokens each of the ids is split if only the first `entries` new ones are used."""
        end = self.first_id + entries
        vocab = {token: number for token, number in self.model["vocab"].items() if number < end}
        rank = bisect.bisect_left(self.highest_ids, end)
        merges = [(left, right) for left, right in self.merges[:rank] if left in vocab and right in vocab]
        names = ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")
        options = {name: self.model[name] for name in names if self.model.get(name) is not None}
        model = tokenizers.models.BPE(vocab, merges, **options)
        return {token_id: len(model.tokenize(self.tokens[token_id])) for token_id in token_ids}


def _read(tokenizer: Tokenizer) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(tokenizer.backend.to_str())
    return data


def _merges(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in data["model"]["merges"])
    return [(left, right) for left, right in pairs]
