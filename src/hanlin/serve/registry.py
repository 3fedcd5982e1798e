"""The models of a server by name, and the step from a client's request to engine requests (`GenerationJob`)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

from hanlin.chat.call_form import CallForm, find_call_form
from hanlin.chat.reasoning import BEGIN_TAG, find_begun_thought
from hanlin.chat.rendering.request_turns import RequestRefusal
from hanlin.core.errors import UnsupportedToolsError, UserError
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Constraint, GenerationRequest, SamplingParams
from hanlin.serve.admission import AdmissionQueue, Limits
from hanlin.serve.errors import ApiError, clip_name
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.tokenizer.generation_config import read_sampling_params
from hanlin.tokenizer.tokenizer import Tokenizer

MAX_CHOICES = 16
_PROMPT_TAIL_TOKENS = 16


Thought = Literal["none", "open", "free"]
"""Whether reasoning comes before what an answer must fit: not at all, in any case (the prompt opened its block), or as
the model likes. Reasoning is free text up to `</think>`."""


class AnswerFormat(Protocol):
    """What an answer must fit, named `param` in errors."""

    param: str
    leaves_text_free: bool

    def __call__(self, model: ServedModel, thought: Thought) -> Constraint:
        """The constraint of one answer of `model`; `thought` may come before what it must fit."""


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """What a client asks of an answer, whatever the API.

    Attributes:
        sampling: Fields of `SamplingParams`; None means that the client did not set it.
        stop_strings: Texts that end the answer.
        choices: Answers to each prompt (OpenAI's `n`).
        response_format: Makes the constraint that each answer must obey; see `api.structure.output_format`.
        stop_ids: Token ids that end the answer, besides the model's own.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop_strings: tuple[str, ...] = ()
    choices: int = 1
    response_format: AnswerFormat | None = None
    stop_ids: tuple[int, ...] = ()


class ChatPrompt(tuple[int, ...]):
    """Prompt ids of a conversation.

    Attributes:
        continues_answer: They end with the beginning of an answer (prefill).
        continues_thought: That ends within its thinking block.
        asks_for_thought: The request wants the answer to think.
    """

    continues_answer = False
    continues_thought = False
    asks_for_thought = False

    @classmethod
    def create(
        cls, ids: Iterable[int], continues_answer: bool, asks_for_thought: bool, continues_thought: bool = False
    ) -> Self:
        prompt = cls(ids)
        prompt.continues_answer, prompt.asks_for_thought = continues_answer, asks_for_thought
        prompt.continues_thought = continues_thought
        return prompt


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """Engine requests of one model that are answered together.

    With prompts A and B and two choices, `requests` is [A 0, A 1, B 0, B 1]; the index there is the answer's index.

    Attributes:
        model: The model that answers.
        requests: One for each answer.
        stop_strings: Texts that end an answer.
        prompt_tokens: Tokens of all prompts.
        continues_text: Of each answer, whether it goes on from a text, so that its leading space belongs to it.
        choices: Answers to each prompt.
        continues_thought: Whether the answers go on within a thought that the client began.
    """

    model: ServedModel
    requests: tuple[GenerationRequest, ...]
    stop_strings: tuple[str, ...]
    prompt_tokens: int
    continues_text: tuple[bool, ...] = ()
    choices: int = 1
    continues_thought: bool = False

    def count_cached(self, cached_tokens: Sequence[int | None]) -> int | None:
        """Tokens of the prompts that were not computed again, which `usage` reports; None if the engine does not say.

        Args:
            cached_tokens: Of each answer, how many tokens of its prompt the KV cache held.

        The choices of one prompt run side by side, each in a slot of its own: the prompt was in the cache as far as it
        was for all of them.
        """
        known = [count for count in cached_tokens if count is not None]
        if not known or len(known) < len(cached_tokens):
            return None
        return sum(min(known[start : start + self.choices]) for start in range(0, len(known), self.choices))


class ServedModel:
    """A loaded model under the name that clients use. What a client leaves open, `generation_config.json` decides.

    Args:
        name: What clients call it.
        opened: Engine, tokenizer and folder.
        limits: Limits of the server.
        adapter: The engine's name of the adapter that answers; None: the base model.
        queue: Shared by the models of one engine; None: a new one.

    Raises:
        UserError: the model has no chat template; said at the start, not at the first request.
    """

    def __init__(
        self,
        name: str,
        opened: LoadedEngine,
        limits: Limits,
        adapter: str | None = None,
        queue: AdmissionQueue | None = None,
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.opened = opened
        self.engine, self.tokenizer = opened.engine, opened.tokenizer
        self.queue = queue or AdmissionQueue(limits)
        self.created = int(time.time())
        self._limits = limits
        self._default_sampling = read_sampling_params(opened.location.settings_folder)
        self.template = opened.load_template()
        # no token has more bytes than the longest one: a longer text cannot fit the context
        self.max_prompt_bytes = self.engine.context_length * max(
            map(len, map(self.tokenizer.token_bytes, range(len(self.tokenizer))))
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer, also one that continues plain text."""
        return self.template.stop_ids

    @cached_property
    def grammar_compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self.stop_ids, self.opened.location.folder)

    @cached_property
    def call_form(self) -> CallForm:
        """The form in which the model's template writes tool calls."""
        return find_call_form(self.template)

    def render_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), thinking: bool | None = None
    ) -> ChatPrompt:
        """Prompt ids of a conversation, up to where the assistant's answer begins, or goes on if one has begun.

        The turns may come in any order: they are put into the nearest form that the chat template has, see
        `chat.rendering.request_turns`.

        Args:
            messages: The turns.
            tools: Tools that the model may call.
            thinking: Whether the answer thinks; None: what the template does by itself.

        Raises:
            ApiError: 400 for turns that the chat template has no form for, or tools that it does not support.
        """
        if len(messages) > self.engine.context_length:  # each is a token at least
            what = tr(
                "{count} messages cannot fit the model's context, which holds {context_length} tokens",
                count=len(messages),
                context_length=self.engine.context_length,
            )
            raise ApiError(400, what, param="messages", code="context_length_exceeded")
        self._check_length((message.text for message in messages), "messages")
        if tools:
            self._check_length((json.dumps(tools, ensure_ascii=False),), "tools")
        try:
            ids, continues_answer = self.template.render_request(messages, tools, thinking=thinking)
            is_alone = len(messages) < 2 or messages[-2].role != "assistant"  # else they are joined
            continues_thought = continues_answer and is_alone and find_begun_thought(messages[-1]) is not None
            return ChatPrompt.create(ids, continues_answer, thinking is True, continues_thought)
        except RequestRefusal as error:
            param = "messages" if error.index is None else f"messages.{error.index}"
            raise ApiError(400, str(error), param=param) from error
        except UserError as error:
            param = "tools" if tools and isinstance(error, UnsupportedToolsError) else "messages"
            raise ApiError(400, str(error), param=param) from error

    def encode_text(self, text: str, *, continuation: bool = False) -> tuple[int, ...]:
        """Prompt ids of plain text, after BOS if the tokenizer adds it; special tokens in the text stay text.

        Args:
            text: The text.
            continuation: It stands behind other text: no BOS, and no space that a tokenizer puts before a text.

        Raises:
            ApiError: 400 for a text that cannot be encoded or cannot fit.
        """
        self._check_length((text,), "prompt")
        tokenizer = self.tokenizer
        bos = (tokenizer.bos_id,) if tokenizer.adds_bos and tokenizer.bos_id is not None and not continuation else ()
        try:
            return (*bos, *tokenizer.encode(text, continuation=continuation))
        except UserError as error:
            raise ApiError(400, str(error), param="prompt") from error

    def _check_length(self, texts: Iterable[str], param: str) -> None:
        """Reject, before any work on it, a text that cannot fit however it is tokenized."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if size > self.max_prompt_bytes:
            context_length = self.engine.context_length
            min_tokens = -(-size * context_length // self.max_prompt_bytes)
            what = tr(
                "the prompt has {size} bytes, at least {min_tokens} tokens, but the model's context holds "
                "{context_length} including the answer",
                size=size,
                min_tokens=min_tokens,
                context_length=context_length,
            )
            raise ApiError(400, what, param=param, code="context_length_exceeded")

    def make_job(self, prompts: Sequence[tuple[int, ...]], params: GenerationParams, param: str) -> GenerationJob:
        """The engine requests for some prompts.

        Args:
            prompts: Ids of each prompt.
            params: What the client asked of the answers.
            param: The request field that the prompts came in, named in errors.

        Raises:
            ApiError: 400 for a prompt that is empty or leaves no room for an answer, and for a format of an answer that
                has begun.
        """
        continues_answer = any(isinstance(ids, ChatPrompt) and ids.continues_answer for ids in prompts)
        make_constraint = params.response_format
        if continues_answer and make_constraint is not None and not make_constraint.leaves_text_free:
            field = make_constraint.param
            what = tr(
                "{field}: an answer that has begun is held to no format; leave out the last turn of the assistant",
                field=field,
            )
            raise ApiError(400, what, param=field)
        requests: list[GenerationRequest] = []
        continues_text: list[bool] = []
        if unknown := [token_id for token_id in params.stop_ids if not 0 <= token_id < len(self.tokenizer)]:
            raise ApiError(400, tr("there is no token {token_id}", token_id=unknown[0]), param="stop_token_ids")
        stop_ids = tuple(dict.fromkeys((*self.stop_ids, *params.stop_ids)))
        for prompt in prompts:
            ids = tuple(prompt)
            if not ids:
                raise ApiError(400, tr("the prompt is empty"), param=param)
            context_length = self.engine.context_length
            max_new_tokens = context_length - len(ids)
            if max_new_tokens < 1:
                what = tr(
                    "the prompt is {count} tokens long, but the model's context holds {context_length} including the "
                    "answer",
                    count=len(ids),
                    context_length=context_length,
                )
                raise ApiError(400, what, param=param, code="context_length_exceeded")
            sampling = self._merge_sampling(params.sampling, max_new_tokens)
            for choice in range(params.choices):
                seeded = sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + choice) % 2**32)
                constraint = make_constraint(self, self._find_thought(prompt)) if make_constraint is not None else None
                requests.append(GenerationRequest(ids, stop_ids, seeded, constraint, self.adapter))
                continues_text.append(self._continues_text(prompt))
        prompt_tokens = sum(map(len, prompts))
        continues_thought = any(isinstance(ids, ChatPrompt) and ids.continues_thought for ids in prompts)
        return GenerationJob(
            self,
            tuple(requests),
            params.stop_strings,
            prompt_tokens,
            tuple(continues_text),
            params.choices,
            continues_thought,
        )

    @property
    def has_own_grammars(self) -> bool:
        """Whether the engine reads `Constraint.spec`, which knows of no thought before the part that is constrained."""
        return bool(getattr(self.engine, "has_own_grammars", False))

    def _find_thought(self, prompt: tuple[int, ...]) -> Thought:
        """Whether the answer to a prompt thinks before what it must fit."""
        if not isinstance(prompt, ChatPrompt) or self.has_own_grammars or prompt.continues_answer:
            return "none"
        if opens_thought(self.tokenizer, prompt):
            return "open"
        return "free" if prompt.asks_for_thought else "none"

    def _continues_text(self, prompt: tuple[int, ...]) -> bool:
        """Whether an answer goes on from a text: a prefill, or a prompt of plain text, not of BOS alone."""
        if isinstance(prompt, ChatPrompt):
            return prompt.continues_answer
        return any(token_id not in self.tokenizer.special_ids for token_id in prompt)

    def _merge_sampling(self, requested: Mapping[str, Any], max_new_tokens: int) -> SamplingParams:
        """The client's fields over the model's defaults; `max_new_tokens` is what the context leaves."""
        merged = {**self._default_sampling, **{name: value for name, value in requested.items() if value is not None}}
        limits = (merged.pop("max_new_tokens", None), max_new_tokens, self._limits.max_output_tokens)
        if merged.get("seed") is not None:
            merged["seed"] %= 2**32
        for token_id, _ in merged.get("logit_bias", ()):
            if not 0 <= token_id < len(self.tokenizer):
                what = tr("there is no token {token_id}", token_id=token_id)
                raise ApiError(400, what, param="logit_bias")
        max_new_tokens = min(limit for limit in limits if limit is not None)
        merged["min_tokens"] = min(merged.get("min_tokens", 0), max_new_tokens)
        return SamplingParams(**merged, max_new_tokens=max_new_tokens)


def opens_thought(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends within a thinking block that it has just opened."""
    return tokenizer.decode(prompt[-_PROMPT_TAIL_TOKENS:], skip_special=False).rstrip().endswith(BEGIN_TAG)


def check_names(names: Sequence[str]) -> None:
    """Raise UserError if two models have one name."""
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        what = tr("two models are called {duplicate}", duplicate=duplicate)
        raise UserError(what, hint=tr("give names: NAME=PATH"))


class ModelRegistry:
    """All models of a server, by name. The first one answers where an API lets a client leave the name out."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        """Raises UserError as `check_names` does."""
        check_names([model.name for model in models])
        self.by_name = {model.name: model for model in models}
        self._lock = threading.Lock()

    def replace(self, old: Sequence[ServedModel], new: Sequence[ServedModel]) -> None:
        """Exchange the models of one engine for those of another, under the old names."""
        with self._lock:
            for old_model, reopened_model in zip(old, new, strict=True):
                reopened_model.name = old_model.name
                self.by_name[old_model.name] = reopened_model

    def add(self, models: Sequence[ServedModel]) -> None:
        """Serve further models. Raises UserError if one has the name of another."""
        with self._lock:
            check_names([*self.by_name, *(model.name for model in models)])
            # a new table: others may be reading the old one
            self.by_name = {**self.by_name, **{model.name: model for model in models}}

    def get(self, name: str | None) -> ServedModel:
        """The model of a name; None is the first one, `name:latest` (as Ollama's clients write) is `name`.

        Raises:
            ApiError: 404 that lists the models there are.
        """
        if not self.by_name:
            raise ApiError(404, tr("no model is loaded yet"), param="model", code="model_not_found")
        if name is None:
            return next(iter(self.by_name.values()))
        model = self.by_name.get(name) or self.by_name.get(name.removesuffix(":latest"))
        if model is None:
            available = join_list(f"'{known}'" for known in self.by_name)
            shown = clip_name(name)
            if len(self.by_name) == 1:
                what = tr("there is no model '{shown}', only {available}", shown=shown, available=available)
            else:
                what = tr("there is no model '{shown}'; there are {available}", shown=shown, available=available)
            raise ApiError(404, what, param="model", code="model_not_found")
        return model
