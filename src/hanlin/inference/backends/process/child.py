"""The child: it runs the engine and sends what it makes to the parent."""

from __future__ import annotations

import os
import pickle
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from hanlin.core.errors import UserError
from hanlin.inference.backends.process.messages import HEARTBEAT, AnswerStart, CallResult, PairScore
from hanlin.inference.backends.process.pipe import open_child_end
from hanlin.inference.protocol import GenerationRequest, Score
from hanlin.inference.registry import create_engine
from hanlin.inference.scheduler_engine import SchedulerEngine
from hanlin.inference.tasks import GenerationTask

_MIN_SEND_INTERVAL = 0.02


class _Sender:
    """Sends what was told: the ids of a decode step travel together, and those of quick steps too, at most fifty times
    a second, since each message wakes the server and the client, which takes a core from the next step.

    What must not wait goes at once: the first ids after a pause, the end of an answer, and what was told when something
    is asked, which can make the next step a long one. The thread that decodes sends by itself, between two steps:
    another would wait for its turn while the next one runs.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queue: deque[tuple[int, Any]] = deque()
        self._sending = threading.Lock()
        self._urgent = False
        self._last_sent = 0.0

    def put(self, call_id: int, item: Any) -> None:
        self._queue.append((call_id, item))
        if isinstance(item, CallResult):
            self._urgent = True

    def flush_next_step(self) -> None:
        """Have the next step's ids, and those told before, sent at once."""
        self._urgent = True

    def after_step(self) -> None:
        if self._urgent or time.monotonic() - self._last_sent > _MIN_SEND_INTERVAL:
            self.send()

    def send(self) -> None:
        with self._sending:
            self._urgent = False
            item = [self._queue.popleft() for _ in range(len(self._queue))]
            if item:
                with suppress(OSError):  # who asked is gone: the thread that receives hears it too
                    self._connection.send_bytes(pickle.dumps(item))
                self._last_sent = time.monotonic()


class _ProcessSink:
    """Takes the ids of one answer to the sender; a sink as `SchedulerEngine.tasks` wants one."""

    def __init__(self, call_id: int, request: GenerationRequest, sender: _Sender) -> None:
        self._number, self._request, self._sender = call_id, request, sender
        self._with_likely = request.sampling.top_logprobs is not None
        self._has_begun = False
        self.task: GenerationTask | None = None

    def put(self, item: int | BaseException | None) -> None:
        assert self.task is not None
        if not self._has_begun and self.task.cached_tokens is not None:
            self._has_begun = True
            self._sender.put(self._number, AnswerStart(self.task.cached_tokens))
        if not isinstance(item, int):
            failed = getattr(self._request.constraint, "failed", "")
            self._sender.put(self._number, CallResult(self.task.finish_reason, item and _picklable(item), None, failed))
        elif self._with_likely:
            self._sender.put(self._number, (item, self.task.logprobs[-1]))
        else:
            self._sender.put(self._number, item)


def _serve(connection: Connection) -> None:
    """Answer until the other side lets go."""
    name, path, options = pickle.loads(connection.recv_bytes())
    try:
        engine = create_engine(name, path, **options)
        assert isinstance(engine, SchedulerEngine)
    except BaseException as error:
        connection.send(_picklable(error))
        return
    connection.send((engine.context_length, engine.vocabulary))
    sender = _Sender(connection)
    engine.set_step_callback(sender.after_step)
    answers: dict[int, GenerationTask] = {}
    while True:
        kind, payload = connection.recv()
        if kind == "ping":
            sender.put(HEARTBEAT, engine.step_seconds)
            sender.send()
            continue
        sender.flush_next_step()
        if kind == "answer":
            sinks = [_ProcessSink(call_id, request, sender) for call_id, request in payload]
            try:
                tasks = engine.tasks([request for _, request in payload], sinks)
            except UserError as error:  # an adapter that is not there
                for call_id, _ in payload:
                    sender.put(call_id, CallResult(error=_picklable(error)))
                sender.send()
                continue
            for sink, task in zip(sinks, tasks, strict=True):
                sink.task = task
            answers = {call_id: task for call_id, task in answers.items() if not task.ended.is_set()}
            answers.update((call_id, task) for (call_id, _), task in zip(payload, tasks, strict=True))
            engine.submit(tasks)
        elif kind == "cancel":
            if payload in answers:
                answers[payload].cancelled = True
        else:
            ((call_id, argument),) = payload
            methods = {"score": partial(_score, engine, call_id, sender), "embed": partial(_embed, engine)}
            method = methods.get(kind) or getattr(engine, kind)
            threading.Thread(target=_call, args=(method, argument, call_id, sender), daemon=True).start()


def _score(engine: Any, call_id: int, sender: _Sender, pairs: Any) -> None:
    """Score pairs; each score is told at once."""

    def tell(index: int, score: Score) -> None:
        sender.put(call_id, PairScore(index, score))
        sender.send()

    engine.score(pairs, tell)


def _embed(engine: Any, argument: tuple[Any, str | None]) -> Any:
    """Embed the texts of an argument under its adapter."""
    return engine.embed(*argument)


def _call(method: Any, argument: Any, call_id: int, sender: _Sender) -> None:
    try:
        item = CallResult(result=method(argument))
    except BaseException as error:
        item = CallResult(error=_picklable(error))
    sender.put(call_id, item)
    sender.send()


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def main(end: int | str) -> None:
    """The whole life of the process; `end` is its end of the pipe: a descriptor, or the address to connect to."""
    try:
        _serve(open_child_end(end))
    except (EOFError, OSError):  # who asked is gone
        pass
    except BaseException:
        traceback.print_exc()
    os._exit(0)
