"""The engine protocol: an engine generates and scores from token ids, never from text.

Every engine therefore gets the same prompt. The engines are in `inference/backends`; each is imported only when it is
opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled"]


class EngineUnavailableError(UserError):
    """The process or server that computes has ended, or cannot be reached. A later attempt may succeed."""

    code = "unreachable"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen: greedily at temperature 0, else sampled after `top_k` (0: all), `top_p` and
    `min_p`.

    Attributes:
        repetition_penalty: Divides positive and multiplies negative logits of tokens that the prompt or the answer
            holds (Keskar et al. 2019, CTRL, section 4.1), those that end an answer excepted.
        presence_penalty: Subtracted once from the logit of a token that the answer holds (OpenAI's definition).
        frequency_penalty: Subtracted for each time that the answer holds the token.
        logit_bias: (token id, bias) pairs; each bias is added to the token's logit.
        seed: Seed of the random numbers; None draws a fresh one.
        max_new_tokens: An upper limit; the end of the model's context is another.
        top_logprobs: If set, the stream reports each token's log probability and this many of the likeliest tokens.
        repeat_last_n: The penalties look at this many of the latest tokens (llama.cpp's definition); -1: at all.
        typical_p: The tokens whose information is nearest to the entropy are kept until they reach this probability
            together (Meister et al. 2023, Locally Typical Sampling), temperature last (see `Sampler`); 1: all.
        min_tokens: No stop token ends the answer before it has this many tokens.

    Raises:
        UserError: If a value is no number or out of range.
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
    repeat_last_n: int = -1
    typical_p: float = 1.0
    min_tokens: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        wrong = (
            ("temperature", self.temperature, ">= 0", self.temperature >= 0 and math.isfinite(self.temperature)),
            ("top_p", self.top_p, "> 0, <= 1", 0 < self.top_p <= 1),
            ("top_k", self.top_k, ">= 0", self.top_k >= 0),
            ("repetition_penalty", self.repetition_penalty, "> 0", 0 < self.repetition_penalty < math.inf),
            ("max_new_tokens", self.max_new_tokens, ">= 1", self.max_new_tokens >= 1),
            ("min_p", self.min_p, ">= 0, < 1", 0 <= self.min_p < 1),
            ("presence_penalty", self.presence_penalty, "finite", math.isfinite(self.presence_penalty)),
            ("frequency_penalty", self.frequency_penalty, "finite", math.isfinite(self.frequency_penalty)),
            ("seed", self.seed, ">= 0", self.seed is None or self.seed >= 0),
            ("top_logprobs", self.top_logprobs or 0, ">= 0", (self.top_logprobs or 0) >= 0),
            ("repeat_last_n", self.repeat_last_n, ">= -1", self.repeat_last_n >= -1),
            ("typical_p", self.typical_p, "> 0, <= 1", 0 < self.typical_p <= 1),
            ("min_tokens", self.min_tokens, ">= 0", self.min_tokens >= 0),
        )
        for name, value, limits, fits in wrong:
            if not fits:
                raise UserError(tr("{name} must be {limits}, not {value}", name=name, limits=limits, value=value))

    def _check_types(self) -> None:
        for name in ("top_k", "max_new_tokens", "seed", "top_logprobs", "repeat_last_n", "min_tokens"):
            value = getattr(self, name)
            if not isinstance(value, Integral) and not (value is None and name in ("seed", "top_logprobs")):
                raise UserError(tr("{name} must be an integer, not {value!r}", name=name, value=value))
        penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
        for name in ("temperature", "top_p", "min_p", "typical_p", *penalties):
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise UserError(tr("{name} must be a number, not {value!r}", name=name, value=value))


class Constraint(Protocol):
    """Which tokens may come next in one answer, for guided decoding.

    Its methods must not raise: that would break the answers in the same batch. `failed` says why the constraint ended
    the answer, if it could not go on. An engine in another process gets a pickled copy, or the `spec` if it has
    grammars of its own.
    """

    failed: str

    @property
    def spec(self) -> Mapping[str, Any]:
        """What the answer must fit, as vLLM's `structured_outputs` says it: one of `json` (a JSON schema), `regex`,
        `choice` (texts), `grammar` (GBNF or Lark).
        """

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether `allowed_tokens` need not wait; waits up to `seconds` for it. The scheduler goes on without an
        answer whose constraint is not ready.
        """

    def close(self) -> None:
        """Called when the answer has ended."""

    def allowed_tokens(self) -> NDArray[np.bool_]:
        """A mask [vocabulary or less]: True for each token that may come next. Tokens beyond its end may not."""

    def accept_token(self, token_id: int) -> None:
        """Advance by the token that was chosen."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt as token ids, the ids that end the answer, and how to sample. A constraint serves one request only.

    `adapter` is the name of a LoRA adapter that the engine was opened with; without it the base model answers.
    """

    prompt_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    constraint: Constraint | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The natural log probability of a generated token before sampling, and those of the likeliest tokens."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The generated token ids, without the stop token, and why generation ended."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is: the sum of its tokens' natural log probabilities, and whether each is the
    argmax.
    """

    logprob: float
    greedy: bool


@dataclass(frozen=True, slots=True)
class PromptScoreRequest:
    """A prompt as token ids whose own tokens are to be scored, and how many of the likeliest tokens to tell at each
    place. `adapter` as in `GenerationRequest`.
    """

    ids: tuple[int, ...]
    top_logprobs: int = 0
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class PromptScore:
    """How likely each token of a prompt is behind those before it.

    Attributes:
        logprobs: One entry for each token but the first, which nothing predicts.
        next_id: The likeliest token behind the prompt.
        next_logprobs: Its log probability, and those of the others that are likely there.
    """

    logprobs: tuple[TokenLogprobs, ...]
    next_id: int
    next_logprobs: TokenLogprobs


OnCompletion = Callable[[int, Completion], None]
OnScore = Callable[[int, Score], None]


class Stream(Protocol):
    """The token ids of one answer as they are generated, without the stop token.

    Closing it early cancels the answer.
    """

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; None while it is generated."""

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        """One entry for each token that was yielded, in order, if `top_logprobs` was requested."""

    @property
    def cached_tokens(self) -> int | None:
        """How many tokens of the prompt the KV cache held; None if that is not known, or not yet."""

    def __iter__(self) -> Iterator[int]: ...

    def __next__(self) -> int: ...

    def cancel(self) -> None:
        """End the answer soon, from any thread, without waiting for it."""

    def close(self) -> None:
        """End the answer and wait until its resources are free.

        From any thread, even while another waits for a token.
        """


