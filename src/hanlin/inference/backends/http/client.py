"""An engine that is a server elsewhere, or several of them: token ids over HTTP, and the stream of what comes back.

Owns the way. Does not own any server's words (a `Dialect` each) or which server is asked (`replicas`).
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
from hanlin.core.i18n import say
from hanlin.core.progress import Progress
from hanlin.inference.backends.http.process import Program
from hanlin.inference.backends.http.replicas import Replica, Replicas
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
_AT_ONCE = 64


Ask = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Asks a server at a path with a body; the whole answer."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one event of a stream says: ids, how likely each was where that was asked, and the end."""

    ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: FinishReason | None = None


class Dialect(Protocol):
    """How one kind of server is spoken to."""

    name: str
    health: str
    generates: str
    """The path that streams an answer."""

    def body(self, request: GenerationRequest, room: int) -> dict[str, Any]:
        """Raises UserError for what this server cannot do."""

    def part(self, event: dict[str, Any], memo: dict[str, int], ask: Ask) -> Part:
        """What an event says; `memo` is kept from one event of an answer to the next, `ask` asks the same server."""

    def score(self, prefix: Sequence[int], continuation: Sequence[int], ask: Ask) -> Score:
        """Raises UserError where this server does not score."""


class HttpEngine:
    """See `Engine`. A request that no server has begun to answer goes to another one when the first is lost."""

    def __init__(
        self,
        dialect: Dialect,
        replicas: Replicas,
        *,
        context_length: int,
        vocabulary: int,
        key: str = "",
        programs: Sequence[Program] = (),
    ) -> None:
        self.name = dialect.name
        self.context_length = context_length
        self.replicas = replicas
        self._dialect, self._vocabulary = dialect, vocabulary
        self._headers = headers_of(key)
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
        written = 0
        replies = []
        with ThreadPoolExecutor(max(1, min(len(requests), _AT_ONCE))) as threads:
            for reply in threads.map(self._whole, requests):
                replies.append(reply)
                written += len(reply.ids)
                if progress is not None:
                    done = len(replies)
                    progress.update(done, len(requests), "answers", force=done == len(requests), tokens=written)
        return replies

    def _whole(self, request: GenerationRequest) -> Completion:
        stream = self.stream(request)
        ids = tuple(stream)
        return Completion(ids, stream.finish_reason or "cancelled")

    def stream(self, request: GenerationRequest) -> HttpStream:
        room = max_completion_tokens(request, self.context_length, self._vocabulary)
        body = self._dialect.body(request, room)
        replica, connection, answer = self._ask(self._dialect.generates, body, request.prompt_ids, None)
        return HttpStream(self, self._dialect, request, replica, connection, answer)

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.context_length, self._vocabulary)
        with ThreadPoolExecutor(max(1, min(len(pairs), _AT_ONCE))) as threads:
            return list(threads.map(lambda pair: self._score(*pair), pairs))

    def _score(self, prefix: Sequence[int], continuation: Sequence[int]) -> Score:
        def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            replica, connection, answer = self._ask(path, body, prefix, None)
            try:
                return dict(json.loads(answer.read()))
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise EngineUnavailableError(f"{replica.address} broke off: {error}") from error
            finally:
                self._drop(replica, connection)

        return self._dialect.score(prefix, continuation, ask)

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        what = say(f"the engine {self.name} gives no embeddings", f"引擎 {self.name} 不提供向量")
        raise UserError(
            what, hint=say("serve the model with llama_cpp or transformers", "请用 llama_cpp 或 transformers")
        )

    def close(self) -> None:
        self.replicas.close()
        for program in self._programs:
            program.close()

    def _ask(
        self, path: str, body: dict[str, Any], prompt: Sequence[int], timeout: float | None
    ) -> tuple[Replica, http.client.HTTPConnection, http.client.HTTPResponse]:
        """The beginning of an answer from a healthy server.

        Raises EngineUnavailableError when there is none, UserError for what the server refuses.
        """
        data = json.dumps(body).encode()
        tried: list[Replica] = []
        while True:
            replica = self.replicas.take(prompt, tried)
            connection = None
            try:
                connection = replica.connection(timeout)
                connection.request("POST", replica.path + path, data, self._headers)
                answer = connection.getresponse()
                if answer.status == 200:
                    return replica, connection, answer
                told = answer.read(2000).decode("utf-8", "replace")
                if 400 <= answer.status < 500 and answer.status not in (401, 403, 408, 429):
                    raise UserError(say(f"the engine refuses this: {told[:300]}", f"引擎拒绝此请求：{told[:300]}"))
                raise OSError(f"status {answer.status}: {told[:200]}")
            except (OSError, http.client.HTTPException):
                self._drop(replica, connection)
                self.replicas.failed(replica)
                tried.append(replica)
            except BaseException:
                self._drop(replica, connection)
                raise

    def _drop(self, replica: Replica, connection: http.client.HTTPConnection | None) -> None:
        if connection is not None:
            connection.close()
        self.replicas.give_back(replica)


