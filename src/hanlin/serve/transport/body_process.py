"""A process that reads the bodies that cost much, so that nobody else waits for them.

Reading JSON and checking it against the fields of a request are single calls of native code, which hold the
interpreter's lock from their beginning to their end: a stream beside 140,000 keys paused for half a second. So a body
of many values is read in a child with limits on time and memory, and comes back as the request or as an error:

    parent:  name of the request's class         -->  child
    child:   READY, when it has imported it      -->  parent
    parent:  body                                -->  child
    child:   the request (pickled), or an error  -->  parent

What the child gives back is built in Python, object by object, and is not checked again.
"""

from __future__ import annotations

import importlib
import os
import pickle
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from hanlin.core.i18n import tr
from hanlin.core.process import end_process, peak_host_memory, python_command, start_process
from hanlin.serve.errors import ApiError

_HEADER = struct.Struct("<BI")
"""Of each message: its kind, and the bytes that follow."""
_CLASS, _READY, _BODY, _READ, _REFUSED, _FAILED = range(6)
_LAST = 16
"""Added to the kind of a reply after which the child ends."""
_CHILD = "from hanlin.serve.transport.body_process import main; main()"
_NICE = 10
"""How much the child stands back for the engines and the server where processors are few."""
_MAX_REUSED_BYTES = 512 << 20
"""A child that has grown further ends, so that its memory comes back."""
MEMORY_BYTES = 4 << 30
"""Of address space of the child; a body of 8 MB with a million values takes 0.2 GB of that, the libraries one."""
SECONDS_TO_START = 300.0
SECONDS_TO_READ = 60.0
"""Wall time of a body. A quiet machine needs one second, and one or two before if the child has to start."""


class BodyProcess:
    """Reads bodies in a child, one at a time. Any thread may ask; the child is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._closing = weakref.finalize(self, _end, self._children)

    @property
    def process_id(self) -> int | None:
        """The child's, if there is one."""
        return self._children[0].pid if self._children else None

    def parse(self, body_class: type, body: bytes) -> Any:
        """The same as `body_class.parse(body)`.

        Raises:
            ApiError: What the body's class raises; 413 for a body that takes too much time or memory, 503 if there can
                be no child.
        """
        name = f"{body_class.__module__}:{body_class.__qualname__}".encode()
        with self._lock:
            try:
                child = self._get_child()
            except OSError as error:
                raise _cannot_start() from error
            is_ready = False
            try:
                assert child.stdin is not None and child.stdout is not None
                with _time_limit(child, SECONDS_TO_START):
                    _send(child.stdin, _CLASS, name)
                    kind, content = _receive(child.stdout)
                is_ready = True
                if kind == _READY:
                    with _time_limit(child, SECONDS_TO_READ):
                        _send(child.stdin, _BODY, body)
                        kind, content = _receive(child.stdout)
            except (OSError, EOFError) as error:  # it was ended at a limit, or by somebody
                _end(self._children)
                if not is_ready:
                    raise _cannot_start() from error
                raise ApiError(413, tr("the body takes too much time or memory to read")) from error
            if kind & _LAST:
                _end(self._children)
                kind -= _LAST
        if kind == _READ:
            return pickle.loads(content)
        if kind == _REFUSED:
            status, message, param, code, retry_after = pickle.loads(content)
            raise ApiError(status, message, param=param, code=code, retry_after=retry_after)
        raise RuntimeError(content.decode("utf-8", "replace"))

    def close(self) -> None:
        """End the child, whatever it reads; harmless when repeated. It is started again if a further body needs it."""
        for child in [*self._children]:
            child.kill()
        with self._lock:
            _end(self._children)

    def _get_child(self) -> subprocess.Popen[bytes]:
        if self._children and self._children[0].poll() is None:
            return self._children[0]
        _end(self._children)
        child = start_process(python_command("-c", _CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._children.append(child)
        return child


@contextmanager
def _time_limit(child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kill a child that takes longer, which ends whatever waits for it."""
    timer = threading.Timer(seconds, child.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cannot_start() -> ApiError:
    return ApiError(503, tr("the server cannot start a process to read the body: try again"), retry_after=1)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    while children:
        child = children.pop()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        child.kill()
        end_process(child, 0.0, terminate=False)


def _send(pipe: IO[bytes], kind: int, content: bytes) -> None:
    pipe.write(_HEADER.pack(kind, len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[int, bytes]:
    """Wait for one message. Raises EOFError if the other side is gone."""
    kind, size = _HEADER.unpack(_read(pipe, _HEADER.size))
    return kind, _read(pipe, size)


def _read(pipe: IO[bytes], size: int) -> bytes:
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError
    return content


# --------------------------------------------------------------------------------------------------- in the child


def main() -> None:
    """Read bodies until the parent is gone, which ends the input.

    The kernel is not asked to end this process with its parent: it would with the thread that started it.
    """
    _limit_memory()
    if hasattr(os, "nice"):
        os.nice(_NICE)
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else gets between the replies
    with suppress(EOFError, OSError):
        while True:
            _, name = _receive(requests)
            try:
                module, _, class_name = name.decode().partition(":")
                body_class = getattr(importlib.import_module(module), class_name)
            except Exception as error:
                _send(replies, *_describe(error))
                continue
            _send(replies, _READY, b"")
            _, body = _receive(requests)
            kind, content = _answer(body_class, body)
            is_last = (peak_host_memory() or 0) > _MAX_REUSED_BYTES
            _send(replies, kind + _LAST * is_last, content)
            if is_last:
                return


def _answer(body_class: Any, body: bytes) -> tuple[int, bytes]:
    try:
        return _READ, pickle.dumps(body_class.parse(body), pickle.HIGHEST_PROTOCOL)
    except ApiError as error:
        fields = (error.status, error.message, error.param, error.code, error.retry_after)
        return _REFUSED, pickle.dumps(fields)
    except MemoryError:
        raise SystemExit(1) from None
    except Exception as error:
        return _describe(error)


def _describe(error: Exception) -> tuple[int, bytes]:
    """A mistake of ours, which the parent logs as its own."""
    return _FAILED, f"{type(error).__name__}: {error}"[:1000].encode("utf-8", "replace")


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's clock alone
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
