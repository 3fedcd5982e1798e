"""What an engine is: it generates and scores from token ids, never from text, so each engine gets the same prompt.

Does not own a model runtime: those are the `*_engine` files, each imported only when it is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled"]

"""Engines that can run in a process of their own."""


class EngineUnavailableError(Exception):
    """What computed has ended in the middle of its work, or cannot be reached. Asking again later may help."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next id is chosen: greedily at temperature 0, else drawn after `top_k` (0: all), `top_p` and `min_p`.

    `repetition_penalty` divides the positive and multiplies the negative logits of ids that the prompt or the answer
    holds (Keskar et al. 2019, CTRL, section 4.1). `presence_penalty` is taken once, `frequency_penalty` for each time,
    from the logit of an id that the answer holds (OpenAI's definition). `logit_bias` is added to ids' logits. `seed`
    None draws a fresh one. `max_new_tokens` is an upper limit; the end of the model's context is another. With
    `top_logprobs` a stream says how likely each id was and which that many ids were likeliest. Raises UserError for a
    value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        wrong = (
            ("temperature", self.temperature, ">= 0", self.temperature >= 0 and math.isfinite(self.temperature)),
            ("top_p", self.top_p, "> 0, <= 1", 0 < self.top_p <= 1),
            ("top_k", self.top_k, ">= 0", self.top_k >= 0),
            ("repetition_penalty", self.repetition_penalty, "> 0", 0 < self.repetition_penalty < math.inf),
            ("max_new_tokens", self.max_new_tokens, ">= 1", self.max_new_tokens >= 1),
            ("min_p", self.min_p, ">= 0, < 1", 0 <= self.min_p < 1),
            ("presence_penalty", self.presence_penalty, "finite", math.isfinite(self.presence_penalty)),
            ("frequency_penalty", self.frequency_penalty, "finite", math.isfinite(self.frequency_penalty)),
            ("top_logprobs", self.top_logprobs or 0, ">= 0", (self.top_logprobs or 0) >= 0),
        )
        for name, value, limits, fits in wrong:
            if not fits:
                raise UserError(say(f"{name} must be {limits}, not {value}", f"{name} 应 {limits}，现为 {value}"))


class Constraint(Protocol):
    """Which ids may come next in one answer. It must not raise: it would break the answers beside it.

    `failed` says why it ended the answer where it could not go on. An engine in another process gets a copy (it can be
    pickled) or, where it has its own grammars, the JSON `schema` that it stands for.
    """

    failed: str

    @property
    def schema(self) -> Mapping[str, Any]: ...

    def allowed_tokens(self) -> NDArray[np.bool_]:
        """Of each id, up to some size, whether it may come; ids beyond may not."""

    def accept_token(self, token_id: int) -> None:
        """The id that was chosen."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt as ids, every id that ends the answer, and what the answer must obey; a constraint serves once.

    `adapter` is the name of one that the engine was opened with; without, the model itself answers.
    """

    prompt_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    constraint: Constraint | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of a chosen id: its natural log probability before sampling, and the likeliest ids with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The generated ids without the stop id, and why they end."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Score:
    """Of a continuation given a prefix: the sum of its ids' natural log probabilities, and if each is the likeliest."""

    logprob: float
    greedy: bool


class Stream(Protocol):
    """The ids of one answer as they come, without the stop id. Closing it early cancels the generation."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; None until it has."""

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        """Of each id that was given, in order, how likely it was, where `top_logprobs` was asked for."""

    def __iter__(self) -> Iterator[int]: ...

    def __next__(self) -> int: ...

    def cancel(self) -> None:
        """End the answer soon, from any thread, without waiting for it."""

    def close(self) -> None:
        """End the answer and wait until what it held is free. From any thread, also while another waits for an id."""


@runtime_checkable
class SubscribableStream(Protocol):
    """A stream that can also hand on what comes, instead of being iterated."""

    def subscribe(self, hear: Callable[[int | BaseException | None], None]) -> None:
        """Give each id to `hear`, at last None or the error that ended it, what has come already first. It is called
        in one thread after the other, never at once, and must neither wait nor raise."""


class Engine(Protocol):
    """A loaded model. `context_length` is the most ids, prompt and answer together, that one request may hold.

    Several threads may call an engine at once. An answer does not depend on what else is generated beside it, as far
    as the runtime's arithmetic allows.
    """

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Completion]:
        """One reply for each request, in order. Raises UserError for a prompt that is empty or too long."""

    def stream(self, request: GenerationRequest) -> Stream: ...

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """For each (prefix ids, continuation ids) pair, neither empty, how likely the continuation is."""

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Of each row of ids the mean of the last layer's hidden states, of length 1; [texts, width]."""

    def close(self) -> None:
        """Free the model; the engine answers nothing afterwards."""
