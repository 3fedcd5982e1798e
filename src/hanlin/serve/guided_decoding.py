"""Guided decoding: answers that must be JSON of a schema, or fit a pattern, by masking the ids that may not come next.

The grammar engine is llguidance. It runs in processes of its own (`grammar_worker`), so that no schema of a client can
hold up the server, the engine or other answers. Nothing that a schema refers to (`$ref` with an address) is fetched.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.core.i18n import tr
from hanlin.core.process import available_cores, forks, python_command, start_process
from hanlin.serve.errors import ApiError
from hanlin.serve.grammar_worker import (
    COMPILED,
    ERROR,
    FAILED,
    HEADER,
    LIMITS,
    MASK,
    MAX_REWRITTEN_CHARS,
    MAX_SCHEMA_CHARS,
    REQUEST,
    TOKEN,
    pack_token,
    send_message,
)

_MAX_COMPILING = max(1, min(4, available_cores() // 2))
"""How many that take long are compiled at once: half of the cores are left for the engines. With the memory of a worker
this bounds what compiling can take."""
_MAX_SLOW = 16
"""How many that take long are compiled or wait for it."""
_MAX_UNUSED = 8
"""Compiled grammars that keep their worker while their answer waits for its turn; others are compiled once more."""
_SECONDS_TO_START = 120.0
"""For the first grammar, until the tokenizer is loaded."""
_MAX_SOCKET_PATH = 103
_BACKLOG = 512


class GrammarCompiler:
    """Compiles JSON schemas to constraints over the vocabulary of one tokenizer. Safe to use from any thread.

    Args:
        stop_ids: Ids that end an answer; allowed only where the JSON is complete.
        folder: Folder of the tokenizer's files, from which the grammar process reads it.
    """

    def __init__(self, stop_ids: Sequence[int], folder: Path) -> None:
        self.stop_ids = tuple(stop_ids)
        self.folder = folder
        self._process = _GrammarProcess(folder, self.stop_ids)
        self._compiling = threading.BoundedSemaphore(_MAX_COMPILING)
        self._counting = threading.Lock()
        self._num_slow = 0
        self._unused: deque[weakref.ref[GrammarConstraint]] = deque()

    def compile_schema(
        self, schema: Mapping[str, Any], param: str, compact: bool = False, before: str = ""
    ) -> GrammarConstraint:
        """A constraint to JSON that conforms to `schema`.

        Args:
            schema: JSON schema, as the client sent it.
            param: The request field that holds it, named in errors.
            compact: Spell the JSON as `json.dumps` does, without optional white space.
            before: Lark of an answer in which something comes before the JSON, which is `@answer` there.

        Raises:
            ApiError: 400 for a schema that is too long, too costly, or uses a keyword that is not supported.
        """
        check_schema_length(schema, param)
        return self._compile("json", schema, param, compact, before)

    def compile_regex(self, regex: str, param: str, before: str = "") -> GrammarConstraint:
        """A constraint to text that a regular expression matches as a whole; errors as in `compile_schema`."""
        _check_length(regex, param)
        return self._compile("regex", regex, param, before=before)

    def compile_choice(self, choices: Sequence[str], param: str, before: str = "") -> GrammarConstraint:
        """A constraint to one of some texts; errors as in `compile_schema`."""
        _check_length("|".join(choices), param)
        return self._compile("choice", list(choices), param, before=before)

    def compile_grammar(self, grammar: str, param: str, before: str = "") -> GrammarConstraint:
        """A constraint to a grammar in GBNF (llama.cpp's) or Lark (vLLM's); errors as in `compile_schema`."""
        _check_length(grammar, param)
        return self._compile("grammar", grammar, param, before=before)

    def compile_lark(self, lark: str, param: str, before: str = "") -> GrammarConstraint:
        """A constraint to a grammar that the server has written of schemas; errors as in `compile_schema`."""
        _check_length(lark, param, MAX_REWRITTEN_CHARS)
        return self._compile("lark", lark, param, before=before)

    def _compile(self, kind: str, value: Any, param: str, compact: bool = False, before: str = "") -> GrammarConstraint:
        request = {"kind": kind, "value": value, "compact": compact, "before": before}
        compiled = self._try_to_compile({**request, "is_first_attempt": True, "is_costly": False}, param)
        is_costly = compiled is None
        if is_costly:
            with self._enter_slow_lane(param):
                compiled = self._try_to_compile({**request, "is_first_attempt": False, "is_costly": True}, param)
        if compiled is None:
            what = tr(
                "the schema takes more than {seconds:g} s or {megabytes} MB to compile: make it simpler",
                seconds=LIMITS.compile_seconds,
                megabytes=LIMITS.memory_bytes >> 20,
            )
            raise ApiError(400, what, param=param)
        worker, content = compiled
        grammar, rewritten = json.loads(content)
        spec = {"grammar" if kind == "lark" else kind: rewritten}
        constraint = GrammarConstraint(self.address, self.stop_ids, grammar, spec, worker, is_costly=is_costly)
        self._unused.append(weakref.ref(constraint))
        while len(self._unused) > _MAX_UNUSED:
            oldest = self._unused.popleft()()
            if oldest is not None:
                oldest.suspend()
        return constraint

    @property
    def process_id(self) -> int:
        """Of the grammar process; 0 if there is none."""
        return self._process.process_id

    @property
    def address(self) -> str:
        """Path of the socket at which workers are reached."""
        return self._process.address

    def _try_to_compile(self, request: Mapping[str, Any], param: str) -> tuple[_Worker, bytes] | None:
        """A worker that has compiled a grammar, with its answer; None if that took more than it may."""
        worker = _Worker(self._process.connect(), json.dumps(request).encode())
        try:
            if not worker.wait(_SECONDS_TO_START):
                raise ApiError(503, tr("the grammar process does not answer"), param=param, retry_after=5)
            kind, content = worker.take()
            if kind == ERROR:
                raise _grammar_error(content.decode("utf-8", "replace"), param)
        except BaseException:
            worker.close()
            raise
        if kind == COMPILED:
            return worker, content
        worker.close()
        return None

    @contextmanager
    def _enter_slow_lane(self, param: str) -> Iterator[None]:
        """Wait for a turn to compile what takes long. Not many may: they wait in threads that all requests share."""
        with self._counting:
            if self._num_slow >= _MAX_SLOW:
                what = tr("too many schemas that take long to compile: try again")
                raise ApiError(503, what, param=param, code="schemas_busy", retry_after=5)
            self._num_slow += 1
        try:
            with self._compiling:
                yield
        finally:
            with self._counting:
                self._num_slow -= 1

    def close(self) -> None:
        """End the grammar process."""
        self._process.close()


class GrammarConstraint:
    """Implements `Constraint` with a worker. If the grammar fails or outgrows its limits, only the stop ids are
    allowed from then on, and `failed` says why.

    Args:
        address: Where workers are reached.
        stop_ids: Ids that end an answer.
        grammar: The compiled grammar.
        spec: See `Constraint.spec`.
        worker: A worker that has compiled the grammar; None: one is asked when it is first needed.
        is_costly: Whether a first attempt to compile it failed; then its worker stands back for others.

    Attributes:
        begins_with_thought: Whether an answer begins within a thinking block, whose end comes before what it must fit.
    """

    begins_with_thought = False

    def __init__(
        self,
        address: str,
        stop_ids: Sequence[int],
        grammar: str,
        spec: Mapping[str, Any],
        worker: _Worker | None = None,
        is_costly: bool = False,
    ) -> None:
        self._address, self._grammar, self._is_costly = address, grammar, is_costly
        self._stop_ids = frozenset(stop_ids)
        self._worker = worker
        self._starting = threading.Lock()
        self._is_started = False
        self._mask: NDArray[np.bool_] | None = None
        self.spec = spec
        self.failed = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as a fresh constraint of the same grammar, whose worker the other process asks for."""
        self.suspend()
        arguments = (self._address, tuple(self._stop_ids), self._grammar, dict(self.spec), self._is_costly)
        return _restore_constraint, arguments

    def start(self) -> None:
        """Ask for a worker, unless there is one; from now on it is not given back before the end."""
        with self._starting:
            self._is_started = True
            if self._worker is None and not self.failed:
                try:
                    request = {"grammar": self._grammar, "is_first_attempt": False, "is_costly": self._is_costly}
                    self._worker = _Worker(_connect(self._address), json.dumps(request).encode())
                except OSError as error:
                    self.failed = str(error)

    def suspend(self) -> None:
        """Give the worker back if the answer has not begun."""
        with self._starting:
            if not self._is_started and self._worker is not None:
                self._worker.close()
                self._worker = None

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether `allowed_tokens` need not wait; waits up to `seconds` for it."""
        if not self._is_started:
            self.start()
        while self._mask is None and not self.failed:
            worker = self._worker
            assert worker is not None
            if not worker.wait(seconds):
                return False
            kind, content = worker.take()
            if kind == MASK:
                bits = np.frombuffer(content, np.uint8)
                self._mask = np.unpackbits(bits, bitorder="little").view(np.bool_)
            elif kind in (ERROR, FAILED):
                self.failed = content.decode("utf-8", "replace") or "?"
            elif kind != COMPILED:
                self.failed = tr(
                    "a step of the schema takes more than {seconds:g} s or {megabytes} MB",
                    seconds=LIMITS.step_seconds,
                    megabytes=LIMITS.memory_bytes >> 20,
                )
        return True

    def allowed_tokens(self) -> NDArray[np.bool_]:
        """Boolean mask [vocabulary, rounded up to a multiple of 8]: True for ids that may come next."""
        if not self.is_ready(_SECONDS_TO_START) and not self.failed:
            self.failed = tr("the grammar process does not answer")
        mask = self._mask
        if self.failed or mask is None or not mask.any():
            mask = np.zeros(max(0 if mask is None else len(mask), max(self._stop_ids) + 1), np.bool_)
            mask[list(self._stop_ids)] = True
        return mask

    def accept_token(self, token_id: int) -> None:
        """Advance by the id that was chosen."""
        if token_id in self._stop_ids or self.failed or self._worker is None:
            return
        self._mask = None
        self._worker.send(TOKEN, pack_token(token_id))

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()

    def __del__(self) -> None:
        self.close()


def _restore_constraint(
    address: str, stop_ids: tuple[int, ...], grammar: str, spec: dict[str, Any], is_costly: bool
) -> GrammarConstraint:
    constraint = GrammarConstraint(address, stop_ids, grammar, spec, is_costly=is_costly)
    constraint.start()  # so that it is compiled while the prompt is run
    return constraint


class _Worker:
    """A connection to a worker; `request` is sent at once."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self._connection = connection
        self._received = bytearray()
        self._is_lost = False
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self.send(REQUEST, request)

    def send(self, kind: int, content: bytes) -> None:
        try:
            send_message(self._connection, kind, content)
        except OSError:  # the worker is gone: `wait` sees it too
            self._is_lost = True

    def wait(self, seconds: float) -> bool:
        """Whether a message is there, or the worker is gone, after at most `seconds`."""
        deadline = time.monotonic() + seconds
        while not self._is_lost and not self._has_message():
            left = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(left * 1000):
                return False
            try:
                part = self._connection.recv(1 << 18)
            except OSError:
                part = b""
            self._is_lost = not part
            self._received += part
        return True

    def _has_message(self) -> bool:
        if len(self._received) < HEADER.size:
            return False
        return len(self._received) >= HEADER.size + HEADER.unpack_from(self._received)[1]

    def take(self) -> tuple[int, bytes]:
        """The message that is there; of kind -1 if the worker is gone."""
        if not self._has_message():
            return -1, b""
        kind, size = HEADER.unpack_from(self._received)
        content = bytes(self._received[HEADER.size : HEADER.size + size])
        del self._received[: HEADER.size + size]
        return kind, content

    def close(self) -> None:
        self._connection.close()


