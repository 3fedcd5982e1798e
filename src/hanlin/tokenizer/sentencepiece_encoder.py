"""SentencePiece BPE by the scores of its pieces, for vocabularies whose ids a list of merges cannot give.

Of all adjacent pairs that make a piece, the one of the highest score is joined first, of equal scores the leftmost.
Source: `llama-vocab.cpp` of llama.cpp, which does as SentencePiece.
"""

from __future__ import annotations

import functools
import heapq
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE

_CACHED_SEGMENTS, _LONGEST_CACHED = 50_000, 32


class SentencePieceEncoder:
    """Encodes text to the ids that SentencePiece and llama.cpp give.

    Args:
        scores: The score of each piece.
        ids: The id of each piece.
        byte_ids: The ids of the 256 bytes, for characters without a piece.
        whole_tokens: Tokens that are found in the text before anything else, with their ids.
        space_before: Whether a space is set before a text, and again after each of `whole_tokens`.
    """

    def __init__(
        self,
        scores: Mapping[str, float],
        ids: Mapping[str, int],
        byte_ids: Sequence[int],
        whole_tokens: Mapping[str, int],
        space_before: bool,
    ) -> None:
        self._scores, self._ids, self._byte_ids, self._whole_tokens = scores, ids, byte_ids, whole_tokens
        self._space = SENTENCEPIECE_SPACE if space_before else ""
        # Two characters that are adjacent in no piece are never joined, so that a text falls into short segments there:
        # most are single words, which are encoded once.
        self._adjacent = {pair for piece in scores for pair in pairwise(piece)}
        longest_first = sorted(whole_tokens, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split if longest_first else None
        self._merge_cached = functools.lru_cache(_CACHED_SEGMENTS)(self._merge)

    def encode(self, text: str, continuation: bool = False) -> list[int]:
        """Token ids of a text. With `continuation` it follows other text: no space is set before it."""
        space = "" if continuation else self._space
        ids: list[int] = []
        for index, part in enumerate(self._split(text) if self._split else [text]):
            if index % 2:
                ids.append(self._whole_tokens[part])
            elif part:
                self._encode_text(space + part.replace(" ", SENTENCEPIECE_SPACE), ids)
        return ids

    def _encode_text(self, text: str, ids: list[int]) -> None:
        start = 0
        for index, pair in enumerate(pairwise(text), start=1):
            if pair not in self._adjacent:
                ids += self._encode_segment(text[start:index])
                start = index
        ids += self._encode_segment(text[start:])

    def _encode_segment(self, segment: str) -> Sequence[int]:
        return self._merge_cached(segment) if len(segment) <= _LONGEST_CACHED else self._merge(segment)

    def _merge(self, segment: str) -> tuple[int, ...]:
        """The ids of one segment: a heap of adjacent pairs over a linked list of symbols."""
        symbols = list(segment)
        previous, following = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
        heap: list[tuple[float, int, int, str]] = []

        def push(left: int, right: int) -> None:
            joined = symbols[left] + symbols[right]
            if left >= 0 <= right and (score := self._scores.get(joined)) is not None:
                heapq.heappush(heap, (-score, left, right, joined))

        for left in range(len(symbols) - 1):
            push(left, left + 1)
        while heap:
            _, left, right, joined = heapq.heappop(heap)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != len(joined):
                continue  # one of the two was joined with another by now
            symbols[left], symbols[right] = joined, ""
            following[left] = following[right]
            if following[left] >= 0:
                previous[following[left]] = left
                push(left, following[left])
            if previous[left] >= 0:
                push(previous[left], left)
        ids: list[int] = []
        for symbol in filter(None, symbols):
            token_id = self._ids.get(symbol)
            ids += [self._byte_ids[byte] for byte in symbol.encode()] if token_id is None else [token_id]
        return tuple(ids)
