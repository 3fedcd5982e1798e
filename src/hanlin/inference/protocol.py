"""What an engine is: it generates and scores from token ids, never from text, so each engine gets the same prompt.

Does not own a model runtime: those are the `*_engine` files, each imported only when it is opened.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

from hanlin.core.context import Progress
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Finish = Literal["stop", "length", "cancelled"]

ENGINES = {
    "transformers": "hanlin.inference.backends.transformers.engine:TransformersEngine",
    "llama_cpp": "hanlin.inference.backends.llama_cpp.engine:LlamaCppEngine",
    "llama_server": "hanlin.inference.backends.http.llama_server:LlamaServer",
    "vllm": "hanlin.inference.backends.http.vllm:VllmEngine",
}
FOR_GGUF = {"llama_cpp", "llama_server"}
APART = {"llama_cpp": "hanlin.inference.backends.llama_cpp.process:LlamaCppProcess"}
"""Engines that can run in a process of their own."""
_PACKAGE_OF = {"transformers": "transformers", "llama_cpp": "xllamacpp"}


class EngineLost(Exception):
    """What computed has ended in the middle of its work, or cannot be reached. Asking again later may help."""


@dataclass(frozen=True, slots=True)
class Sampling:
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

    def allowed(self) -> NDArray[np.bool_]:
        """Of each id, up to some size, whether it may come; ids beyond may not."""

    def took(self, number: int) -> None:
        """The id that was chosen."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt as ids, every id that ends the answer, and what the answer must obey; a constraint serves once.

    `adapter` is the name of one that the engine was opened with; without, the model itself answers.
    """

    prompt_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Likely:
    """Of a chosen id: its natural log probability before sampling, and the likeliest ids with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The generated ids without the stop id, and why they end."""

    ids: tuple[int, ...]
    finish: Finish


@dataclass(frozen=True, slots=True)
class Score:
    """Of a continuation given a prefix: the sum of its ids' natural log probabilities, and if each is the likeliest."""

    logprob: float
    greedy: bool


class Stream(Protocol):
    """The ids of one answer as they come, without the stop id. Closing it early cancels the generation."""

    @property
    def finish(self) -> Finish | None:
        """Why the answer ended; None until it has."""

    @property
    def likely(self) -> Sequence[Likely]:
        """Of each id that was given, in order, how likely it was, where `top_logprobs` was asked for."""

    def __iter__(self) -> Iterator[int]: ...

    def __next__(self) -> int: ...

    def cancel(self) -> None:
        """End the answer soon, from any thread, without waiting for it."""

    def close(self) -> None:
        """End the answer and wait until what it held is free. From any thread, also while another waits for an id."""


@runtime_checkable
class Delivering(Protocol):
    """A stream that can also hand on what comes, instead of being iterated."""

    def deliver(self, hear: Callable[[int | BaseException | None], None]) -> None:
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

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """One reply for each request, in order. Raises UserError for a prompt that is empty or too long."""

    def stream(self, request: Request) -> Stream: ...

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """For each (prefix ids, continuation ids) pair, neither empty, how likely the continuation is."""

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Of each row of ids the mean of the last layer's hidden states, of length 1; [texts, width]."""

    def close(self) -> None:
        """Free the model; the engine answers nothing afterwards."""


def open_engine(name: str, path: Path, *, apart: bool = False, **options: Any) -> Engine:
    """Load what lies at `path` into an engine: a name of `ENGINES`, or `auto` (GGUF goes to llama.cpp, what is no GGUF
    to transformers).

    `path` is a model folder, an adapter folder, a GGUF file, or a folder that holds one GGUF file. With `apart`, an
    engine that can bring down its process gets one of its own, and is started again when that has ended. `options` are
    the engine's own (see its class); all take `context_length`. Raises UserError for an unknown engine, for a path
    that holds no model, and for an engine whose package is not installed.
    """
    if name == "auto":
        name = "llama_cpp" if gguf_files(path) else "transformers"
    if name not in ENGINES:
        what = say(f"no engine is called {name!r}", f"没有名为 {name!r} 的引擎")
        raise UserError(what, hint=did_you_mean(name, [*ENGINES, "auto"]))
    module, _, attribute = (APART.get(name, ENGINES[name]) if apart else ENGINES[name]).partition(":")
    try:
        engine = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "hanlin" or name not in _PACKAGE_OF:
            raise
        package = _PACKAGE_OF[name]
        what = say(f"the engine {name} needs the package {error.name}", f"引擎 {name} 需要软件包 {error.name}")
        raise UserError(what, hint=f"pip install {package}") from error
    return cast(Engine, engine(path, **options))


