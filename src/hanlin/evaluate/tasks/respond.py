"""What answers the questions of tasks: an engine that is opened here, or a server that speaks OpenAI's chat API."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from hanlin.chat.reasoning import BEGIN_TAG
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.evaluate.tasks.metrics import Outcome, find_end
from hanlin.evaluate.tasks.prompts import Prompt, TaskRun
from hanlin.inference.chat_server import ChatServer, api_key
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Completion, EngineUnavailableError, GenerationRequest, SamplingParams, Score
from hanlin.tokenizer.generation_config import read_eos_token_ids

_FIRST_TOKENS = 32
_PARALLEL = 8
_SECONDS_BETWEEN_TRIES = (0.5, 2.0)


Keep = Callable[[int, Outcome], None]
"""Takes the index of a prompt and its outcome."""


class Respondent(Protocol):
    """Answers prompts."""

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        """Hand the outcome of each prompt to `keep` as soon as it is there, in any order.

        Prompts that do not fit (`shots` None) get an empty one.
        """


class EngineRespondent:
    """Answers with an engine: scores continuations, or generates greedily until an end of the task.

    Args:
        loaded: The engine.
        stop_ids: Ids that end an answer in a conversation.
        opens_thinking: Whether the chat template begins the reasoning, so that the model writes only its end.
    """

    def __init__(self, loaded: LoadedEngine, stop_ids: Sequence[int], opens_thinking: bool = False) -> None:
        self._loaded, self._chat_stop_ids, self._opens_thinking = loaded, tuple(stop_ids), opens_thinking

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        for index, prompt in enumerate(prompts):
            if prompt.shots is None:
                keep(index, Outcome())
        if task_run.method == "generate":
            self._generate(task_run, prompts, keep)
        else:
            self._score(prompts, keep)

    def _score(self, prompts: Sequence[Prompt], keep: Keep) -> None:
        fitting = [index for index, prompt in enumerate(prompts) if prompt.shots is not None]
        owners = [(index, place) for index in fitting for place in range(len(prompts[index].pairs))]
        scores: dict[int, dict[int, Score]] = {index: {} for index in fitting}

        def on_score(pair: int, score: Score) -> None:
            index, place = owners[pair]
            own = scores[index]
            own[place] = score
            if len(own) == len(prompts[index].pairs):
                logprobs = tuple(own[place].logprob for place in range(len(own)))
                keep(index, Outcome(logprobs, greedy=own[0].greedy))

        if owners:
            self._loaded.engine.score([prompts[index].pairs[place] for index, place in owners], on_score)

    def _generate(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        r"""Generate in rounds of 32, 32, 64, ... tokens; what holds a text that ends an answer is not continued.

        Rounds depend on nothing but the prompts of the call, so that two runs make the same requests. Engines keep the
        KV cache of a prompt that is continued.
        """
        engine, tokenizer = self._loaded.engine, self._loaded.tokenizer
        stops = self._chat_stop_ids if task_run.chat else self._plain_stop_ids()
        ids: dict[int, tuple[int, ...]] = {index: () for index, p in enumerate(prompts) if p.shots is not None}
        size = _FIRST_TOKENS if task_run.profile.until else task_run.max_new_tokens
        opening = BEGIN_TAG if self._opens_thinking and task_run.chat and task_run.thinking is not False else ""
        done = 0
        while ids and done < task_run.max_new_tokens:
            size = min(size, task_run.max_new_tokens - done)
            sampling = SamplingParams(max_new_tokens=size)
            order = list(ids)
            requests = [GenerationRequest(prompts[index].ids + ids[index], stops, sampling) for index in order]

            def on_completion(
                position: int, completion: Completion, order: Sequence[int] = order, size: int = size
            ) -> None:
                index = order[position]
                ids[index] += completion.ids
                text = opening + tokenizer.decode(ids[index])
                end = find_end(text, task_run.profile.until)
                finish = completion.finish_reason if end is None else "until"
                is_full = len(prompts[index].ids) + len(ids[index]) >= engine.context_length
                if end is not None or finish == "stop" or is_full or len(completion.ids) < size:
                    keep(index, Outcome(output=text[:end], finish=finish, tokens=len(ids[index])))
                    del ids[index]

            engine.generate(requests, Progress(quiet=True), on_completion)
            done += size
            size = max(size, done)
        for index, written in ids.items():
            keep(index, Outcome(output=opening + tokenizer.decode(written), finish="length", tokens=len(written)))

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

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        with ThreadPoolExecutor(_PARALLEL) as threads:
            futures = {threads.submit(self._ask, task_run, prompt): index for index, prompt in enumerate(prompts)}
            failure: BaseException | None = None
            try:
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    error = future.exception()
                    if error is None:
                        keep(futures[future], future.result())
                    elif failure is None:  # nothing more is asked, but what is under way is kept
                        failure = error
                        for other in futures:
                            other.cancel()
            finally:
                for future in futures:
                    future.cancel()
        if failure is not None:
            raise failure

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
