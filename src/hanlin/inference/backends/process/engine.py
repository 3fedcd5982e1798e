"""An engine in a process of its own, so that its crash does not end the caller and one that hangs can be ended.

This is the parent: it starts and restarts the process and carries requests and tokens between the two. `child` runs the
engine.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import end_process
from hanlin.core.progress import Progress
from hanlin.inference.backends.process.error_output import ErrorOutput
from hanlin.inference.backends.process.messages import HEARTBEAT, AnswerStart, CallResult, PairScore
from hanlin.inference.backends.process.pipe import start_child
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
from hanlin.inference.request_checks import check_pair, check_text_ids, max_completion_tokens
from hanlin.inference.scheduler_engine import TokenStream

_LOG = logging.getLogger(__name__)
_MAX_RESTART_DELAY = 30.0
_SECONDS_TO_END = 0.5
"""There is nothing that it would have to write; one that was stopped (SIGSTOP) never hears of it."""
HEARTBEAT_SECONDS = 2.0
SILENT_SECONDS = 5.0
"""Without an answer for so long, the engine counts as lost."""
LOST_SECONDS = 15.0
"""Without an answer for so long, it is ended and started again. An answer takes no step: it waits for none."""
_STUCK_SECONDS = 600.0
"""The same for a single step of the scheduler."""
_CHILD = "hanlin.inference.backends.process.child"
_LABELS = {"llama_cpp": "llama.cpp"}


class EngineProcess:
    """An engine in a process of its own.

    Args:
        name: Its name in `inference.registry`; it must be a `SchedulerEngine`.
        path: The model.
        log_restarts: Log when the process ends. Whoever waits for an answer is told in any case.
        **options: Options of the engine.

    If the process ends by itself, open requests raise `EngineUnavailableError` and it is restarted, after a delay that
    doubles as long as it does not stay up. A process that does not answer a heartbeat, or is in one step for minutes,
    is ended, and then the same happens.
    """

    def __init__(self, name: str, path: Path, *, log_restarts: bool = True, **options: Any) -> None:
        self._log_level = logging.ERROR if log_restarts else logging.DEBUG
        self.name, self._label = name, _LABELS.get(name, name)
        self._path, self._command = path, pickle.dumps((name, path, options))
        self.restarts = 0
        self._call_ids = itertools.count()
        self._pending: dict[int, _PendingCall] = {}
        self._state = threading.Condition()
        self._closed = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._error_output: ErrorOutput | None = None
        self._is_ending = threading.Event()  # at the end of the interpreter too, when nobody has called `close`
        self._closing = weakref.finalize(self, _close, self._processes, self._is_ending)
        self._connection = self._spawn()
        self.context_length, self._vocabulary = self._handshake()
        self._sending = threading.Lock()
        self._alive = True
        self._start_error = ""
        self._listener = threading.Thread(target=self._listen, name=f"{self._label} process", daemon=True)
        self._listener.start()
        self._heard_at = time.monotonic()
        self._step_seconds = 0.0
        self._is_silent = False
        threading.Thread(target=self._watch, name=f"{self._label} heartbeat", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the process is there and answers; false while it is started again."""
        return self._alive and not self._is_silent

    @property
    def max_scored_length(self) -> int:
        return self.context_length + 1  # that of a `SchedulerEngine`

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress | None = None,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        tasks = [self._task(request) for request in requests]
        finished: SimpleQueue[int] = SimpleQueue()
        for index, task in enumerate(tasks):
            task.on_end = partial(finished.put, index)

        def each_finished() -> Iterator[tuple[int, Completion]]:
            for _ in tasks:
                index = finished.get()
                task = tasks[index]
                if task.error is not None:
                    raise task.error
                ids = tuple(task.ids.get() for _ in range(task.count))
                yield index, Completion(ids, task.finish_reason or "cancelled")

        self._send("answer", tasks)
        try:
            return collect_completions(each_finished(), len(tasks), progress, on_completion)
        finally:
            for task in tasks:
                task.cancelled = True

    def stream(self, request: GenerationRequest) -> TokenStream:
        task = self._task(request)
        self._send("answer", [task])
        return _SubscribableTokenStream(task)

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_score: OnScore | None = None
    ) -> list[Score]:
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.max_scored_length, self._vocabulary)
        argument = [(tuple(prefix), tuple(continuation)) for prefix, continuation in pairs]
        task = _PendingCall(next(self._call_ids), argument, self)
        self._send("score", [task])
        scores: dict[int, Score] = {}
        while (item := task.ids.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            scores[item.index] = item.score
            if on_score is not None:
                on_score(item.index, item.score)
        if len(scores) < len(pairs):
            raise RuntimeError("the engine was closed while it scored")
        return [scores[index] for index in range(len(pairs))]

    def score_prompts(self, requests: Sequence[PromptScoreRequest]) -> list[PromptScore]:
        for request in requests:
            check_text_ids(request.ids, self.context_length, self._vocabulary)
        scores: list[PromptScore] = self._call("score_prompts", list(requests))
        return scores

    def embed(self, texts: Sequence[Sequence[int]], adapter: str | None = None) -> NDArray[np.float32]:
        for ids in texts:
            check_text_ids(ids, self.context_length, self._vocabulary)
        return np.asarray(self._call("embed", ([tuple(ids) for ids in texts], adapter)), np.float32)

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._closing()
        self._listener.join()

    # ------------------------------------------------------------------------------------------------- asking

    def _task(self, request: GenerationRequest) -> _PendingCall:
        max_completion_tokens(request, self.context_length, self._vocabulary)
        return _PendingCall(next(self._call_ids), request, self)

    def _call(self, method: str, argument: object) -> Any:
        task = _PendingCall(next(self._call_ids), argument, self)
        self._send(method, [task])
        task.ended.wait()
        if task.error is not None:
            raise task.error
        return task.result

    def _send(self, kind: str, tasks: Sequence[_PendingCall]) -> None:
        """Waits while the process is started again; raises EngineUnavailableError when it does not start,
        RuntimeError when the engine is closed.
        """
        with self._state:
            self._state.wait_for(lambda: self._alive or self._closed or self._start_error)
            if self._closed:
                raise RuntimeError("the engine is closed")
            if not self._alive:
                what = tr("{engine} does not start again: {error}", engine=self._label, error=self._start_error)
                raise EngineUnavailableError(what, self._path)
            for task in tasks:
                self._pending[task.call_id] = task
            connection = self._connection
        self._write(connection, (kind, [(task.call_id, task.argument) for task in tasks]))

    def _write(self, connection: Connection, message: object) -> None:
        """Write to the process that the caller saw alive: one that was started since has no model open yet, and
        knows none of the caller's requests.
        """
        try:
            with self._sending:
                connection.send(message)
        except OSError:  # the process is gone: the listener hears it too, and tells whoever waits
            pass

    def cancel(self, call_id: int) -> None:
        with self._state:
            if call_id not in self._pending:
                return
            connection = self._connection
        self._write(connection, ("cancel", call_id))

    # ------------------------------------------------------------------------------------------------- heartbeat

    def _watch(self) -> None:
        """Ask the process for a sign of life, and end it if there is none: the listener then starts it again."""
        asked_at: float | None = None
        process = None
        while True:
            with self._state:
                if self._state.wait_for(lambda: self._closed, HEARTBEAT_SECONDS):
                    return
                if not self._alive or self._processes[0] is not process:  # another one than before
                    process, asked_at = self._processes[0], None
                connection = self._connection
            if not self._alive:
                continue
            now = time.monotonic()
            if asked_at is None or self._heard_at >= asked_at:
                asked_at = now if self._ping(connection) else asked_at or now
            self._is_silent = now - asked_at > SILENT_SECONDS
            if now - asked_at > LOST_SECONDS or self._step_seconds > _STUCK_SECONDS:
                _LOG.log(self._log_level, "%s: its process does not answer and is ended", self._label)
                self._step_seconds = 0.0
                process.kill()

    def _ping(self, connection: Connection) -> bool:
        """Send a heartbeat, without waiting for a process that reads nothing; whether it was sent."""
        if not self._sending.acquire(timeout=1.0):
            return False
        try:
            if hasattr(select, "poll"):  # Windows has none, and no full pipes that small
                poll = select.poll()
                poll.register(connection.fileno(), select.POLLOUT)
                if not poll.poll(0):
                    return False
            connection.send(("ping", None))
        except OSError:  # the process is gone: the listener hears it too
            return False
        finally:
            self._sending.release()
        return True

    # ------------------------------------------------------------------------------------------------- listening

    def _spawn(self) -> Connection:
        process, connection = _spawn()
        self._processes[:] = [process]
        assert process.stderr is not None
        self._error_output = ErrorOutput(process.stderr)
        return connection

    def _handshake(self) -> tuple[int, int]:
        """Open the model in the process that was just started; its context length and vocabulary."""
        try:
            self._connection.send_bytes(self._command)
            item = self._connection.recv()
        except (EOFError, OSError) as error:
            _terminate(self._processes)
            what = tr("{engine} ended while it loaded this model ({reason})", engine=self._label, reason=self._reason())
            hint = tr(
                "files may be damaged or of a model that {engine} does not know, or memory ran out", engine=self._label
            )
            raise UserError(what, self._path, hint) from error
        if isinstance(item, BaseException):
            _terminate(self._processes)
            raise item
        return item  # type: ignore[no-any-return]

    def _reason(self) -> str:
        """Why the process has ended: its exit code, and what it said."""
        words = self._error_output.abort_message() if self._error_output is not None else ""
        reason = tr("exit code {code}", code=self._processes[0].returncode)
        return f"{reason}: {words}" if words else reason

    def _listen(self) -> None:
        started = time.monotonic()
        delay = 0.0
        while True:
            try:
                items = self._connection.recv()
                self._heard_at = time.monotonic()
                for call_id, item in items:
                    self._dispatch(call_id, item)
                continue
            except (EOFError, OSError):
                pass
            if not self._handle_exit():
                return
            delay = (
                0.0 if time.monotonic() - started > max(delay, 1.0) else min(_MAX_RESTART_DELAY, max(0.5, 2 * delay))
            )
            started = time.monotonic()
            if not self._restart(delay):
                return

    def _dispatch(self, call_id: int, item: Any) -> None:
        if call_id == HEARTBEAT:
            self._step_seconds, self._is_silent = item, False
            return
        task = self._pending.get(call_id)
        if task is None:
            return
        if isinstance(item, CallResult):
            del self._pending[call_id]
        task.receive(item)

    def _handle_exit(self) -> bool:
        """Tell whoever waits; whether the process is to be started again."""
        with self._state:
            self._alive = False
            lost, self._pending = list(self._pending.values()), {}
            closed = self._closed or self._is_ending.is_set()
        with self._sending:  # `send` looks whether the connection is open only before it writes
            self._connection.close()
        self._processes[0].kill()
        self._processes[0].wait()
        error: EngineUnavailableError | None = None
        if not closed:
            reason = self._reason()
            event = "%s: its process ended (%s), %s requests open; it starts again"
            _LOG.log(self._log_level, event, self._label, reason, len(lost))
            what = tr("{engine} ended in the middle of its work ({reason})", engine=self._label, reason=reason)
            error = EngineUnavailableError(what, self._path, tr("try again; finished work is kept"))
        for task in lost:
            task.receive(CallResult("cancelled", error))
        return not closed

    def _restart(self, delay: float) -> bool:
        while True:
            try:
                with self._state:
                    if self._state.wait_for(lambda: self._closed, delay):
                        return False
                    self._connection = self._spawn()  # before anybody can close: nobody would end it later
                self.restarts += 1
                self._handshake()
            except Exception as error:
                if self._closed or self._is_ending.is_set():
                    return False
                _LOG.log(self._log_level, "%s does not start again", self._label, exc_info=error)
                with self._state:
                    self._start_error = str(error) or type(error).__name__
                    self._state.notify_all()
                delay = min(_MAX_RESTART_DELAY, max(0.5, 2 * delay))
                continue
            with self._state:
                self._alive, self._start_error, self._is_silent = True, "", False
                self._heard_at = time.monotonic()
                self._state.notify_all()
            return True


class _PendingCall:
    """What the process was asked, and what came of it so far; for an answer, what `TokenStream` reads."""

    def __init__(self, call_id: int, argument: Any, engine: EngineProcess) -> None:
        self.call_id, self.argument = call_id, argument
        self.ids: Any = SimpleQueue()
        self.logprobs: list[TokenLogprobs] = []
        self.count = 0
        self.finish_reason: FinishReason | None = None
        self.cached_tokens: int | None = None
        self.ended = threading.Event()
        self.on_end: Callable[[], None] | None = None
        self.error: BaseException | None = None
        self.result: Any = None
        self._engine = weakref.ref(engine)
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        return self.ended.is_set()

    @cancelled.setter
    def cancelled(self, _: bool) -> None:
        engine = self._engine()
        if engine is not None and not self.ended.is_set():
            engine.cancel(self.call_id)

    def receive(self, item: int | tuple[int, TokenLogprobs] | AnswerStart | PairScore | CallResult) -> None:
        if isinstance(item, int):
            self.count += 1
            self._put(item)
        elif isinstance(item, PairScore):
            self._put(item)
        elif isinstance(item, AnswerStart):
            self.cached_tokens = item.cached_tokens
        elif isinstance(item, CallResult):
            self.finish_reason, self.error, self.result = item.finish_reason, item.error, item.result
            constraint = getattr(self.argument, "constraint", None)
            if constraint is not None:
                constraint.failed = item.failed
            self.ended.set()
            self._put(item.error)
            if self.on_end is not None:
                self.on_end()
        else:
            self.logprobs.append(item[1])
            self.receive(item[0])

    def _put(self, item: int | PairScore | BaseException | None) -> None:
        with self._lock:
            self.ids.put(item)

    def redirect(self, receive: Callable[[int | BaseException | None], None]) -> None:
        with self._lock:
            while not self.ids.empty():
                receive(self.ids.get())
            self.ids = _CallbackQueue(receive)


class _CallbackQueue:
    """A queue that nothing waits in."""

    def __init__(self, receive: Callable[[int | BaseException | None], None]) -> None:
        self.put = receive


class _SubscribableTokenStream(TokenStream):
    """See `Stream`, and `SubscribableStream`: ids are handed on by the thread that hears the process."""

    def __init__(self, task: _PendingCall) -> None:
        super().__init__(task)
        self._pending = task

    def subscribe(self, receive: Callable[[int | BaseException | None], None]) -> None:
        def on_item(item: int | BaseException | None) -> None:
            self._ended = self._ended or not isinstance(item, int)
            receive(item)

        self._pending.redirect(on_item)


def _spawn() -> tuple[subprocess.Popen[bytes], Connection]:
    return start_child(_CHILD)


def _close(processes: list[subprocess.Popen[bytes]], is_ending: threading.Event) -> None:
    is_ending.set()
    _terminate(processes)


def _terminate(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        end_process(process, _SECONDS_TO_END)
