"""Byte-level BPE by ranks of tokens, three times as fast as by a list of merges, where both are proven to be the same.

Owns the proof and the encoder. Does not own which texts are encoded (`tokenizer`).

`tokenizer.json` ranks merges; tiktoken (after Llama 3's own `tokenizer.model`) ranks tokens, and joins the leftmost two
neighbours that make the token of the lowest rank. Joins within a stretch that no join crosses are those that the
stretch alone would see, in the same order. So a token is only ever made of the two halves that joining its own bytes
arrives at. Where, for every token that can be made, these halves are a merge, and such merges stand in the order of the
tokens they make, both always join the same: by induction over the joins of any word.

Besides, a word that is a token must be taken whole, nothing be normalised, and the pattern that splits words be one
whose character classes are the same in both libraries (`CLASSES_PROVEN`; a test compares every character).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tiktoken
import tokenizers

CLASSES_PROVEN = (("0.23", "0.14"),)
"""Minor versions of tokenizers and tiktoken in which every character is of the same classes."""
SPLITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Patterns whose classes were compared: Llama 3's."""
LONGEST = 100_000
"""Characters of a text that is still encoded here: tiktoken's pattern gives up on a million of white space."""


class RankEncoder:
    """`encode` gives the ids of plain text, or None where the text is too long for it or no Unicode."""

    def __init__(self, split: str, ranks: Mapping[bytes, int]) -> None:
        self._encoding = tiktoken.Encoding("proven", pat_str=split, mergeable_ranks=dict(ranks), special_tokens={})

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, byte_of: Mapping[str, int]) -> RankEncoder | None:
        """The encoder of a tokenizer that takes special tokens as text; None where the proof does not succeed."""
        if any(not token.special for token in backend.get_added_tokens_decoder().values()):
            return None
        if (_minor(tokenizers.__version__), _minor(tiktoken.__version__)) not in CLASSES_PROVEN:
            return None
        if type(backend.model) is not tokenizers.models.BPE or backend.normalizer is not None:
            return None
        if (split := _split(backend)) is None:
            return None
        model: dict[str, Any] = json.loads(backend.to_str())["model"]
        ordinary = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        if not model.get("ignore_merges") or any(model.get(name) != value for name, value in ordinary.items()):
            return None
        letters = str.maketrans({letter: chr(byte) for letter, byte in byte_of.items()})
        try:  # a token that holds any other letter is no text of bytes
            ranks = {token.translate(letters).encode("latin-1"): rank for token, rank in model["vocab"].items()}
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            merges = [tuple(half.translate(letters).encode("latin-1") for half in pair) for pair in pairs]
        except UnicodeEncodeError:
            return None
        return cls(split, ranks) if _same(ranks, merges) else None

    def encode(self, text: str) -> list[int] | None:
        if len(text) > LONGEST:
            return None
        try:
            ids: list[int] = self._encoding._core_bpe.encode_ordinary(text)
        except UnicodeEncodeError:
            return None
        return ids


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _split(backend: tokenizers.Tokenizer) -> str | None:
    """The pattern that the tokenizer splits words with, where that is all it does before bytes."""
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
    return pattern if plain and pattern in SPLITS else None


def _same(ranks: Mapping[bytes, int], merges: Sequence[tuple[bytes, ...]]) -> bool:
    """Whether ranks of tokens and the list of merges join the same."""
    place = {pair: number for number, pair in enumerate(merges)}
    if len(place) != len(merges) or any(bytes([byte]) not in ranks for byte in range(256)):
        return False
    last = -1
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = _halves(token, ranks)
        if halves is None:
            continue
        if place.get(halves, -1) <= last:
            return False
        last = place[halves]
    return True


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, ...] | None:
    """The two tokens that joining a token's bytes by rank arrives at; None where it stops at more, or at one byte."""
    parts = [token[at : at + 1] for at in range(len(token))]
    costs = [ranks.get(token[at : at + 2], math.inf) for at in range(len(token) - 1)]
    while len(parts) > 2:
        lowest = min(costs)
        if lowest == math.inf:
            return None
        at = costs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del costs[at]
        if at < len(costs):
            costs[at] = ranks.get(parts[at] + parts[at + 1], math.inf)
        if at:
            costs[at - 1] = ranks.get(parts[at - 1] + parts[at], math.inf)
    return tuple(parts) if len(parts) == 2 else None
