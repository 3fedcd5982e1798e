"""Encode byte-level BPE with tiktoken, three times as fast as by merges, if both are proven to give the same ids.

`tokenizer.json` ranks merges. tiktoken (after Llama 3's own `tokenizer.model`) ranks tokens, and merges the leftmost
two neighbors that make the token of the lowest rank. Merges within a stretch that no merge crosses are those that the
stretch alone would see, in the same order. So a token is only ever made of the two halves that merging its own bytes
arrives at. If, for every token that can be made, these halves are a merge, and such merges are in the order of the
tokens they make, both always merge the same: by induction over the merges of any word.

Besides, a word that is a token must be taken whole, nothing may be normalized, and the pattern that splits words must
be one whose character classes are the same in both libraries (`VERIFIED_VERSIONS`; a test compares every character).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tiktoken
import tokenizers

VERIFIED_VERSIONS = (("0.23", "0.14"),)
"""Minor versions of tokenizers and tiktoken in which every character is of the same classes."""
VERIFIED_SPLIT_PATTERNS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Patterns whose classes were compared: Llama 3's."""
MAX_TEXT_LENGTH = 100_000
"""Characters of a text that is still encoded here: tiktoken's pattern gives up on a million of white space."""


class TiktokenEncoder:
    """Encodes plain text. `encode` returns None if the text is too long for it or is not Unicode."""

    def __init__(self, split: str, ranks: Mapping[bytes, int]) -> None:
        self._encoding = tiktoken.Encoding("proven", pat_str=split, mergeable_ranks=dict(ranks), special_tokens={})

    @classmethod
    def from_tokenizer(cls, backend: tokenizers.Tokenizer, char_to_byte: Mapping[str, int]) -> TiktokenEncoder | None:
        """The encoder of a tokenizer that takes special tokens as text; None if the proof does not succeed."""
        if any(not token.special for token in backend.get_added_tokens_decoder().values()):
            return None
        if (_minor_version(tokenizers.__version__), _minor_version(tiktoken.__version__)) not in VERIFIED_VERSIONS:
            return None
        if type(backend.model) is not tokenizers.models.BPE or backend.normalizer is not None:
            return None
        if (split := _split_pattern(backend)) is None:
            return None
        model: dict[str, Any] = json.loads(backend.to_str())["model"]
        ordinary = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        if not model.get("ignore_merges") or any(model.get(name) != value for name, value in ordinary.items()):
            return None
        letters = str.maketrans({letter: chr(byte) for letter, byte in char_to_byte.items()})
        try:  # a token that holds any other letter is no text of bytes
            ranks = {token.translate(letters).encode("latin-1"): rank for token, rank in model["vocab"].items()}
        except UnicodeEncodeError:
            return None
        merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        return cls(split, ranks) if _merges_equal_ranks(model["vocab"], merges, char_to_byte) else None

    def encode(self, text: str) -> list[int] | None:
        if len(text) > MAX_TEXT_LENGTH:
            return None
        try:
            ids: list[int] = self._encoding._core_bpe.encode_ordinary(text)
        except UnicodeEncodeError:
            return None
        return ids


def _minor_version(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _split_pattern(backend: tokenizers.Tokenizer) -> str | None:
    """The pattern that the tokenizer splits words with, if that is all it does before bytes; else None."""
    if backend.pre_tokenizer is None:
        return None
    rule = json.loads(backend.pre_tokenizer.__getstate__())
    steps = rule.get("pretokenizers", [])
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, letters = steps
    pattern = split["pattern"].get("Regex")
    plain = split["behavior"] == "Isolated" and not split["invert"]
    plain &= not letters["add_prefix_space"] and not letters["use_regex"]
    return pattern if plain and pattern in VERIFIED_SPLIT_PATTERNS else None


def _merges_equal_ranks(ranks: Mapping[str, int], merges: Iterable[Sequence[str]], letters: Iterable[str]) -> bool:
    """Whether ranks of tokens and the list of merges merge the same.

    Tokens are written with a character for each byte.
    """
    merges_of: dict[str, list[tuple[str, str, int]]] = {}
    for position, (left, right) in enumerate(merges):
        pairs = merges_of.setdefault(left + right, [])
        if any(left == other for other, _, _ in pairs):  # a merge that stands twice
            return False
        pairs.append((left, right, position))
    rank_made = dict.fromkeys(letters, -1)
    if any(letter not in ranks for letter in rank_made):
        return False
    halves_of: dict[str, tuple[str, str]] = {}
    last = -1
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) == 1:
            continue
        pairs = merges_of.get(token, [])
        merge = next((pair for pair in pairs if _arrives_at(pair[0], pair[1], ranks, halves_of, rank_made)), None)
        if merge is not None:
            halves_of[token], rank_made[token] = merge[:2], ranks[token]
        elif (halves := _halves(token, ranks)) is not None:
            merge = next((pair for pair in pairs if pair[:2] == halves), None)
        else:
            continue
        if merge is None or merge[2] <= last:
            return False
        last = merge[2]
    return True


def _arrives_at(
    left: str,
    right: str,
    ranks: Mapping[str, int],
    halves_of: Mapping[str, tuple[str, str]],
    rank_made: Mapping[str, int],
) -> bool:
    """Whether joining the bytes of `left` and `right` by rank is known to arrive at these two.

    `rising` has the halves of tokens that rank higher than these, and these than theirs, down to bytes; `made` says
    when each is made: by its rank, a byte before all. So joins within them come in the order of ranks, and the two
    neighbors at the boundary only ever change to the tokens that hold them: on the right edge of the left one, on the
    left edge of the right one. Two neighbors are joined across the boundary if what they make ranks before the next
    such change; of equal ranks, what stands further left is joined first. So the edges are walked down, the token made
    last first.
    """
    first, second = rank_made.get(left), rank_made.get(right)
    if first is None or second is None:
        return False
    while first >= 0 or second >= 0:
        if first > second:
            left = halves_of[left][1]
            if ranks.get(left + right, math.inf) < first:
                return False
            first = rank_made[left]
        else:
            right = halves_of[right][0]
            if ranks.get(left + right, math.inf) <= second:
                return False
            second = rank_made[right]
    return True


def _halves(token: str, ranks: Mapping[str, int]) -> tuple[str, str] | None:
    """The two tokens that merging a token's bytes by rank arrives at; None if it stops at more, or at one byte."""
    parts = list(token)
    costs = [ranks.get(token[index : index + 2], math.inf) for index in range(len(token) - 1)]
    while len(parts) > 2:
        lowest = min(costs)
        if lowest == math.inf:
            return None
        index = costs.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
        del costs[index]
        if index < len(costs):
            costs[index] = ranks.get(parts[index] + parts[index + 1], math.inf)
        if index:
            costs[index - 1] = ranks.get(parts[index - 1] + parts[index], math.inf)
    return (parts[0], parts[1]) if len(parts) == 2 else None
