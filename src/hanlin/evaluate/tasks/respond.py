"""What answers the questions of tasks: an engine that is opened here, or a server that speaks OpenAI's chat API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from hanlin.chat.reasoning import BEGIN_TAG
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.evaluate.tasks.metrics import Outcome, find_end
from hanlin.evaluate.tasks.prompts import Prompt, TaskRun
from hanlin.inference.chat_server import ChatServer, api_key
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import EngineUnavailableError, GenerationRequest, SamplingParams
from hanlin.tokenizer.generation_config import read_eos_token_ids

_FIRST_TOKENS = 32
_PARALLEL = 8
_SECONDS_BETWEEN_TRIES = (0.5, 2.0)


class Respondent(Protocol):
    """Answers prompts."""

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt]) -> list[Outcome]:
        """The outcome of each prompt, in order. Prompts that do not fit (`shots` None) get an empty one."""


class EngineRespondent:
    """Answers with an engine: scores continuations, or generates greedily until an end of the task.

    Args:
        loaded: The engine.
        stop_ids: Ids that end an answer in a conversation.
        opens_thinking: Whether the chat template begins the reasoning, so that the model writes only its end.
    """

    def __init__(self, loaded: LoadedEngine, stop_ids: Sequence[int], opens_thinking: bool = False) -> None:
        self._loaded, self._chat_stop_ids, self._opens_thinking = loaded, tuple(stop_ids), opens_thinking

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt]) -> list[Outcome]:
        if task_run.method == "generate":
            return self._generate(task_run, prompts)
        pairs = [pair for prompt in prompts if prompt.shots is not None for pair in prompt.pairs]
        scores = iter(self._loaded.engine.score(pairs) if pairs else [])
        outcomes = []
        for prompt in prompts:
            own = [next(scores) for _ in prompt.pairs] if prompt.shots is not None else []
            logprobs = tuple(score.logprob for score in own)
            outcomes.append(Outcome(logprobs, greedy=bool(own) and own[0].greedy))
        return outcomes

    def _generate(self, task_run: TaskRun, prompts: Sequence[Prompt]) -> list[Outcome]:
        r"""Generate in rounds of 32, 32, 64, ... tokens; what holds a text that ends an answer is not continued.

        Rounds depend on nothing but the prompts of the call, so that two runs make the same requests. Engines keep the
        KV cache of a prompt that is continued.
        """
        engine, tokenizer = self._loaded.engine, self._loaded.tokenizer
        stops = self._chat_stop_ids if task_run.chat else self._plain_stop_ids()
        ids: dict[int, tuple[int, ...]] = {index: () for index, p in enumerate(prompts) if p.shots is not None}
        outcomes: dict[int, Outcome] = {index: Outcome() for index in range(len(prompts)) if index not in ids}
        size = _FIRST_TOKENS if task_run.profile.until else task_run.max_new_tokens
        opening = BEGIN_TAG if self._opens_thinking and task_run.chat and task_run.thinking is not False else ""
        done = 0
        while ids and done < task_run.max_new_tokens:
            size = min(size, task_run.max_new_tokens - done)
            sampling = SamplingParams(max_new_tokens=size)
            order = list(ids)
            requests = [GenerationRequest(prompts[index].ids + ids[index], stops, sampling) for index in order]
            for index, completion in zip(order, engine.generate(requests, Progress(quiet=True)), strict=True):
                ids[index] += completion.ids
                text = opening + tokenizer.decode(ids[index])
                end = find_end(text, task_run.profile.until)
                finish = completion.finish_reason if end is None else "until"
                is_full = len(prompts[index].ids) + len(ids[index]) >= engine.context_length
                if end is not None or finish == "stop" or is_full or len(completion.ids) < size:
                    outcome = Outcome(output=text[:end], finish=finish, tokens=len(ids[index]))
                    outcomes[index] = outcome
                    del ids[index]
            done += size
            size = max(size, done)
        for index, written in ids.items():
            text = opening + tokenizer.decode(written)
            outcomes[index] = Outcome(output=text, finish="length", tokens=len(written))
        return [outcomes[index] for index in range(len(prompts))]

    def _plain_stop_ids(self) -> tuple[int, ...]:
        ends = (self._loaded.tokenizer.eos_id, *read_eos_token_ids(self._loaded.location.folder))
        return tuple(dict.fromkeys(end for end in ends if isinstance(end, int)))


class AddressRespondent:
    """Answers with a server at an address of OpenAI's chat API, greedily. The key comes from `HANLIN_API_KEY`.

    Args:
        address: `http://HOST:PORT`, with `/v1` or without.
        model: The model's name there; empty: the first one that the server lists.

    Raises:
        UserError: The server cannot be reached, or lists no such model.
    """

    def __init__(self, address: str, model: str = "") -> None:
        self._server = ChatServer(address, model, None, api_key())
        self.model = self._server.name

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt]) -> list[Outcome]:
        with ThreadPoolExecutor(_PARALLEL) as threads:
            return list(threads.map(lambda prompt: self._ask(task_run, prompt), prompts))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _ask(self, task_run: TaskRun, prompt: Prompt) -> Outcome:
        """One answer, tried again if the server breaks off. What was answered before is kept when this fails."""
        fields: dict[str, Any] = {"max_tokens": task_run.max_new_tokens, "temperature": 0}
        if task_run.thinking is not None:  # of vLLM, llama-server and Hanlin
            fields["chat_template_kwargs"] = {"enable_thinking": task_run.thinking}
        for seconds in (*_SECONDS_BETWEEN_TRIES, None):
            try:
                # texts that end an answer are looked for here: a server stops at them in the reasoning too
                with self._server.open_answer(prompt.messages, fields) as pieces:
                    text = "".join(pieces)
                break
            except EngineUnavailableError as error:
                if seconds is None:
                    hint = tr("the same command goes on from here")
                    raise EngineUnavailableError(error.what, error.where, hint) from error
                time.sleep(seconds)
        end = find_end(text, task_run.profile.until)
        finish = "until" if end is not None else pieces.finish_reason
        return Outcome(output=text[:end], finish=finish, tokens=pieces.answer_tokens or 0)
