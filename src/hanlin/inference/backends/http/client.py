"""An engine that is one or several HTTP servers: token ids are sent, events are streamed back.

What each kind of server expects is a `Dialect`; which server gets a request is chosen in `replicas`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.http.client import Reply, ServerError, error_message
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.inference.backends.http.process import ServerProcess
from hanlin.inference.backends.http.replicas import Replica, ReplicaPool
from hanlin.inference.completions import collect_completions
from hanlin.inference.protocol import (
    Completion,
    EngineUnavailableError,
    FinishReason,
    GenerationRequest,
    OnCompletion,
    OnScore,
    PromptScore,
    PromptScoreRequest,
    Score,
    TokenLogprobs,
)
from hanlin.inference.request_checks import check_pair, check_scored_text, max_completion_tokens

KEY_VARIABLE = "HANLIN_ENGINE_KEY"
_MAX_CONCURRENT = 64
_SECONDS_TO_ANSWER = 30.0
"""Of a question beside an answer: what is served, a piece of text as ids."""

_Input = TypeVar("_Input")
_Result = TypeVar("_Result")
PostJson = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Asks a server at a path with a body; the whole answer."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """What one event of a stream holds: token ids, their log probabilities if requested, and the finish reason.

    `cached_tokens`: how many tokens of the prompt the server had in its cache, if it says so.
    """

    ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: FinishReason | None = None
    cached_tokens: int | None = None


class Dialect(Protocol):
    """How to talk to one kind of server."""

    name: str
    health: str
    completion_path: str
    """The path that streams an answer."""

    def request_body(self, request: GenerationRequest, max_new_tokens: int) -> dict[str, Any]:
        """The body of a generation request. Raises UserError for what this server cannot do."""

    def parse_event(self, event: dict[str, Any], state: dict[str, int], post: PostJson) -> StreamEvent:
        """Parse one event. `state` is kept from one event of an answer to the next; `post` asks the same server."""

    def score(self, prefix: Sequence[int], continuation: Sequence[int], post: PostJson) -> Score:
        """Score a continuation. Raises UserError if this server does not score."""

    def score_prompt(self, request: PromptScoreRequest, post: PostJson) -> PromptScore:
        """Score every token of a prompt. Raises UserError if this server does not score."""


class HttpEngine:
    """See `Engine`. A request that no server has begun to answer goes to another server if the first is lost."""

    has_own_grammars = True

    def __init__(
        self,
        dialect: Dialect,
        replicas: ReplicaPool,
        *,
        context_length: int,
        vocabulary: int,
        programs: Sequence[ServerProcess] = (),
    ) -> None:
        self.name = dialect.name
        self.context_length = context_length
        self.replicas = replicas
        self._dialect, self._vocabulary = dialect, vocabulary
        self._programs = programs

    @property
    def alive(self) -> bool:
        return self.replicas.healthy > 0

    @property
    def max_scored_length(self) -> int:
        return self.context_length

    @property
    def restarts(self) -> int:
        return sum(program.restarts for program in self._programs)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress | None = None,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        for request in requests:
            max_completion_tokens(request, self.context_length, self._vocabulary)
        return collect_completions(_each(self._complete, requests), len(requests), progress, on_completion)

    def _complete(self, request: GenerationRequest) -> Completion:
        stream = self.stream(request)
        ids = tuple(stream)
        return Completion(ids, stream.finish_reason or "cancelled")

    def stream(self, request: GenerationRequest) -> HttpStream:
        max_new_tokens = max_completion_tokens(request, self.context_length, self._vocabulary)
        body = self._dialect.request_body(request, max_new_tokens)
        replica, reply = self._post(self._dialect.completion_path, body, request.prompt_ids)
        return HttpStream(self, self._dialect, request, max_new_tokens, replica, reply)

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_score: OnScore | None = None
    ) -> list[Score]:
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.max_scored_length, self._vocabulary)
        scores: dict[int, Score] = {}
        for index, score in _each(lambda pair: self._dialect.score(*pair, self._post_for(pair[0])), pairs):
            scores[index] = score
            if on_score is not None:
                on_score(index, score)
        return [scores[index] for index in range(len(pairs))]

    def score_prompts(self, requests: Sequence[PromptScoreRequest]) -> list[PromptScore]:
        for request in requests:
            check_scored_text(request.ids, self.context_length, self.max_scored_length, self._vocabulary)
        scores = dict(_each(lambda row: self._dialect.score_prompt(row, self._post_for(row.ids)), requests))
        return [scores[index] for index in range(len(requests))]

    def _post_for(self, prompt: Sequence[int]) -> PostJson:
        """Asks a server that may hold the beginning of a prompt, and waits for the whole answer."""

        def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            replica, reply = self._post(path, body, prompt)
            try:
                return dict(reply.json())
            except (OSError, ValueError, TypeError) as error:
                raise EngineUnavailableError(
                    tr("the server broke off: {reason}", reason=error), replica.address
                ) from error
            finally:
                self._release(replica, reply)

        return ask

    def embed(self, texts: Sequence[Sequence[int]], adapter: str | None = None) -> NDArray[np.float32]:
        what = tr("the engine {name} gives no embeddings", name=self.name)
        raise UserError(what, hint=tr("serve the model with llama_cpp or transformers"))

    def close(self) -> None:
        self.replicas.close()
        for program in self._programs:
            program.close()

    def _post(self, path: str, body: dict[str, Any], prompt: Sequence[int]) -> tuple[Replica, Reply]:
        """The beginning of an answer from a healthy server.

        Raises EngineUnavailableError when there is none, UserError for what the server refuses.
        """
        tried: list[Replica] = []
        while True:
            replica = self.replicas.acquire(prompt, tried)
            reply = None
            try:
                reply = replica.client.open("POST", path, body)
                if reply.status == 200:
                    return replica, reply
                text = error_message(reply, 2000)
                if 400 <= reply.status < 500 and reply.status not in (401, 403, 408, 429):
                    raise UserError(tr("the engine refuses this: {text}", text=text[:300]))
                raise ServerError(f"status {reply.status}: {text[:200]}")
            except ServerError:
                self._release(replica, reply)
                self.replicas.mark_unhealthy(replica)
                tried.append(replica)
            except BaseException:
                self._release(replica, reply)
                raise

    def _release(self, replica: Replica, reply: Reply | None) -> None:
        if reply is not None:
            reply.close()
        self.replicas.release(replica)


def _each(work: Callable[[_Input], _Result], items: Sequence[_Input]) -> Iterator[tuple[int, _Result]]:
    """The index of each item and what `work` made of it, as they are done, many at once; nothing more is begun after an
    error.
    """
    with ThreadPoolExecutor(max(1, min(len(items), _MAX_CONCURRENT))) as threads:
        futures = {threads.submit(work, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()


class HttpStream:
    """The ids of one answer as a server sends them; see `Stream`."""

    def __init__(
        self,
        engine: HttpEngine,
        dialect: Dialect,
        request: GenerationRequest,
        max_new_tokens: int,
        replica: Replica,
        reply: Reply,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.cached_tokens: int | None = None
        self._engine, self._dialect, self._replica = engine, dialect, replica
        self._reply, self._events = reply, reply.events()
        # text that llama-server spells again as ids may have more of them than were generated
        self._tokens_left = 4 * max_new_tokens + 64
        self._stop_ids = frozenset(request.stop_ids)
        self._top_logprobs = request.sampling.top_logprobs or 0
        self._pending: list[int] = []
        self._state: dict[str, int] = {}
        self._final_reason: FinishReason | None = None
        self._cancelled = False
        self._lock = threading.Lock()
        self._released = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        while not self._pending:
            if self.finish_reason is not None:
                raise StopIteration
            if self._cancelled or self._final_reason is not None:
                self._finish("cancelled" if self._cancelled else self._final_reason or "stop")
                raise StopIteration
            self._read()
        token_id = self._pending.pop(0)
        if token_id in self._stop_ids:
            self._pending.clear()
            self._finish("stop")
            raise StopIteration
        return token_id

    def _read(self) -> None:
        try:
            data = next(self._events, None)
            if data is None:
                raise ServerError("the stream broke off")
            if data == "[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise ServerError(str(event["error"])[:200])
            event_data = self._dialect.parse_event(event, self._state, self._post)
            self._tokens_left -= len(event_data.ids)
            if self._tokens_left < 0:
                raise ServerError("more tokens came than were asked for")
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            if self._cancelled:  # its socket was taken away
                return
            self._finish("cancelled")
            raise EngineUnavailableError(
                tr("the server broke off: {reason}", reason=error), self._replica.address
            ) from error
        for row in event_data.logprobs:  # vLLM adds the chosen token to the likeliest if it is none of them
            self.logprobs.append(TokenLogprobs(row.logprob, row.top[: self._top_logprobs]))
        self._pending.extend(event_data.ids)
        self._final_reason = event_data.finish_reason
        if event_data.cached_tokens is not None:
            self.cached_tokens = event_data.cached_tokens

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server that writes this answer says to something else."""
        return fetch_json(self._replica, path, body)

    def _finish(self, finish: FinishReason) -> None:
        self.finish_reason = finish
        with self._lock:
            if self._released:
                return
            self._released = True
        self._engine._release(self._replica, self._reply)

    def cancel(self) -> None:
        self._cancelled = True
        self._reply.shutdown()

    def close(self) -> None:
        if self.finish_reason is None:
            self.cancel()
            self._finish("cancelled")

    def __del__(self) -> None:
        if self.finish_reason is None:
            self.close()