@runtime_checkable
class SubscribableStream(Protocol):
    """A stream that can push its tokens to a callback instead of being iterated."""

    def subscribe(self, callback: Callable[[int | BaseException | None], None]) -> None:
        """Call `callback` with each token id, then with None, or with the error that ended the answer.

        Tokens that were generated before come first. Calls come from several threads but never at once; the callback
        must neither wait nor raise.
        """


class Engine(Protocol):
    """A loaded model.

    `context_length` is the maximum number of tokens, prompt and answer together, of one request. Several threads may
    call an engine at once. An answer does not depend on the other answers in its batch, as far as the runtime's
    arithmetic allows.
    """

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    @property
    def max_scored_length(self) -> int:
        """The most ids of prefix and continuation together that `score` takes. The last id is predicted and need not be
        run, so that it may be one more than the context holds; a server runs it all the same, and one that writes a
        token behind it takes one less.
        """

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress | None = None,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Generate one completion for each request, in order.

        `on_completion` is called in this thread with the index of a request and its completion as soon as that is
        there. Raises UserError for a prompt that is empty or too long.
        """

    def stream(self, request: GenerationRequest) -> Stream: ...

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_score: OnScore | None = None
    ) -> list[Score]:
        """Score each (prefix ids, continuation ids) pair, neither empty.

        `on_score` is called in this thread with the index of a pair and its score as soon as that is there.
        """

    def score_prompts(self, requests: Sequence[PromptScoreRequest]) -> list[PromptScore]:
        """Score every token of each prompt, in order.

        Raises UserError for a prompt that is empty or too long, and if the engine tells no probabilities of prompts.
        """

    def embed(self, texts: Sequence[Sequence[int]], adapter: str | None = None) -> NDArray[np.float32]:
        """Embed each row of token ids: the mean of the last layer's hidden states, scaled to length 1; [texts,
        hidden size]. `adapter` as in `GenerationRequest`.
        """

    def close(self) -> None:
        """Free the model. The engine cannot be used afterwards."""
