"""The child's half of the llama.cpp process."""

from __future__ import annotations

import os
import pickle
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from hanlin.inference.backends.llama_cpp.engine import LlamaCppEngine
from hanlin.inference.backends.llama_cpp.process_messages import End
from hanlin.inference.protocol import GenerationRequest
from hanlin.inference.tasks import GenerationTask

_SECONDS_BETWEEN_MESSAGES = 0.02


class _Sender:
    """Sends what was told: the ids of a decode step travel together, and those of quick steps too, at most fifty times
    a second, since each message wakes the server and the client, which takes a core from the next step.

    What must not wait goes at once: the first ids after a pause, the end of an answer, and what was told when something
    is asked, which can make the next step a long one. The thread that decodes sends by itself, between two steps:
    another would wait for its turn while the next one runs.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told: deque[tuple[int, Any]] = deque()
        self._sending = threading.Lock()
        self._hurried = False
        self._sent = 0.0

    def put(self, number: int, told: Any) -> None:
        self._told.append((number, told))
        if isinstance(told, End):
            self._hurried = True

    def hurry(self) -> None:
        """Have the next step's ids, and those told before, sent at once."""
        self._hurried = True

    def after_step(self) -> None:
        if self._hurried or time.monotonic() - self._sent > _SECONDS_BETWEEN_MESSAGES:
            self.send()

    def send(self) -> None:
        with self._sending:
            self._hurried = False
            told = [self._told.popleft() for _ in range(len(self._told))]
            if told:
                with suppress(OSError):  # who asked is gone: the thread that receives hears it too
                    self._connection.send_bytes(pickle.dumps(told))
                self._sent = time.monotonic()


class _Outlet:
    """Takes the ids of one answer to the sender; a sink as `LlamaCppEngine.begin` wants one."""

    def __init__(self, number: int, request: GenerationRequest, sender: _Sender) -> None:
        self._number, self._request, self._sender = number, request, sender
        self._with_likely = request.sampling.top_logprobs is not None
        self.task: GenerationTask | None = None

    def put(self, told: int | BaseException | None) -> None:
        assert self.task is not None
        if not isinstance(told, int):
            failed = getattr(self._request.constraint, "failed", "")
            self._sender.put(self._number, End(self.task.finish_reason, told and _sendable(told), None, failed))
        elif self._with_likely:
            self._sender.put(self._number, (told, self.task.logprobs[-1]))
        else:
            self._sender.put(self._number, told)


def _serve(connection: Connection) -> None:
    """Answer until the other side lets go."""
    path, options = pickle.loads(connection.recv_bytes())
    try:
        engine = LlamaCppEngine(path, **options)
    except BaseException as error:
        connection.send(_sendable(error))
        return
    connection.send((engine.context_length, engine.vocabulary))
    sender = _Sender(connection)
    engine.after_step(sender.after_step)
    answers: dict[int, GenerationTask] = {}
    while True:
        kind, asked = connection.recv()
        sender.hurry()
        if kind == "answer":
            outlets = [_Outlet(number, request, sender) for number, request in asked]
            tasks = engine.tasks([request for _, request in asked], outlets)
            for outlet, task in zip(outlets, tasks, strict=True):
                outlet.task = task
            answers = {number: task for number, task in answers.items() if not task.ended.is_set()}
            answers.update((number, task) for (number, _), task in zip(asked, tasks, strict=True))
            engine.begin(tasks)
        elif kind == "cancel":
            if asked in answers:
                answers[asked].cancelled = True
        else:
            ((number, argument),) = asked
            threading.Thread(target=_call, args=(getattr(engine, kind), argument, number, sender), daemon=True).start()


def _call(method: Any, argument: Any, number: int, sender: _Sender) -> None:
    try:
        told = End(result=method(argument))
    except BaseException as error:
        told = End(error=_sendable(error))
    sender.put(number, told)
    sender.send()


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def main(descriptor: int) -> None:
    """The whole life of the process; `descriptor` is its end of the pipe."""
    try:
        _serve(Connection(descriptor))
    except (EOFError, OSError):  # who asked is gone
        pass
    except BaseException:
        traceback.print_exc()
    os._exit(0)
