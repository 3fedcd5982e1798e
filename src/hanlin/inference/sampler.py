"""The sampler: choose the next token from logits, for every engine that has the logits itself.

Equal logits and an equal seed give equal answers on each engine. What ends an answer is decided elsewhere.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.protocol import Constraint, SamplingParams, TokenLogprobs

_MIN_LOG_RATIO = -12.0  # in natural logarithm below the likeliest id
_MAX_SORTED = 8192
_MIN_TEMPERATURE = 1e-4  # colder, the likeliest id alone is ever drawn, and a division could overflow


class Sampler:
    """Samples the tokens of one answer, one after another.

    The order is bias, repetition penalty, presence and frequency penalties, constraint, `min_tokens`, then that of
    transformers and vLLM: temperature, `top_k`, `top_p`, `min_p`. With `typical_p`, which only clients of llama.cpp and
    Ollama send, it is llama.cpp's: `top_k`, `typical_p`, `top_p`, `min_p`, temperature. Of tokens with equal logits the
    lowest id comes first.

    Source: llama.cpp, `common/common.h`, `common_params_sampling.samplers`.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        prompt_ids: Sequence[int],
        constraint: Constraint | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed) if sampling.temperature > 0 else None
        window = sampling.repeat_last_n
        self._recent = deque(prompt_ids, maxlen=window) if window >= 0 else None
        self._stop_ids = list(stop_ids)
        self._seen: set[int] | None = None
        if sampling.repetition_penalty != 1.0:
            self._seen = self._penalized(prompt_ids if self._recent is None else self._recent)
        self._counts: Counter[int] | None = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = Counter()
        self._constraint = constraint
        self._num_sampled = 0
        self.logprobs: list[TokenLogprobs] = []

    @property
    def is_greedy(self) -> bool:
        """Whether the choice is always the argmax, so that an engine may take it on the device."""
        return (
            self._random is None
            and self._seen is None
            and self._counts is None
            and self._constraint is None
            and not self._sampling.logit_bias
            and self._sampling.top_logprobs is None
            and not self._sampling.min_tokens
        )

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether `sample` need not wait for the constraint; waits up to `seconds` for it."""
        return self._constraint is None or self._constraint.is_ready(seconds)

    def close(self) -> None:
        """Let go of what the constraint holds; the answer has ended."""
        if self._constraint is not None:
            self._constraint.close()

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token from `logits` [vocabulary], which are not modified."""
        adjusted = self._adjust_logits(logits)
        token_id = int(adjusted.argmax()) if self._random is None else self._draw(adjusted, self._random)
        self._num_sampled += 1
        if self._recent is not None:
            self._count_recent(token_id, self._recent)
        else:
            if self._seen is not None:
                self._seen.add(token_id)
            if self._counts is not None:
                self._counts[token_id] += 1
        if self._constraint is not None:
            self._constraint.accept_token(token_id)
        if self._sampling.top_logprobs is not None:
            self.logprobs.append(token_logprobs(logits, token_id, self._sampling.top_logprobs))
        return token_id

    def _penalized(self, token_ids: Iterable[int]) -> set[int]:
        """What the repetition penalty lowers: all that was there, but the ends of turns.

        A chat's prompt holds the end of each turn before, and no answer should be the less likely to end for it.
        """
        return set(token_ids).difference(self._stop_ids)

    def _count_recent(self, token_id: int, recent: deque[int]) -> None:
        """Move the window of the penalties on by one token."""
        recent.append(token_id)
        if self._seen is not None:
            self._seen = self._penalized(recent)
        if self._counts is not None:
            self._counts = Counter(list(recent)[-min(self._num_sampled, len(recent)) :] if recent else ())

    def _adjust_logits(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits after bias, penalties and constraint."""
        sampling = self._sampling
        may_stop = self._num_sampled >= sampling.min_tokens or not self._stop_ids
        if may_stop and not (sampling.logit_bias or self._seen or self._counts or self._constraint is not None):
            return logits
        logits = logits.copy()
        for token_id, bias in sampling.logit_bias:
            if token_id < logits.size:
                logits[token_id] += np.float32(bias)
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = np.float32(sampling.repetition_penalty)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if self._counts:
            token_ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[token_ids] -= np.float32(sampling.presence_penalty) + np.float32(sampling.frequency_penalty) * counts
        if self._constraint is not None:
            allowed = self._constraint.allowed_tokens()[: logits.size]
            logits[: allowed.size][~allowed] = -np.inf
            logits[allowed.size :] = -np.inf
        if not may_stop:
            stop_ids = [token_id for token_id in self._stop_ids if token_id < logits.size]
            stop_logits = logits[stop_ids]
            logits[stop_ids] = -np.inf
            if np.isneginf(logits).all():  # the constraint allows nothing but the end
                logits[stop_ids] = stop_logits
        return logits

    def _draw(self, logits: NDArray[np.float32], random: np.random.Generator) -> int:
        sampling = self._sampling
        candidate_ids = None
        if 0 < sampling.top_k < logits.size:
            candidate_ids = np.sort(_likeliest(logits, sampling.top_k))
            logits = logits[candidate_ids]
        logprobs = logits.astype(np.float64) - logits.max()
        if sampling.typical_p < 1:
            kept = self._filter_before_temperature(logprobs)
            candidate_ids = kept if candidate_ids is None else candidate_ids[kept]
            weights = np.exp((logprobs[kept] - logprobs[kept].max()) / max(sampling.temperature, _MIN_TEMPERATURE))
            return int(candidate_ids[_draw_among(np.cumsum(weights), random.random())])
        scaled = logprobs / max(sampling.temperature, _MIN_TEMPERATURE)
        weights = np.exp(scaled)
        uniform = random.random()
        # sorting a whole vocabulary costs more than a small model's step: the likeliest ids nearly always suffice
        likely = np.flatnonzero(scaled > _MIN_LOG_RATIO)
        index = None
        if len(likely) < min(len(weights), _MAX_SORTED):
            index = self._draw_index(likely, weights, uniform, float(weights.sum()))
        if index is None:
            index = self._draw_index(np.arange(len(weights)), weights, uniform, None)
        assert index is not None
        return index if candidate_ids is None else int(candidate_ids[index])

    def _filter_before_temperature(self, logprobs: NDArray[np.float64]) -> NDArray[np.int64]:
        """The indices that `typical_p`, `top_p` and `min_p` keep one after another, the likeliest first."""
        weights = np.exp(logprobs)
        typical = _typical_indices(weights, self._sampling.typical_p)
        order = typical[np.argsort(-weights[typical], kind="stable")]
        cumulative = np.cumsum(weights[order])
        return order[: self._count_kept(weights[order], cumulative, float(cumulative[-1]))]

    def _count_kept(self, weights: NDArray[np.float64], cumulative: NDArray[np.float64], total: float) -> int:
        """How many of the first of sorted candidates `top_p` and `min_p` keep; `total` is the weight of all ids."""
        sampling = self._sampling
        num_kept = len(weights)
        if sampling.top_p < 1:  # the fewest ids that together reach top_p
            num_kept = min(num_kept, int(np.searchsorted(cumulative, sampling.top_p * total)) + 1)
        if sampling.min_p > 0:  # those at least `min_p` as likely as the likeliest
            num_kept = min(num_kept, max(1, int((weights >= sampling.min_p * weights[0]).sum())))
        return num_kept

    def _draw_index(
        self, candidates: NDArray[np.int64], weights: NDArray[np.float64], uniform: float, total: float | None
    ) -> int | None:
        """The index that `uniform` in [0, 1) falls on.

        `candidates` are all indices, or only the likeliest; then `total` is the sum of all weights, and None is
        returned if the other candidates are needed to decide.
        """
        sampling = self._sampling
        order = candidates[np.argsort(-weights[candidates], kind="stable")]
        cumulative = np.cumsum(weights[order])
        num_candidates = len(order)
        num_kept = self._count_kept(weights[order], cumulative, float(cumulative[-1]) if total is None else total)
        mass = float(cumulative[num_kept - 1])
        if total is not None and num_kept == num_candidates:  # perhaps the next ones are to be kept too
            if sampling.top_p < 1 or sampling.min_p > 0:
                return None
            mass = total
        drawn = int(np.searchsorted(cumulative[:num_kept], uniform * mass, side="right"))
        if total is not None and drawn >= num_kept:
            return None
        return int(order[min(drawn, num_kept - 1)])


def _draw_among(cumulative: NDArray[np.float64], uniform: float) -> int:
    """The index that `uniform` in [0, 1) falls on, of candidates with these summed weights."""
    drawn = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(drawn, len(cumulative) - 1)


def _typical_indices(weights: NDArray[np.float64], mass: float) -> NDArray[np.int64]:
    """The ascending indices of the fewest tokens, nearest to the entropy first, that reach `mass` together.

    weights [0.7, 0.2, 0.1] / 1.0, entropy 0.80: distances [0.44, 0.81, 1.50], so mass 0.8 keeps [0, 1]
    """
    probs = weights / weights.sum()
    surprise = -np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    order = np.argsort(np.abs(surprise - (probs * surprise).sum()), kind="stable")
    reached = int(np.searchsorted(np.cumsum(probs[order]), mass))
    return np.sort(order[: reached + 1])


def token_logprobs(logits: NDArray[np.float32], token_id: int, count: int) -> TokenLogprobs:
    """The log probability of a token under `logits` [vocabulary], and those of the `count` likeliest, the lowest id
    first among equal ones.
    """
    logprobs = log_softmax(logits)
    count = min(count, logits.size)
    if count <= 1:  # of most requests: half the time of a partition
        best = np.array([logits.argmax()] * count, np.int64)
    else:
        best = _likeliest(logits, count)
    order = best[np.lexsort((best, -logits[best]))]
    return TokenLogprobs(float(logprobs[token_id]), tuple((int(index), float(logprobs[index])) for index in order))


def _likeliest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The ids of the `count` highest logits, in any order; of equal ones at the border the lowest ids.

    Logits of models in bfloat16 or with quantized weights are often equal, and a partition alone takes any of them.
    """
    best = np.argpartition(-logits, count - 1)[:count]
    border = logits[best].min()
    higher = best[logits[best] > border]
    equal = np.flatnonzero(logits == border)[: count - len(higher)]
    return np.concatenate([higher, equal]) if len(higher) + len(equal) == count else best  # not if one is no number


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural log probabilities of `logits` [..., vocabulary]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
