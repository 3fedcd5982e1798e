"""Ctrl-C, SIGTERM and SIGHUP: a command ends within a second, or at the next safe point, and leaves no process behind.

Python runs a signal's handler between two steps of the main thread: a library that loads a model for a minute lets it
wait, and an exception that is raised inside a callback may be lost. So a thread watches too, which the kernel tells of
each signal at once: if the command has not ended by itself after `GRACE_SECONDS`, the thread ends it with all that it
started. What a command writes appears when it is complete, so that it may end at any moment.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hanlin.core.process import adopt_orphans, kill_descendants

GRACE_SECONDS = 0.7
"""What a command may take to end by itself: engines are closed, scratch files deleted."""
_REPEATED_SECONDS = 0.3
"""A second signal within this time is the first once more: a terminal and a launcher may both send it."""
_SECONDS_TO_RAISE_AGAIN = 0.05
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Terminated(SystemExit):
    """SIGTERM or SIGHUP ends the command; `code` is 128 and the signal's number, as shells say it."""


class _State:
    """What the handlers, the watching thread and the command tell each other."""

    safe_points = 0
    own_interrupts = 0
    announce: Callable[[bool], None] | None = None
    deferred: int | None = None
    """A signal that came during an import, until it is raised."""
    raised_again = 0
    is_watched = False


def install() -> None:
    """Let the three signals end this command; those that it was started to ignore (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    watched = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in watched:
        signal.signal(number, _on_signal)
    if os.name != "posix":
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _State.is_watched = True
    threading.Thread(target=_watch, args=(reading, frozenset(watched)), name="signals", daemon=True).start()


@contextmanager
def safe_point_ahead() -> Iterator[None]:
    """Inside, the command waits for the next safe point of its work and is not ended before, but by a second signal."""
    _State.safe_points += 1
    try:
        yield
    finally:
        _State.safe_points -= 1


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C is the caller's business: in a chat it ends an answer, not the command."""
    _State.own_interrupts += 1
    try:
        yield
    finally:
        _State.own_interrupts -= 1


def on_announcement(announce: Callable[[bool], None]) -> None:
    """Have `announce` called when work begins (True) or ceases (False) to end at safe points of its own."""
    _State.announce = announce


def announce_safe_points(begin: bool) -> None:
    """Say that from now on an interrupt ends this work at its next safe point, as training does, or no more."""
    if _State.announce is not None:
        _State.announce(begin)


def interrupt_unless_importing(number: int, frame: FrameType | None) -> None:
    """A handler of Ctrl-C for a process that is ended by its parent if it does not end by itself."""
    if not _is_importing(frame):
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported. What is raised there may have to pass C++ that lets nothing through: one of
    13 signals at the start of a server ended in SIGABRT when torch.distributed was imported.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _on_signal(number: int, frame: FrameType | None) -> None:
    adopt_orphans()  # not before: a server would collect the remains of what its children start
    if _State.is_watched and not _State.own_interrupts and _is_importing(frame):
        _State.deferred = number
        return
    _State.deferred = None
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(128 + number)


def _watch(reading: int, watched: frozenset[int]) -> None:
    first, deadline, ending = 0.0, None, 0
    while True:
        left = None if deadline is None else min(_SECONDS_TO_RAISE_AGAIN, max(0.0, deadline - time.monotonic()))
        ready, _, _ = select.select([reading], [], [], left)
        now = time.monotonic()
        if not ready and deadline is not None and now < deadline:
            if _State.deferred is not None:
                _State.raised_again += 1
                _thread.interrupt_main(_State.deferred)
            continue
        if not ready:
            if not _State.safe_points:
                _end(ending)
            deadline = now + GRACE_SECONDS
            continue
        data = os.read(reading, 64)
        if not data:
            return
        for number in data:
            if number not in watched or (number == signal.SIGINT and _State.own_interrupts):
                continue
            if _State.raised_again and number == ending:
                _State.raised_again -= 1
                continue
            if deadline is None:
                adopt_orphans()
                first, deadline, ending = now, now + GRACE_SECONDS, number
            elif now - first > _REPEATED_SECONDS:
                _end(number)


def _end(number: int) -> None:
    """End this process and all that it started, now."""
    kill_descendants()
    for stream in (sys.stdout, sys.stderr):
        try:
            os.write(stream.fileno(), b"\n" if stream.isatty() else b"")
        except (OSError, ValueError):
            pass
    os._exit(128 + number)
