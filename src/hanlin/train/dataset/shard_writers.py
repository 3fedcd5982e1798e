"""Shards of encoded records, written by processes beside this one where that is faster.

Owns the processes. Does not own what a shard is (`rows`).
"""

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

from hanlin.core.process import die_with_parent

_LIBRARY_THREADS = "TOKENIZERS_PARALLELISM"


class ShardWriters:
    """Runs pieces of work, each of which writes one file at once or not at all, at most `processes` at a time.

    A piece is done by a child of this process, forked for it: it finds all in memory, and hands over nothing but its
    file. Where a child fails, the piece is done again here, so that the error is raised here, for the first piece that
    has one. On leaving, nobody is left writing; where this process is killed, Linux ends its children. With one
    process, or elsewhere than on Linux, all is done here.

    A child must use no thread pool that was started before: it encodes with the tokenizers library on one thread, and
    never with torch.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes if sys.platform == "linux" else 1
        self._running: deque[tuple[int, Callable[[], None]]] = deque()
        self._threads: str | None = None

    def __enter__(self) -> Self:
        if self._processes > 1:
            self._threads = os.environ.get(_LIBRARY_THREADS)
            os.environ[_LIBRARY_THREADS] = "false"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._running and error is None:
                self._wait()
        finally:
            for child, _ in self._running:
                os.kill(child, signal.SIGKILL)
            for child, _ in self._running:
                os.waitpid(child, 0)
            self._running.clear()
            if self._processes > 1:
                os.environ.pop(_LIBRARY_THREADS)
                if self._threads is not None:
                    os.environ[_LIBRARY_THREADS] = self._threads

    def do(self, work: Callable[[], None]) -> None:
        if self._processes == 1:
            work()
            return
        if len(self._running) == self._processes:
            self._wait()
        self._running.append((_forked(work), work))

    def _wait(self) -> None:
        """Wait for the piece that was begun first."""
        child, work = self._running[0]
        _, status = os.waitpid(child, 0)
        self._running.popleft()
        if status:
            work()


def _forked(work: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads: see the class
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends its children
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        gc.disable()  # it would touch, and so copy, every page of the parent's objects
        work()
        code = 0
    finally:
        os._exit(code)  # of what went wrong the parent tells, when it has done the same