def gguf_files(path: Path) -> list[Path]:
    """The GGUF files that `path` is or directly holds, in the order of their names."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix == ".gguf")
    return [path] if path.suffix == ".gguf" else []


def choose_gguf(candidates: list[Path], path: Path, file: str) -> Path:
    """The one of `candidates` that fits `file`, a type (`Q8_0`) or a name; without it the largest, which lost least.

    Raises UserError when none or several fit.
    """
    if not file:
        return max(candidates, key=lambda candidate: (candidate.stat().st_size, candidate.name))
    wanted = file.lower()
    fitting = [
        candidate
        for candidate in candidates
        if wanted in (candidate.name.lower(), candidate.stem.lower()) or _type_of(candidate) == wanted
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = (
        say(f"several GGUF files fit '{file}'", f"有多个 GGUF 文件符合“{file}”")
        if fitting
        else say(f"no GGUF file fits '{file}'", f"没有符合“{file}”的 GGUF 文件")
    )
    raise UserError(what, path, did_you_mean(file, [candidate.name for candidate in fitting or candidates]))


def _type_of(file: Path) -> str:
    """The quantisation that a GGUF file's name ends with: `model-Q8_0.gguf` and `model.Q8_0.gguf` give `q8_0`."""
    return re.split(r"[-.]", file.stem)[-1].lower()


def room_for_answer(request: Request, context_length: int, vocabulary: int) -> int:
    """How many ids may be generated for `request` before the context is full; at most what it asks for.

    Raises UserError when the prompt is empty, leaves no room at all, or holds an id outside the vocabulary: a prompt
    is never cut silently.
    """
    prompt = request.prompt_ids
    if not prompt:
        raise UserError(say("the prompt is empty", "提示为空"))
    check_ids(prompt, vocabulary)
    room = context_length - len(prompt)
    if room < 1:
        what = say(
            f"the prompt is {len(prompt)} tokens long, but the context holds {context_length} with the answer",
            f"提示共 {len(prompt)} 个词元，而上下文连同回答只容纳 {context_length} 个",
        )
        hint = say(
            "shorten the prompt or open the engine with a longer context_length", "缩短提示，或调大 context_length"
        )
        raise UserError(what, hint=hint)
    return min(room, request.sampling.max_new_tokens)


def check_pair(prefix: Sequence[int], continuation: Sequence[int], context_length: int, vocabulary: int) -> None:
    """Raises UserError unless the pair can be scored: both parts hold ids of the vocabulary and fit the context."""
    if not prefix or not continuation:
        raise UserError(say("a prefix and a continuation need at least one token each", "前缀与续写都至少要有一个词元"))
    check_ids(prefix, vocabulary)
    check_ids(continuation, vocabulary)
    length = len(prefix) + len(continuation)
    if length > context_length:
        what = say(
            f"prefix and continuation are {length} tokens long, but the context holds {context_length}",
            f"前缀与续写共 {length} 个词元，而上下文只容纳 {context_length} 个",
        )
        raise UserError(what)


def check_text_ids(ids: Sequence[int], context_length: int, vocabulary: int) -> None:
    """Raises UserError unless `ids` can be run as one text: some ids of the vocabulary that fit the context."""
    if not ids:
        raise UserError(say("the text is empty", "文本为空"))
    check_ids(ids, vocabulary)
    if len(ids) > context_length:
        what = say(
            f"the text is {len(ids)} tokens long, but the context holds {context_length}",
            f"文本共 {len(ids)} 个词元，而上下文只容纳 {context_length} 个",
        )
        raise UserError(what, hint=say("split it", "请将其拆分"))


def check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """Raises UserError when an id is not in the vocabulary: the prompt was made by another tokenizer."""
    outside = max(ids) if max(ids) >= vocabulary else min(ids)
    if not 0 <= outside < vocabulary:
        what = say(
            f"token id {outside} is outside the model's vocabulary of {vocabulary}",
            f"词元编号 {outside} 超出模型词表（{vocabulary}）",
        )
        raise UserError(what, hint=say("use the tokenizer beside the model", "请使用模型旁的分词器"))