class _GrammarProcess:
    """The process that forks workers; started with the first grammar, and again if it ends."""

    def __init__(self, folder: Path, stop_ids: Sequence[int]) -> None:
        self._folder, self._stop_ids = folder, tuple(stop_ids)
        self._lock = threading.Lock()
        self._running: list[Any] = []
        self._listener: socket.socket | None = None
        self.address = ""

    @property
    def process_id(self) -> int:
        return self._running[0].pid if self._running else 0

    def connect(self) -> socket.socket:
        """A connection to a worker. Raises OSError if there is none, and ApiError (501) if this system cannot fork."""
        if not forks():
            what = tr("answers in a given form (grammars, JSON schemas, tool calls) need a system that can fork")
            raise ApiError(501, what)
        with self._lock:
            if self._listener is None:
                self._listen()
            if not self._running or self._running[0].poll() is not None:
                self._start()
        return _connect(self.address)

    def _listen(self) -> None:
        folder = tempfile.mkdtemp(prefix="hanlin-grammar-")
        if len(os.fsencode(folder)) + 2 > _MAX_SOCKET_PATH:
            os.rmdir(folder)
            folder = tempfile.mkdtemp(prefix="hanlin-grammar-", dir="/tmp")
        self.address = os.path.join(folder, "s")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(_BACKLOG)
        self._finalizer = weakref.finalize(self, _close, self._running, self._listener, folder)

    def _start(self) -> None:
        assert self._listener is not None
        if self._running:
            _end(self._running)
        control, own_end = os.pipe()
        try:
            listener = self._listener.fileno()
            call = f"main({listener}, {control}, {os.fspath(self._folder)!r}, {self._stop_ids!r})"
            process = start_process(
                python_command("-c", f"from hanlin.serve.grammar_worker import main; {call}"),
                changes={
                    "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
                    "MALLOC_ARENA_MAX": "1",  # an arena more would reserve 64 MB of what a worker may have
                },
                pass_fds=[listener, control],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            os.close(own_end)
            raise
        finally:
            os.close(control)
        self._running[:] = [process, own_end]

    def close(self) -> None:
        """End the process; harmless when repeated."""
        with self._lock:
            if self._listener is not None:
                self._finalizer()


def _connect(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _end(running: list[Any]) -> None:
    process, own_end = running
    os.close(own_end)
    process.kill()
    process.wait()
    running.clear()


def _close(running: list[Any], listener: socket.socket, folder: str) -> None:
    if running:
        _end(running)
    listener.close()
    shutil.rmtree(folder, ignore_errors=True)


def check_schema_length(schema: Any, param: str) -> None:
    """Raises ApiError (400) for a schema, or several, with more characters than are ever looked at."""
    try:
        _check_length(json.dumps(schema, ensure_ascii=False), param)
    except RecursionError as error:
        raise _grammar_error(tr("the schema is nested too deep"), param) from error


def _check_length(text: str, param: str, max_chars: int = MAX_SCHEMA_CHARS) -> None:
    if len(text) > max_chars:
        what = tr("the schema is longer than {max_schema_chars} characters", max_schema_chars=max_chars)
        raise ApiError(400, what, param=param)


def _grammar_error(detail: str, param: str) -> ApiError:
    lines = [line.strip() for line in detail.strip().splitlines()] or ["?"]
    reason = next((line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")), "")
    shown = " ".join(part for part in (lines[0][:200], reason[:200]) if part)  # a pattern's own reason comes last
    return ApiError(400, tr("the schema, pattern or grammar cannot be used: {reason}", reason=shown), param=param)
