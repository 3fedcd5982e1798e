"""Who answers the prompts of a probe: a model that is loaded here, or a server with OpenAI's chat API."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from hanlin.chat.reasoning import split_reasoning
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.records import Message
from hanlin.evaluate.probes.checks import Answer
from hanlin.inference.chat_server import ChatServer
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import GenerationRequest, SamplingParams

SERVER_REQUESTS = 4
"""Requests to a server at once; what a chunk holds, so that at most these are asked again when it breaks off."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation that ends with the user, and how its answer is drawn."""

    id: str
    messages: tuple[Message, ...]
    sampling: SamplingParams


class Responder(Protocol):
    """Gives answers to conversations."""

    @property
    def name(self) -> str: ...

    @property
    def chunk_size(self) -> int:
        """How many it answers at once."""

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer for each, in order. Raises UserError if a prompt does not fit or the server breaks off."""

    def close(self) -> None: ...


class EngineResponder:
    """A model that is loaded here, asked through its chat template."""

    def __init__(self, loaded: LoadedEngine, thinking: bool | None, chunk_size: int) -> None:
        self._loaded, self._template, self._thinking = loaded, loaded.load_template(), thinking
        if thinking is not None and not self._template.thinking_switches:
            raise UserError(tr("the chat template of this model has no switch for thinking"), "thinking")
        self.chunk_size = chunk_size

    @property
    def name(self) -> str:
        return self._loaded.engine.name

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        engine, tokenizer = self._loaded.engine, self._loaded.tokenizer
        requests = []
        for ask in asks:
            ids = self._template.render(ask.messages, prompt=True, where=ask.id, thinking=self._thinking).ids
            if len(ids) >= engine.context_length:
                what = tr("the prompt is {count} tokens long, but the model's context holds {limit} with the answer",
                          count=len(ids), limit=engine.context_length)  # fmt: skip
                raise UserError(what, ask.id)
            requests.append(GenerationRequest(tuple(ids), self._template.stop_ids, ask.sampling))
        answers = []
        for completion in engine.generate(requests, Progress(quiet=True)):
            written = tokenizer.decode(completion.ids)
            is_open = self._template.opens_thinking and self._thinking is not False
            reasoning, text = split_reasoning(written, is_open, is_complete=True)
            answers.append(Answer(text, reasoning, completion.finish_reason, len(completion.ids)))
        return answers

    def close(self) -> None:
        self._loaded.engine.close()


class ServerResponder:
    """A server with OpenAI's chat API; its model's chat template is the server's."""

    chunk_size = SERVER_REQUESTS

    def __init__(self, server: ChatServer, thinking: bool | None) -> None:
        self._server, self._thinking = server, thinking
        self.name = f"{server.address} ({server.name})"

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        with ThreadPoolExecutor(SERVER_REQUESTS) as threads:
            return list(threads.map(self._answer, asks))

    def _answer(self, ask: Ask) -> Answer:
        fields: dict[str, Any] = {"temperature": ask.sampling.temperature, "max_tokens": ask.sampling.max_new_tokens}
        if ask.sampling.temperature:
            fields |= {"top_p": ask.sampling.top_p, "seed": ask.sampling.seed}
        if ask.sampling.repetition_penalty != 1:  # vLLM's and Hanlin's name, and llama-server's
            fields |= dict.fromkeys(("repetition_penalty", "repeat_penalty"), ask.sampling.repetition_penalty)
        if self._thinking is not None:  # of vLLM, llama-server and Hanlin
            fields["chat_template_kwargs"] = {"enable_thinking": self._thinking}
        with self._server.open_answer(ask.messages, fields) as pieces:
            written = "".join(pieces)
        reasoning, text = split_reasoning(written, is_complete=True)
        return Answer(text, reasoning, pieces.finish_reason or "unknown", pieces.answer_tokens)

    def close(self) -> None:
        self._server.close()
