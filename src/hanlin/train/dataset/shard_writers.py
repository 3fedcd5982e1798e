"""Forked processes that write the shards of encoded records."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from hanlin.core.process import die_with_parent, forks

_TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"


class ShardWriters:
    """Runs jobs that each write one file at once or not at all, at most `processes` at a time.

    A job runs in a child forked for it: the child has all data in memory and hands over nothing but its file. If a
    child fails, its job runs again in this process, so that the error is raised here, for the first job that has one.
    On leaving, no child is left writing; if this process is killed, Linux ends its children. With one process, or
    elsewhere than on Linux, every job runs here.

    A child must use no thread pool that was started before: it encodes with the tokenizers library on one thread, and
    never with torch.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes if sys.platform == "linux" and forks() else 1
        self._running: deque[tuple[int, Callable[[], None]]] = deque()
        self._threads_before: str | None = None

    def __enter__(self) -> Self:
        if self._processes > 1:
            self._threads_before = os.environ.get(_TOKENIZER_THREADS)
            os.environ[_TOKENIZER_THREADS] = "false"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._running and error is None:
                self._wait_for_oldest()
        finally:
            for child, _ in self._running:
                os.kill(child, signal.SIGKILL)
            for child, _ in self._running:
                os.waitpid(child, 0)
            self._running.clear()
            if self._processes > 1:
                os.environ.pop(_TOKENIZER_THREADS)
                if self._threads_before is not None:
                    os.environ[_TOKENIZER_THREADS] = self._threads_before

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job, when one of the running ones has ended if there are as many as allowed."""
        if self._processes == 1:
            job()
            return
        if len(self._running) == self._processes:
            self._wait_for_oldest()
        self._running.append((_fork(job), job))

    def _wait_for_oldest(self) -> None:
        child, job = self._running[0]
        _, status = os.waitpid(child, 0)
        self._running.popleft()
        if status:
            job()


def _fork(job: Callable[[], None]) -> int:
    """Run a job in a child process; return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads: see the class
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it, and ends its children
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        gc.disable()  # it would touch, and so copy, every page of the parent's objects
        job()
        code = 0
    finally:
        os._exit(code)  # the parent runs the job again and raises the error
