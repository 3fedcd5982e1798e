"""How an id is chosen from logits: the one place for every engine that has the logits itself.

Owns greedy choice, penalties and drawing, so that equal logits and an equal seed give equal answers on each engine.
Does not own where an answer ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hanlin.engines import Sampling


class Chooser:
    """Chooses the ids of one answer, one after another.

    The order is that of transformers: repetition penalty, temperature, `top_k`, `top_p`. Of ids with equal logits the
    lowest comes first.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed) if sampling.temperature > 0 else None
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1.0 else None

    @property
    def plain(self) -> bool:
        """Whether the likeliest id is always the choice, so that an engine may take it where the logits lie."""
        return self._random is None and self._seen is None

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next id from `logits` [vocabulary], which stay as they are."""
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = np.float32(self._sampling.repetition_penalty)
            logits = logits.copy()
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        number = int(logits.argmax()) if self._random is None else self._draw(logits, self._random)
        if self._seen is not None:
            self._seen.add(number)
        return number

    def _draw(self, logits: NDArray[np.float32], random: np.random.Generator) -> int:
        sampling = self._sampling
        numbers = None
        if 0 < sampling.top_k < logits.size:
            numbers = np.sort(np.argpartition(-logits, sampling.top_k - 1)[: sampling.top_k])
            logits = logits[numbers]
        scaled = (logits.astype(np.float64) - logits.max()) / sampling.temperature
        weights = np.exp(scaled)
        order = np.argsort(-weights, kind="stable")
        summed = np.cumsum(weights[order])
        kept = len(order)
        if sampling.top_p < 1:  # the fewest ids that together reach top_p
            kept = min(kept, int(np.searchsorted(summed, sampling.top_p * summed[-1])) + 1)
        drawn = int(np.searchsorted(summed[:kept], random.random() * summed[kept - 1], side="right"))
        place = int(order[min(drawn, kept - 1)])
        return place if numbers is None else int(numbers[place])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural log probabilities of `logits` [..., vocabulary]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
