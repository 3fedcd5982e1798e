"""What answers the questions of tasks: an engine that is opened here, or a server that speaks OpenAI's chat API."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from hanlin.core.errors import UserError
from hanlin.core.http import ServerClient, ServerError, error_message
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.evaluate.tasks.metrics import Outcome
from hanlin.evaluate.tasks.prompts import Prompt, TaskRun
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import EngineUnavailableError, GenerationRequest, SamplingParams
from hanlin.tokenizer.generation_config import read_eos_token_ids

KEY_VARIABLE = "HANLIN_EVALUATE_KEY"
_FIRST_TOKENS = 32
_PARALLEL = 8
_SECONDS = 600.0
_TRIES = 3


class Respondent(Protocol):
    """Answers prompts."""

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt]) -> list[Outcome]:
        """The outcome of each prompt, in order. Prompts that do not fit (`shots` None) get an empty one."""


class EngineRespondent:
    """Answers with an engine: scores continuations, or generates greedily until an end of the task."""

    def __init__(self, loaded: LoadedEngine, stop_ids: Sequence[int]) -> None:
        self._loaded, self._chat_stop_ids = loaded, tuple(stop_ids)

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
        done = 0
        while ids and done < task_run.max_new_tokens:
            size = min(size, task_run.max_new_tokens - done)
            sampling = SamplingParams(max_new_tokens=size)
            order = list(ids)
            requests = [GenerationRequest(prompts[index].ids + ids[index], stops, sampling) for index in order]
            for index, completion in zip(order, engine.generate(requests, Progress(quiet=True)), strict=True):
                ids[index] += completion.ids
                text = tokenizer.decode(ids[index])
                ends = [at for stop in task_run.profile.until if (at := text.find(stop)) >= 0]
                finish = "until" if ends else completion.finish_reason
                is_full = len(prompts[index].ids) + len(ids[index]) >= engine.context_length
                if ends or finish == "stop" or is_full or len(completion.ids) < size:
                    outcome = Outcome(output=text[: min(ends)] if ends else text, finish=finish, tokens=len(ids[index]))
                    outcomes[index] = outcome
                    del ids[index]
            done += size
            size = max(size, done)
        for index, written in ids.items():
            outcomes[index] = Outcome(output=tokenizer.decode(written), finish="length", tokens=len(written))
        return [outcomes[index] for index in range(len(prompts))]

    def _plain_stop_ids(self) -> tuple[int, ...]:
        ends = (self._loaded.tokenizer.eos_id, *read_eos_token_ids(self._loaded.location.folder))
        return tuple(dict.fromkeys(end for end in ends if isinstance(end, int)))


class AddressRespondent:
    """Answers with a server at an address of OpenAI's chat API, greedily. The key comes from `HANLIN_EVALUATE_KEY`.

    Args:
        address: `http://HOST:PORT`, with `/v1` or without.
        model: The model's name there; empty: the first one that the server lists.

    Raises:
        UserError: The server cannot be reached, or lists no model.
    """

    def __init__(self, address: str, model: str = "") -> None:
        self._client = ServerClient(address, os.environ.get(KEY_VARIABLE, ""), seconds=_SECONDS)
        self._prefix = "" if self._client.path.endswith("/v1") else "/v1"
        self.model = model or self._first_model()

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt]) -> list[Outcome]:
        with ThreadPoolExecutor(_PARALLEL) as threads:
            return list(threads.map(lambda prompt: self._ask(task_run, prompt), prompts))

    def _ask(self, task_run: TaskRun, prompt: Prompt) -> Outcome:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.text} for turn in prompt.messages],
            "max_tokens": task_run.max_new_tokens,
            "temperature": 0,
        }
        if task_run.profile.until:
            body["stop"] = list(task_run.profile.until[:4])
        if task_run.thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": task_run.thinking}
        try:
            choice = self._fetch("POST", "/chat/completions", body)["choices"][0]
            text = choice["message"].get("content") or ""
            finish = str(choice.get("finish_reason") or "")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            what = tr("the server's answer is none of OpenAI's chat API")
            raise UserError(what, self._client.address) from error
        ends = [at for stop in task_run.profile.until if (at := text.find(stop)) >= 0]
        return Outcome(output=text[: min(ends)] if ends else text, finish="until" if ends else finish)

    def _first_model(self) -> str:
        rows = self._fetch("GET", "/models", None).get("data")
        row = rows[0] if isinstance(rows, list) and rows else None
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise UserError(tr("the server lists no model"), self._client.address, tr("name it in `served_model`"))
        return str(row["id"])

    def _fetch(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """A JSON object from the server, tried three times. What was answered before is kept when this fails."""
        problem = ""
        for _ in range(_TRIES):
            try:
                reply = self._client.fetch(method, self._prefix + path, body)
                if reply.status == 200:
                    data = reply.json()
                    return data if isinstance(data, dict) else {}
                problem = f"status {reply.status}: {error_message(reply, 2000)[:200]}"
                if 400 <= reply.status < 500 and reply.status not in (408, 429):
                    raise UserError(tr("the server refuses this: {problem}", problem=problem), self._client.address)
            except (ServerError, ValueError) as error:
                problem = str(error)
        what = tr("the server does not answer ({problem})", problem=problem)
        raise EngineUnavailableError(what, self._client.address, tr("the same command goes on from here"))