class HttpStream:
    """The ids of one answer as a server sends them; see `Stream`."""

    def __init__(
        self,
        engine: HttpEngine,
        dialect: Dialect,
        request: GenerationRequest,
        replica: Replica,
        connection: http.client.HTTPConnection,
        answer: http.client.HTTPResponse,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprobs] = []
        self._engine, self._dialect, self._replica = engine, dialect, replica
        self._connection, self._answer = connection, answer
        self._socket = connection.sock
        self._stops = frozenset(request.stop_ids)
        self._waiting: list[int] = []
        self._memo: dict[str, int] = {}
        self._ending: FinishReason | None = None
        self._cancelled = False
        self._lock = threading.Lock()
        self._left = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        while not self._waiting:
            if self.finish_reason is not None:
                raise StopIteration
            if self._cancelled or self._ending is not None:
                self._end("cancelled" if self._cancelled else self._ending or "stop")
                raise StopIteration
            self._read()
        number = self._waiting.pop(0)
        if number in self._stops:
            self._waiting.clear()
            self._end("stop")
            raise StopIteration
        return number

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
            part = self._dialect.part(event, self._memo, self._ask)
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            if self._cancelled:  # its socket was taken away
                return
            self._end("cancelled")
            raise EngineUnavailableError(f"{self._replica.address} broke off: {error}") from error
        self.logprobs.extend(part.logprobs)
        self._waiting.extend(part.ids)
        self._ending = part.finish_reason

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server that writes this answer says to something else."""
        return ask_once(self._replica, path, body, self._engine._headers)

    def _end(self, finish: FinishReason) -> None:
        self.finish_reason = finish
        with self._lock:
            if self._left:
                return
            self._left = True
        self._engine._drop(self._replica, self._connection)

    def cancel(self) -> None:
        self._cancelled = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended already
            pass

    def close(self) -> None:
        if self.finish_reason is None:
            self.cancel()
            self._end("cancelled")

    def __del__(self) -> None:
        if self.finish_reason is None:
            self.close()


def ask_once(
    replica: Replica, path: str, body: dict[str, Any] | None, headers: Mapping[str, str], timeout: float = 30.0
) -> dict[str, Any]:
    """A whole answer in JSON. Raises OSError."""
    connection = replica.connection(timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", replica.path + path, data, dict(headers))
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {told[:200].decode('utf-8', 'replace')}")
        return dict(json.loads(told))
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def first_answer(replicas: Replicas, path: str, key: str) -> dict[str, Any]:
    """What the first server that answers says of itself at `path`. Raises UserError when none does."""
    problem = ""
    for replica in replicas.all:
        try:
            return ask_once(replica, path, None, headers_of(key))
        except OSError as error:
            problem = f"{replica.address}: {error}"
    replicas.close()
    what = say(f"no server of this model can be asked ({problem})", f"无法访问此模型的服务（{problem}）")
    raise UserError(what, hint=say(f"a key goes into {KEY_VARIABLE}", f"密钥请放入环境变量 {KEY_VARIABLE}"))


def headers_of(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def key_for_elsewhere() -> str:
    """The key that servers which were not started here want."""
    return os.environ.get(KEY_VARIABLE, "")