def fetch_json(replica: Replica, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """Fetch one JSON object. Raises ServerError."""
    reply = replica.client.fetch("GET" if body is None else "POST", path, body, _SECONDS_TO_ANSWER)
    if reply.status != 200:
        raise ServerError(f"status {reply.status}: {error_message(reply)[:200]}")
    data = reply.json()
    if not isinstance(data, dict):
        raise ServerError(tr("the answer is no JSON"))
    return data


def fetch_from_any(replicas: ReplicaPool, path: str) -> dict[str, Any]:
    """Fetch `path` from the first server that answers. Raises UserError if none does."""
    problem = ""
    for replica in replicas.all:
        try:
            return fetch_json(replica, path, None)
        except ServerError as error:
            problem = f"{replica.address}: {error}"
    replicas.close()
    what = tr("no server of this model can be reached ({problem})", problem=problem)
    raise UserError(what, hint=tr("a key goes into {key_variable}", key_variable=KEY_VARIABLE))


def first_model(replicas: ReplicaPool) -> dict[str, Any]:
    """What the servers say of the model that they serve. Raises UserError if none answers in OpenAI's form."""
    rows = fetch_from_any(replicas, "/v1/models").get("data")
    row = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(row, dict):
        replicas.close()
        raise UserError(tr("the server lists no model"), replicas.all[0].address)
    return row


def as_count(value: Any) -> int:
    """A number of tokens that a server states; 0 if it is none."""
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def api_key_from_env() -> str:
    """The key that servers which were not started here want."""
    return os.environ.get(KEY_VARIABLE, "")
