"""The models of a server: found by name, each with its door, and what a client wants turned into engine requests.

Does not own HTTP or any API's words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Constraint, GenerationRequest, SamplingParams
from hanlin.serve.admission import Door, Limits
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import Grammars
from hanlin.tokenizer.generation_config import read_sampling_params

MOST_CHOICES = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client wants of an answer: fields of `SamplingParams` that it set, texts that end it, how many answers,
    and a form that each must have."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    choices: int = 1
    form: Callable[[Grammars], Constraint] | None = None


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """Requests of one model that are answered together, a place each; prompts stand one after another, the choices of
    each side by side."""

    served: Served
    requests: tuple[GenerationRequest, ...]
    stops: tuple[str, ...]
    prompt_tokens: int


class Served:
    """An opened model under the name that clients know it by. What they leave open, its generation settings decide.

    Raises UserError for a model without a chat template: now, not at the first question.
    """

    def __init__(
        self, name: str, opened: LoadedEngine, limits: Limits, adapter: str | None = None, door: Door | None = None
    ) -> None:
        """`adapter` is the engine's name of the one that answers here; models of one engine share a `door`."""
        self.name = name
        self.adapter = adapter
        self.opened = opened
        self.engine, self.tokenizer = opened.engine, opened.tokenizer
        self.door = door or Door(limits)
        self.since = int(time.time())
        self._limits = limits
        self._defaults = read_sampling_params(opened.location.folder)
        self.template = opened.load_template()
        # no token spells more bytes than the longest: what is longer than this has no place in the context
        self._most_bytes = self.engine.context_length * max(
            map(len, map(self.tokenizer.token_bytes, range(len(self.tokenizer))))
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer, also one that goes on from plain text."""
        return self.template.stop_ids

    @cached_property
    def grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.stop_ids, self.opened.location.folder)

    def chat_prompt(self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Raises ApiError (400) for turns out of order, and for tools where the template has no form for them."""
        self._check_length((turn.text for turn in turns), "messages")
        try:
            return tuple(self.template.render(turns, tools, prompt=True).ids)
        except UserError as error:
            unread = tools and not re.search(r"\btools\b", self.template.source)
            raise ApiError(400, str(error), param="tools" if unread else "messages") from error

    def text_prompt(self, text: str) -> tuple[int, ...]:
        """Plain text after the begin token, where the tokenizer sets one; no special token is recognized in it."""
        self._check_length((text,), "prompt")
        begin = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        try:
            return (*begin, *self.tokenizer.encode(text))
        except UserError as error:
            raise ApiError(400, str(error), param="prompt") from error

    def _check_length(self, texts: Iterable[str], param: str) -> None:
        """Refuse, before any work on it, a text that cannot fit however its tokens fall."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if size > self._most_bytes:
            least = -(-size * self.engine.context_length // self._most_bytes)
            what = say(
                f"the prompt has {size} bytes, at least {least} tokens, but the model's context holds "
                f"{self.engine.context_length} with the answer",
                f"提示有 {size} 字节，至少 {least} 个词元，而模型上下文连同回答只容纳 {self.engine.context_length} 个",
            )
            raise ApiError(400, what, param=param, code="context_length_exceeded")

    def job(self, prompts: Sequence[tuple[int, ...]], wanted: Wanted, param: str) -> GenerationJob:
        """Raises ApiError (400) when a prompt, which came in the field `param`, is empty or leaves no room."""
        requests = []
        for ids in prompts:
            if not ids:
                raise ApiError(400, say("the prompt is empty", "提示为空"), param=param)
            room = self.engine.context_length - len(ids)
            if room < 1:
                what = say(
                    f"the prompt is {len(ids)} tokens long, but the model's context holds {room + len(ids)} "
                    "with the answer",
                    f"提示共 {len(ids)} 个词元，而模型上下文连同回答只容纳 {room + len(ids)} 个",
                )
                raise ApiError(400, what, param=param, code="context_length_exceeded")
            sampling = self._sampling(wanted.sampling, room)
            for choice in range(wanted.choices):
                own = sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + choice) % 2**32)
                constraint = wanted.form(self.grammars) if wanted.form is not None else None
                requests.append(GenerationRequest(ids, self.stop_ids, own, constraint, self.adapter))
        return GenerationJob(self, tuple(requests), wanted.stops, sum(map(len, prompts)))

    def _sampling(self, asked: Mapping[str, Any], room: int) -> SamplingParams:
        chosen = {**self._defaults, **{name: value for name, value in asked.items() if value is not None}}
        limits = (chosen.pop("max_new_tokens", None), room, self._limits.output)
        if chosen.get("seed") is not None:
            chosen["seed"] %= 2**32
        for number, _ in chosen.get("logit_bias", ()):
            if not 0 <= number < len(self.tokenizer):
                what = say(f"there is no token {number}", f"没有编号为 {number} 的词元")
                raise ApiError(400, what, param="logit_bias")
        return SamplingParams(**chosen, max_new_tokens=min(limit for limit in limits if limit is not None))


class Models:
    """All models of a server, by name. The first answers where an API lets a client name none."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.all = {model.name: model for model in served}
        if len(self.all) < len(served):
            names = [model.name for model in served]
            twice = next(name for name in names if names.count(name) > 1)
            what = say(f"two models are called {twice}", f"有两个模型同名：{twice}")
            raise UserError(what, hint=say("give names: NAME=PATH", "请命名：名称=路径"))

    def replace(self, before: Sequence[Served], after: Sequence[Served]) -> None:
        """Put the models of one engine in the place of another's, under the names that those had."""
        for old, new in zip(before, after, strict=True):
            new.name = old.name
            self.all[old.name] = new

    def named(self, name: str | None) -> Served:
        """Raises ApiError (404) that lists the models there are. `name:latest`, as Ollama's clients say, is `name`."""
        if name is None:
            return next(iter(self.all.values()))
        found = self.all.get(name) or self.all.get(name.removesuffix(":latest"))
        if found is None:
            known = ", ".join(f"'{known}'" for known in self.all)
            shown = name if len(name) <= 100 else name[:97] + "..."
            if len(self.all) == 1:
                what = say(f"there is no model '{shown}', only {known}", f"没有模型“{shown}”，只有 {known}")
            else:
                what = say(f"there is no model '{shown}'; there are {known}", f"没有模型“{shown}”；现有 {known}")
            raise ApiError(404, what, param="model", code="model_not_found")
        return found
