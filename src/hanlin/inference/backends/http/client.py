"""An engine that is one or several HTTP servers: token ids are sent, events are streamed back.

What each kind of server expects is a `Dialect`; which server gets a request is chosen in `replicas`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.inference.backends.http.process import ServerProcess
from hanlin.inference.backends.http.replicas import Replica, ReplicaPool
from hanlin.inference.protocol import (
    Completion,
    EngineUnavailableError,
    FinishReason,
    GenerationRequest,
    Score,
    TokenLogprobs,
)
from hanlin.inference.request_checks import check_pair, max_completion_tokens

KEY_VARIABLE = "HANLIN_ENGINE_KEY"
_MAX_CONCURRENT = 64


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


class HttpEngine:
    """See `Engine`. A request that no server has begun to answer goes to another server if the first is lost."""

    def __init__(
        self,
        dialect: Dialect,
        replicas: ReplicaPool,
        *,
        context_length: int,
        vocabulary: int,
        key: str = "",
        programs: Sequence[ServerProcess] = (),
    ) -> None:
        self.name = dialect.name
        self.context_length = context_length
        self.replicas = replicas
        self._dialect, self._vocabulary = dialect, vocabulary
        self._headers = request_headers(key)
        self._programs = programs

    @property
    def alive(self) -> bool:
        return self.replicas.healthy > 0

    @property
    def restarts(self) -> int:
        return sum(program.restarts for program in self._programs)

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Completion]:
        for request in requests:
            max_completion_tokens(request, self.context_length, self._vocabulary)
        num_tokens = 0
        completions = []
        with ThreadPoolExecutor(max(1, min(len(requests), _MAX_CONCURRENT))) as threads:
            for completion in threads.map(self._complete, requests):
                completions.append(completion)
                num_tokens += len(completion.ids)
                if progress is not None:
                    done = len(completions)
                    progress.update(done, len(requests), "answers", force=done == len(requests), tokens=num_tokens)
        return completions

    def _complete(self, request: GenerationRequest) -> Completion:
        stream = self.stream(request)
        ids = tuple(stream)
        return Completion(ids, stream.finish_reason or "cancelled")

    def stream(self, request: GenerationRequest) -> HttpStream:
        max_new_tokens = max_completion_tokens(request, self.context_length, self._vocabulary)
        body = self._dialect.request_body(request, max_new_tokens)
        replica, connection, response = self._post(self._dialect.completion_path, body, request.prompt_ids, None)
        return HttpStream(self, self._dialect, request, replica, connection, response)

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.context_length, self._vocabulary)
        with ThreadPoolExecutor(max(1, min(len(pairs), _MAX_CONCURRENT))) as threads:
            return list(threads.map(lambda pair: self._score(*pair), pairs))

    def _score(self, prefix: Sequence[int], continuation: Sequence[int]) -> Score:
        def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            replica, connection, response = self._post(path, body, prefix, None)
            try:
                return dict(json.loads(response.read()))
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise EngineUnavailableError(f"{replica.address} broke off: {error}") from error
            finally:
                self._release(replica, connection)

        return self._dialect.score(prefix, continuation, ask)

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        what = tr("the engine {name} gives no embeddings", name=self.name)
        raise UserError(what, hint=tr("serve the model with llama_cpp or transformers"))

    def close(self) -> None:
        self.replicas.close()
        for program in self._programs:
            program.close()

    def _post(
        self, path: str, body: dict[str, Any], prompt: Sequence[int], timeout: float | None
    ) -> tuple[Replica, http.client.HTTPConnection, http.client.HTTPResponse]:
        """The beginning of an answer from a healthy server.

        Raises EngineUnavailableError when there is none, UserError for what the server refuses.
        """
        data = json.dumps(body).encode()
        tried: list[Replica] = []
        while True:
            replica = self.replicas.acquire(prompt, tried)
            connection = None
            try:
                connection = replica.connection(timeout)
                connection.request("POST", replica.path + path, data, self._headers)
                response = connection.getresponse()
                if response.status == 200:
                    return replica, connection, response
                text = response.read(2000).decode("utf-8", "replace")
                if 400 <= response.status < 500 and response.status not in (401, 403, 408, 429):
                    raise UserError(tr("the engine refuses this: {text}", text=text[:300]))
                raise OSError(f"status {response.status}: {text[:200]}")
            except (OSError, http.client.HTTPException):
                self._release(replica, connection)
                self.replicas.mark_unhealthy(replica)
                tried.append(replica)
            except BaseException:
                self._release(replica, connection)
                raise

    def _release(self, replica: Replica, connection: http.client.HTTPConnection | None) -> None:
        if connection is not None:
            connection.close()
        self.replicas.release(replica)


class HttpStream:
    """The ids of one answer as a server sends them; see `Stream`."""

    def __init__(
        self,
        engine: HttpEngine,
        dialect: Dialect,
        request: GenerationRequest,
        replica: Replica,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.cached_tokens: int | None = None
        self._engine, self._dialect, self._replica = engine, dialect, replica
        self._connection, self._answer = connection, response
        self._socket = connection.sock
        self._stop_ids = frozenset(request.stop_ids)
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
            line = self._answer.readline()
            if not line:
                raise OSError("the stream broke off")
            if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
                return
            event = json.loads(line[5:])
            if "error" in event:
                raise OSError(str(event["error"])[:200])
            event_data = self._dialect.parse_event(event, self._state, self._post)
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            if self._cancelled:  # its socket was taken away
                return
            self._finish("cancelled")
            raise EngineUnavailableError(f"{self._replica.address} broke off: {error}") from error
        self.logprobs.extend(event_data.logprobs)
        self._pending.extend(event_data.ids)
        self._final_reason = event_data.finish_reason
        if event_data.cached_tokens is not None:
            self.cached_tokens = event_data.cached_tokens

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server that writes this answer says to something else."""
        return fetch_json(self._replica, path, body, self._engine._headers)

    def _finish(self, finish: FinishReason) -> None:
        self.finish_reason = finish
        with self._lock:
            if self._released:
                return
            self._released = True
        self._engine._release(self._replica, self._connection)

    def cancel(self) -> None:
        self._cancelled = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended already
            pass

    def close(self) -> None:
        if self.finish_reason is None:
            self.cancel()
            self._finish("cancelled")

    def __del__(self) -> None:
        if self.finish_reason is None:
            self.close()


def fetch_json(
    replica: Replica, path: str, body: dict[str, Any] | None, headers: Mapping[str, str], timeout: float = 30.0
) -> dict[str, Any]:
    """Fetch one JSON response. Raises OSError."""
    connection = replica.connection(timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", replica.path + path, data, dict(headers))
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise OSError(f"status {response.status}: {text[:200].decode('utf-8', 'replace')}")
        return dict(json.loads(text))
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def fetch_from_any(replicas: ReplicaPool, path: str, key: str) -> dict[str, Any]:
    """Fetch `path` from the first server that answers. Raises UserError if none does."""
    problem = ""
    for replica in replicas.all:
        try:
            return fetch_json(replica, path, None, request_headers(key))
        except OSError as error:
            problem = f"{replica.address}: {error}"
    replicas.close()
    what = tr("no server of this model can be reached ({problem})", problem=problem)
    raise UserError(what, hint=tr("a key goes into {key_variable}", key_variable=KEY_VARIABLE))


def request_headers(key: str) -> dict[str, str]:
    """The headers of a request with a JSON body; an empty `key` sends no `Authorization`."""
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def api_key_from_env() -> str:
    """The key that servers which were not started here want."""
    return os.environ.get(KEY_VARIABLE, "")
