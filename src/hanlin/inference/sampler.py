"""How an id is chosen from logits: the one place for every engine that has the logits itself.

Owns greedy choice, penalties and drawing, so that equal logits and an equal seed give equal answers on each engine.
Does not own where an answer ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.protocol import Constraint, SamplingParams, TokenLogprobs

_FAR = -12.0  # in natural logarithm below the likeliest id
_MOST_SORTED = 8192
_COLDEST = 1e-4  # colder, the likeliest id alone is ever drawn, and a division could overflow


class Sampler:
    """Chooses the ids of one answer, one after another.

    The order is bias, repetition penalty, presence and frequency penalties, constraint, temperature, `top_k`, `top_p`,
    `min_p`; among what transformers has, its order. Of ids with equal logits the lowest comes first.
    """

    def __init__(
        self, sampling: SamplingParams, prompt_ids: Sequence[int], constraint: Constraint | None = None
    ) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed) if sampling.temperature > 0 else None
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1.0 else None
        self._counts: Counter[int] | None = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = Counter()
        self._constraint = constraint
        self.logprobs: list[TokenLogprobs] = []

    @property
    def plain(self) -> bool:
        """Whether the likeliest id is always the choice, so that an engine may take it where the logits lie."""
        return (
            self._random is None
            and self._seen is None
            and self._counts is None
            and self._constraint is None
            and not self._sampling.logit_bias
            and self._sampling.top_logprobs is None
        )

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next id from `logits` [vocabulary], which stay as they are."""
        changed = self._changed(logits)
        number = int(changed.argmax()) if self._random is None else self._draw(changed, self._random)
        if self._seen is not None:
            self._seen.add(number)
        if self._counts is not None:
            self._counts[number] += 1
        if self._constraint is not None:
            self._constraint.accept_token(number)
        if self._sampling.top_logprobs is not None:
            self.logprobs.append(_likely(logits, number, self._sampling.top_logprobs))
        return number

    def _changed(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits after bias, penalties and constraint."""
        sampling = self._sampling
        if not (sampling.logit_bias or self._seen or self._counts or self._constraint is not None):
            return logits
        logits = logits.copy()
        for number, bias in sampling.logit_bias:
            if number < logits.size:
                logits[number] += np.float32(bias)
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = np.float32(sampling.repetition_penalty)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if self._counts:
            held = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[held] -= np.float32(sampling.presence_penalty) + np.float32(sampling.frequency_penalty) * times
        if self._constraint is not None:
            allowed = self._constraint.allowed_tokens()[: logits.size]
            logits[: allowed.size][~allowed] = -np.inf
            logits[allowed.size :] = -np.inf
        return logits

    def _draw(self, logits: NDArray[np.float32], random: np.random.Generator) -> int:
        sampling = self._sampling
        numbers = None
        if 0 < sampling.top_k < logits.size:
            numbers = np.sort(np.argpartition(-logits, sampling.top_k - 1)[: sampling.top_k])
            logits = logits[numbers]
        scaled = (logits.astype(np.float64) - logits.max()) / max(sampling.temperature, _COLDEST)
        weights = np.exp(scaled)
        chance = random.random()
        # sorting a whole vocabulary costs more than a small model's step: the likeliest ids nearly always suffice
        near = np.flatnonzero(scaled > _FAR)
        place = None
        if len(near) < min(len(weights), _MOST_SORTED):
            place = self._place(near, weights, chance, float(weights.sum()))
        if place is None:
            place = self._place(np.arange(len(weights)), weights, chance, None)
        assert place is not None
        return place if numbers is None else int(numbers[place])

    def _place(
        self, among: NDArray[np.int64], weights: NDArray[np.float64], chance: float, total: float | None
    ) -> int | None:
        """The place that `chance` in [0, 1) falls on, `among` being all places, or the likeliest: then `total` is what
        all weigh, and the answer None when the others are needed."""
        sampling = self._sampling
        order = among[np.argsort(-weights[among], kind="stable")]
        summed = np.cumsum(weights[order])
        kept = everything = len(order)
        if sampling.top_p < 1:  # the fewest ids that together reach top_p
            reached = int(np.searchsorted(summed, sampling.top_p * (summed[-1] if total is None else total)))
            kept = min(kept, reached + 1)
        if sampling.min_p > 0:  # those at least `min_p` as likely as the likeliest
            kept = min(kept, max(1, int((weights[order] >= sampling.min_p * weights[order[0]]).sum())))
        whole = summed[kept - 1]
        if total is not None and kept == everything:  # perhaps the next ones are to be kept too
            if sampling.top_p < 1 or sampling.min_p > 0:
                return None
            whole = total
        drawn = int(np.searchsorted(summed[:kept], chance * whole, side="right"))
        if total is not None and drawn >= kept:
            return None
        return int(order[min(drawn, kept - 1)])


def _likely(logits: NDArray[np.float32], number: int, count: int) -> TokenLogprobs:
    logprobs = log_softmax(logits)
    count = min(count, logits.size)
    best = np.argpartition(-logits, count - 1)[:count] if count else np.empty(0, np.int64)
    order = best[np.lexsort((best, -logits[best]))]
    return TokenLogprobs(float(logprobs[number]), tuple((int(place), float(logprobs[place])) for place in order))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural log probabilities of `logits` [..., vocabulary]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
