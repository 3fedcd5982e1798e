"""The llama.cpp engine in a process of its own: what brings llama.cpp down does not bring down who asked it.

Owns the process, its start and its start again, and the way of requests and ids between the two. Does not own
generation: in there is a `LlamaCppEngine`.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.core.process import end_process
from hanlin.core.progress import Progress
from hanlin.inference.backends.llama_cpp.process_messages import End
from hanlin.inference.protocol import (
    Completion,
    EngineUnavailableError,
    FinishReason,
    GenerationRequest,
    Score,
    TokenLogprobs,
)
from hanlin.inference.request_checks import check_pair, check_text_ids, max_completion_tokens
from hanlin.inference.scheduler_engine import TokenStream

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0
_SECONDS_TO_END = 10.0
_CHILD = "hanlin.inference.backends.llama_cpp.process_child"


class LlamaCppProcess:
    """A GGUF file in llama.cpp, in a process of its own; options as `LlamaCppEngine` has.

    When the process ends by itself, what it was asked raises `EngineUnavailableError`, and it is started again at
    once, after a pause that doubles while it does not stay up for as long.
    """

    name = "llama_cpp"

    def __init__(self, path: Path, **options: Any) -> None:
        self._command = pickle.dumps((path, options))
        self.restarts = 0
        self._numbers = itertools.count()
        self._asked: dict[int, _Asked] = {}
        self._state = threading.Condition()
        self._closed = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closing = weakref.finalize(self, _end, self._processes)
        self._connection = self._start()
        self.context_length, self._vocabulary = self._greet()
        self._sending = threading.Lock()
        self._alive = True
        self._trouble = ""
        self._listener = threading.Thread(target=self._listen, name="llama.cpp process", daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """Whether the process is there to answer; false while it is started again."""
        return self._alive

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Completion]:
        tasks = [self._task(request) for request in requests]
        self._send("answer", tasks)
        try:
            written = 0
            for done, task in enumerate(tasks, start=1):
                task.ended.wait()
                if task.error is not None:
                    raise task.error
                written += task.count
                if progress is not None:
                    progress.update(done, len(tasks), "answers", force=done == len(tasks), tokens=written)
        finally:
            for task in tasks:
                task.cancelled = True
        return [
            Completion(tuple(task.ids.get() for _ in range(task.count)), task.finish_reason or "cancelled")
            for task in tasks
        ]

    def stream(self, request: GenerationRequest) -> TokenStream:
        task = self._task(request)
        self._send("answer", [task])
        return _ProcessStream(task)

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.context_length, self._vocabulary)
        return list(self._call("score", [(tuple(prefix), tuple(continuation)) for prefix, continuation in pairs]))

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        for ids in texts:
            check_text_ids(ids, self.context_length, self._vocabulary)
        return np.asarray(self._call("embed", [tuple(ids) for ids in texts]), np.float32)

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._closing()
        self._listener.join()

    # ------------------------------------------------------------------------------------------------- asking

    def _task(self, request: GenerationRequest) -> _Asked:
        max_completion_tokens(request, self.context_length, self._vocabulary)
        return _Asked(next(self._numbers), request, self)

    def _call(self, method: str, argument: object) -> Any:
        task = _Asked(next(self._numbers), argument, self)
        self._send(method, [task])
        task.ended.wait()
        if task.error is not None:
            raise task.error
        return task.result

    def _send(self, kind: str, tasks: Sequence[_Asked]) -> None:
        """Waits while the process is started again; raises EngineUnavailableError when it does not start,
        RuntimeError when the engine is closed."""
        with self._state:
            self._state.wait_for(lambda: self._alive or self._closed or self._trouble)
            if self._closed:
                raise RuntimeError("the engine is closed")
            if not self._alive:
                raise EngineUnavailableError(f"llama.cpp does not start again: {self._trouble}")
            for task in tasks:
                self._asked[task.number] = task
        self._write((kind, [(task.number, task.asked) for task in tasks]))

    def _write(self, message: object) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:  # the process is gone: the listener hears it too, and tells whoever waits
            pass

    def cancel(self, number: int) -> None:
        if number in self._asked:
            self._write(("cancel", number))

    # ------------------------------------------------------------------------------------------------- listening

    def _start(self) -> Connection:
        process, connection = _start()
        self._processes[:] = [process]
        return connection

    def _greet(self) -> tuple[int, int]:
        """Open the model in the process that was just started; its context length and vocabulary."""
        try:
            self._connection.send_bytes(self._command)
            told = self._connection.recv()
        except (EOFError, OSError) as error:
            _end(self._processes)
            raise EngineUnavailableError(
                f"llama.cpp ended while it loaded the model ({self._processes[0].returncode})"
            ) from error
        if isinstance(told, BaseException):
            _end(self._processes)
            raise told
        return told  # type: ignore[no-any-return]

    def _listen(self) -> None:
        begun = time.monotonic()
        pause = 0.0
        while True:
            try:
                for number, told in self._connection.recv():
                    self._hear(number, told)
                continue
            except (EOFError, OSError):
                pass
            if not self._lost():
                return
            pause = 0.0 if time.monotonic() - begun > max(pause, 1.0) else min(_LONGEST_PAUSE, max(0.5, 2 * pause))
            begun = time.monotonic()
            if not self._start_again(pause):
                return

    def _hear(self, number: int, told: Any) -> None:
        task = self._asked.get(number)
        if task is None:
            return
        if isinstance(told, End):
            del self._asked[number]
        task.hear(told)

    def _lost(self) -> bool:
        """Tell whoever waits; whether the process is to be started again."""
        with self._state:
            self._alive = False
            lost, self._asked = list(self._asked.values()), {}
            closed = self._closed
        self._connection.close()
        self._processes[0].kill()
        code = self._processes[0].wait()
        if not closed:
            _LOG.error("llama.cpp's process ended (%s) with %s requests open; it is started again", code, len(lost))
        for task in lost:
            task.hear(
                End("cancelled", None if closed else EngineUnavailableError(f"llama.cpp's process ended ({code})"))
            )
        return not closed

    def _start_again(self, pause: float) -> bool:
        while True:
            try:
                with self._state:
                    if self._state.wait_for(lambda: self._closed, pause):
                        return False
                    self._connection = self._start()  # before anybody can close: nobody would end it later
                self.restarts += 1
                self._greet()
            except Exception as error:
                if self._closed:
                    return False
                _LOG.error("llama.cpp does not start again", exc_info=error)
                with self._state:
                    self._trouble = str(error) or type(error).__name__
                    self._state.notify_all()
                pause = min(_LONGEST_PAUSE, max(0.5, 2 * pause))
                continue
            with self._state:
                self._alive, self._trouble = True, ""
                self._state.notify_all()
            return True


class _Asked:
    """What the process was asked, and what came of it so far; for an answer, what `TokenStream` reads."""

    def __init__(self, number: int, asked: Any, engine: LlamaCppProcess) -> None:
        self.number, self.asked = number, asked
        self.ids: Any = SimpleQueue()
        self.logprobs: list[TokenLogprobs] = []
        self.count = 0
        self.finish_reason: FinishReason | None = None
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.result: Any = None
        self._engine = weakref.ref(engine)
        self._telling = threading.Lock()

    @property
    def cancelled(self) -> bool:
        return self.ended.is_set()

    @cancelled.setter
    def cancelled(self, _: bool) -> None:
        engine = self._engine()
        if engine is not None and not self.ended.is_set():
            engine.cancel(self.number)

    def hear(self, told: int | tuple[int, TokenLogprobs] | End) -> None:
        if isinstance(told, int):
            self.count += 1
            self._tell(told)
        elif isinstance(told, End):
            self.finish_reason, self.error, self.result = told.finish_reason, told.error, told.result
            constraint = getattr(self.asked, "constraint", None)
            if constraint is not None:
                constraint.failed = told.failed
            self.ended.set()
            self._tell(told.error)
        else:
            self.logprobs.append(told[1])
            self.hear(told[0])

    def _tell(self, told: int | BaseException | None) -> None:
        with self._telling:
            self.ids.put(told)

    def tell_to(self, hear: Callable[[int | BaseException | None], None]) -> None:
        with self._telling:
            while not self.ids.empty():
                hear(self.ids.get())
            self.ids = _Hearing(hear)


class _Hearing:
    """A queue that nothing waits in."""

    def __init__(self, hear: Callable[[int | BaseException | None], None]) -> None:
        self.put = hear


class _ProcessStream(TokenStream):
    """See `Stream`, and `SubscribableStream`: ids are handed on by the thread that hears the process."""

    def __init__(self, task: _Asked) -> None:
        super().__init__(task)
        self._asked = task

    def subscribe(self, hear: Callable[[int | BaseException | None], None]) -> None:
        def heard(told: int | BaseException | None) -> None:
            self._ended = self._ended or not isinstance(told, int)
            hear(told)

        self._asked.tell_to(heard)


def _start() -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = Pipe()
    with theirs:
        # a session of its own: Ctrl-C in the terminal is for the server, which lets answers end
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {_CHILD} import main; main({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
    return process, ours


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        end_process(process, _SECONDS_TO_END)


# ----------------------------------------------------------------------------------------------- inside the process
