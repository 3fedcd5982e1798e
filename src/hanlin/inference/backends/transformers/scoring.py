"""Scoring of (prefix, continuation) pairs with a transformers model: what pairs share is computed once.

Questions of an exam share their worked examples: the keys and values of a long shared prefix are computed once, and the
rest of each row in batches that attend to it. The choices of a question share the question: rows with a short shared
prefix become one row in which each choice sees the prefix and itself. Logits are computed only where a continuation
needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from hanlin.inference.backends.transformers.kv_cache import TransformersDecoder
from hanlin.inference.protocol import OnScore, Score
from hanlin.inference.score_batch import (
    PackedRow,
    ScoreRow,
    build_score_rows,
    group_by_prefix,
    pack_rows,
    shared_length,
)

_LONG_PREFIX = 192
"""Tokens from which a shared prefix gets a call of its own; a shorter one costs less inside its rows."""
_LONGEST_PACKED = 1024
_MAX_TOKENS_PER_BATCH = {"cpu": 2048}
_MAX_TOKENS_PER_BATCH_ON_GPU = 16_384
_MAX_LOGITS_BYTES = 256 << 20


def score_pairs(
    decoder: TransformersDecoder,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    on_score: OnScore | None = None,
) -> list[Score]:
    """Score pairs that were checked; see `Engine.score`."""
    scorer = _PairScorer(decoder, len(pairs), on_score)
    packed: list[PackedRow] = []
    for group in group_by_prefix(build_score_rows(pairs)):
        length = shared_length(group) if len(group) > 1 else 0
        total = length + sum(len(row.ids) - length for row in group)
        if length >= _LONG_PREFIX:
            scorer.score_after_prefix(group, length)
        elif length and total <= _LONGEST_PACKED:
            packed.append(pack_rows(group, length))
        else:
            packed += [pack_rows([row], len(row.ids)) for row in group]
    scorer.score_packed(packed)
    return scorer.scores()


class _PairScorer:
    """Collects the scores of a call."""

    def __init__(self, decoder: TransformersDecoder, count: int, on_score: OnScore | None) -> None:
        self._decoder, self._device, self._on_score = decoder, decoder.device, on_score
        self._logprobs, self._greedy = [0.0] * count, [True] * count
        self._limit = _MAX_TOKENS_PER_BATCH.get(decoder.device.type, _MAX_TOKENS_PER_BATCH_ON_GPU)

    def scores(self) -> list[Score]:
        return [Score(*pair) for pair in zip(self._logprobs, self._greedy, strict=True)]

    @torch.inference_mode()
    def score_packed(self, rows: Sequence[PackedRow]) -> None:
        """Score rows in batches of similar length, padded on the right, where no token looks."""
        for batch in _batches(sorted(rows, key=lambda row: len(row.ids)), self._limit, [len(row.ids) for row in rows]):
            ids, positions, branches = (_pad([getattr(row, name) for row in batch]) for name in _COLUMNS)
            inputs: dict[str, Any] = {"input_ids": ids.to(self._device), "use_cache": False}
            if branches.any():
                inputs["position_ids"] = positions.to(self._device)
                inputs["attention_mask"] = _tree_mask(branches).to(self._device)
            with self._decoder.lock:
                hidden = self._decoder.hidden(**inputs)
                steps = [
                    (row_index, place, target, index)
                    for row_index, row in enumerate(batch)
                    for index, places, continuation in row.scored
                    for place, target in zip(places, continuation, strict=True)
                ]
                self._add(hidden, steps)

    @torch.inference_mode()
    def score_after_prefix(self, rows: Sequence[ScoreRow], length: int) -> None:
        """Score rows that share their first `length` ids, which are run once. Logits are needed after these only."""
        device = self._device
        layers = [_PrefixLayer() for _ in range(self._decoder.layers)]
        cache = Cache(layers=list(layers))
        prefix = torch.tensor([rows[0].ids[:length]], device=device)
        places = torch.arange(length, device=device)[None]
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        with self._decoder.lock:
            self._decoder.hidden(
                input_ids=prefix, position_ids=places, attention_mask=causal, past_key_values=cache, use_cache=True
            )
        for layer in layers:
            layer.is_prefix_done = True
        rests = sorted(rows, key=lambda row: len(row.ids))
        for batch in _batches(rests, self._limit, [len(row.ids) - length for row in rests]):
            ids = _pad([row.ids[length:] for row in batch])
            width = ids.shape[1]
            positions = torch.arange(length, length + width, device=device)[None].expand(len(batch), -1)
            mask = torch.ones(width, length + width, dtype=torch.bool, device=device).tril(length)[None, None]
            with self._decoder.lock:
                hidden = self._decoder.hidden(
                    input_ids=ids.to(device),
                    position_ids=positions,
                    attention_mask=mask.expand(len(batch), 1, -1, -1),
                    past_key_values=cache,
                    use_cache=True,
                )
                steps = [
                    (row_index, start + offset - length, target, index)
                    for row_index, row in enumerate(batch)
                    for index, start, continuation in row.scored
                    for offset, target in enumerate(continuation)
                ]
                self._add(hidden, steps)

    def _add(self, hidden: torch.Tensor, steps: Sequence[tuple[int, int, int, int]]) -> None:
        """Add the log probabilities of (row, place, target id, pair index) to the pairs' sums. The steps of a pair come
        in one call.
        """
        size = max(1, _MAX_LOGITS_BYTES // (4 * self._decoder.vocabulary_size))
        for first in range(0, len(steps), size):
            chunk = steps[first : first + size]
            rows, places, targets = (torch.tensor(column) for column in list(zip(*chunk, strict=True))[:3])
            # continuations of one question need the same logits: they are computed once
            keys, inverse = torch.unique(torch.stack([rows, places], 1), dim=0, return_inverse=True)
            logits = self._decoder.logits(hidden[keys[:, 0], keys[:, 1]])
            top_ids = logits.argmax(dim=-1)[inverse.to(logits.device)]
            normalizers = logits.logsumexp(dim=-1)[inverse.to(logits.device)]
            values = logits[inverse.to(logits.device), targets.to(logits.device)] - normalizers
            for (_, _, target, index), value, top_id in zip(chunk, values.tolist(), top_ids.tolist(), strict=True):
                self._logprobs[index] += value
                self._greedy[index] &= top_id == target
        if self._on_score is not None:
            for index in dict.fromkeys(index for _, _, _, index in steps):
                self._on_score(index, Score(self._logprobs[index], self._greedy[index]))


_COLUMNS = ("ids", "positions", "branches")


class _PrefixLayer(DynamicLayer):
    """Keys and values of a prefix in one layer; later calls see them before their own, which are not kept."""

    is_prefix_done = False

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_prefix_done:
            self.keys, self.values = key_states, value_states
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        count = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(count, -1, -1, -1), key_states], dim=2),
            torch.cat([self.values.expand(count, -1, -1, -1), value_states], dim=2),
        )


def _batches(rows: Sequence[Any], limit: int, lengths: Sequence[int]) -> Iterator[list[Any]]:
    """Neighboring rows, in ascending order of length, of at most `limit` tokens with their padding."""
    start = 0
    lengths = sorted(lengths)
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * lengths[stop] <= limit:
            stop += 1
        yield list(rows[start:stop])
        start = stop


def _pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of numbers [rows, longest], with zeros on the right."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def _tree_mask(branches: torch.Tensor) -> torch.Tensor:
    """[rows, 1, tokens, tokens]: True where a token may look, at earlier ones of the prefix and of its own branch."""
    width = branches.shape[1]
    same = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    return (same & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
