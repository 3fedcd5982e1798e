"""The processes in which grammars of clients are compiled and stepped, each of them for one answer.

    server or engine --connect--> socket --accept--> worker (a fork of the grammar process, ended by the kernel)
        REQUEST grammar            ------------->    rewrite, compile
        COMPILED grammar | ERROR   <-------------
        MASK | FAILED              <-------------    which ids may come first
        TOKEN id                   ------------->    step
        MASK | FAILED              <-------------    which ids may come next

A few hundred bytes of schema can cost minutes and gigabytes, and native code that runs cannot be interrupted. So each
answer has a process of its own with limits that the kernel enforces: processor and wall time of each step, processor
time of the whole answer, memory. A worker over a limit is gone at once, with its memory; its client sees the end of the
connection. Workers are forked ahead of time from a process that has loaded the tokenizer, so that one is always there,
and one that stayed small is used again: a fork, and the pages that it copies, cost more than a common schema.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from hanlin.core.i18n import tr
from hanlin.serve.gbnf.lark import gbnf_to_lark
from hanlin.serve.gbnf.syntax import is_gbnf
from hanlin.serve.json_schema import SchemaError, rewrite_schema
from hanlin.tokenizer.tokenizer import Tokenizer

with suppress(ImportError):  # Windows has no such module, and runs no such process
    import resource

REQUEST, COMPILED, ERROR, MASK, FAILED, TOKEN = range(6)
HEADER = struct.Struct("<BI")
"""Of each message: its kind, and the bytes that follow."""
_TOKEN_ID = struct.Struct("<I")
_SPARE_WORKERS = 2
_REAP_SECONDS = 1.0
_IDLE_SECONDS = 30.0
"""A worker that was used before ends after so long without a client."""
_MAX_REUSED_BYTES = 32 * 2**20
"""A worker that has grown by more is not used again: its memory comes back."""
_NICE = 10
"""How much the worker of a costly grammar stands back for the engines, the server and other answers; it ends after it.
A grammar that is compiled once more for the process of an engine is not costly if a first attempt was enough."""
_TAKEN, _FREE = 0, 1
_STATE = struct.Struct("<II")
"""What a worker tells the grammar process: its process id, and whether it is taken or free."""
_NO_TEXT = "NoExtensionBias"
"""What llguidance calls it that no token may come next, and the answer may not end either."""
MAX_SCHEMA_CHARS = 64 * 2**10
MAX_REWRITTEN_CHARS = 4 * MAX_SCHEMA_CHARS
FLEXIBLE_JSON: Any = {"whitespace_flexible": True, "whitespace_pattern": " ?"}
"""White space between the parts of JSON is at most one space: a small model that may write more writes little else."""
COMPACT_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The spelling of `json.dumps`, in which tool calls are trained."""


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """What one grammar may cost.

    Attributes:
        quick_seconds: Processor time of a first attempt to compile it, which nobody has to wait for: common schemas
            take 2 to 7 ms, one of 200 nested properties 28 ms.
        quick_bytes: Memory of that attempt, beyond what an idle worker has.
        compile_seconds: Processor time of the second attempt, of which only a few run at once.
        step_seconds: Processor time of any later step.
        total_seconds: Processor time of all steps of an answer.
        wall_seconds: Wall time of compiling, and of any step; on a quiet machine the processor time comes first.
        memory_bytes: Memory beyond what an idle worker has.
    """

    quick_seconds: float = 0.05
    quick_bytes: int = 48 * 2**20
    compile_seconds: float = 1.0
    step_seconds: float = 0.5
    total_seconds: float = 60.0
    wall_seconds: float = 20.0
    memory_bytes: int = 256 * 2**20


LIMITS = GrammarLimits()


class GrammarError(ValueError):
    """A grammar that cannot be used. The message is for the client."""


def make_ll_tokenizer(tokenizer: Tokenizer, stop_ids: Sequence[int]) -> LLTokenizer:
    """The vocabulary as llguidance reads it; `stop_ids` end an answer."""
    return LLTokenizer(TokenizerWrapper(_LlguidanceVocab(tokenizer, stop_ids)), eos_token=list(stop_ids))


class _LlguidanceVocab:
    """What llguidance asks of a tokenizer: the bytes of each id, and which ids are never text (marked by 0xFF)."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        special = tokenizer.special_ids | set(stop_ids)
        self.tokens = [
            b"\xff" + str(token_id).encode() if token_id in special else tokenizer.token_bytes(token_id)
            for token_id in range(len(tokenizer))
        ]
        self.special_token_ids = sorted(special)
        self.eos_token_id = stop_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, continuation=True)


def compile_grammar(request: Mapping[str, Any]) -> tuple[str, Any]:
    """The grammar of llguidance for a request of a client.

    Args:
        request: `kind` (`json`, `regex`, `choice`, `grammar`, `lark`), `value`, for JSON `compact`, and `before`:
            empty, or Lark of an answer in which the grammar is `@answer`.

    Returns:
        The grammar, and the value as other engines are to get it: a schema is rewritten.

    Raises:
        GrammarError: It is too long, or no grammar.
    """
    grammar, value = _compile_value(request)
    return _put_before(request["before"], grammar) if request["before"] else grammar, value


def _put_before(before: str, grammar: str) -> str:
    """Lark whose `@answer` is a grammar, which is in llguidance's JSON or in Lark."""
    is_json = grammar.lstrip().startswith("{")
    answer, *others = json.loads(grammar)["grammars"] if is_json else [{"lark_grammar": grammar}]
    whole = {"name": "whole", "lark_grammar": before}
    return json.dumps({"grammars": [whole, {**answer, "name": "answer"}, *others]}, ensure_ascii=False)


def _compile_value(request: Mapping[str, Any]) -> tuple[str, Any]:
    """The grammar of the value alone; see `compile_grammar`."""
    kind, value = request["kind"], request["value"]
    try:
        if kind == "json":
            value = rewrite_schema(value)
            text = json.dumps(value, ensure_ascii=False)
            if len(text) > MAX_REWRITTEN_CHARS:  # targets of references are copied
                what = tr(
                    "the schema is longer than {max_schema_chars} characters", max_schema_chars=MAX_REWRITTEN_CHARS
                )
                raise GrammarError(what)
            overrides = COMPACT_JSON if request["compact"] else FLEXIBLE_JSON
            return LLMatcher.grammar_from_json_schema(text, overrides=overrides), value
        if kind == "lark":  # of the server itself
            return LLMatcher.grammar_from_lark(value), value
        if kind == "grammar":
            return _compile_any_grammar(value), value
        regex = value if kind == "regex" else f"({'|'.join(map(escape_regex, value))})"
        return LLMatcher.grammar_from_regex(regex), value
    except (SchemaError, ValueError, RecursionError) as error:
        raise GrammarError(str(error)) from error


def _compile_any_grammar(grammar: str) -> str:
    """Raises ValueError for what is neither GBNF nor Lark."""
    compiled: str = LLMatcher.grammar_from_lark(gbnf_to_lark(grammar) if is_gbnf(grammar) else grammar)
    return compiled


def escape_regex(text: str) -> str:
    """A text as a regular expression of llguidance, in which `/` has no meaning and a letter must not be escaped."""
    return "".join(f"\\x{{{ord(char):x}}}" if not char.isalnum() else char for char in text)


def make_matcher(ll_tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A grammar at its start. Raises GrammarError if it is malformed or larger than llguidance's own limits."""
    limits = LLParserLimits(
        max_items_in_row=1000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=25_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )
    matcher = LLMatcher(ll_tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise GrammarError(matcher.get_error())
    return matcher


# -------------------------------------------------------------------------------------------------- messages


def send_message(connection: socket.socket, kind: int, content: bytes) -> None:
    """Send one message, whole."""
    connection.sendall(HEADER.pack(kind, len(content)) + content)


def _receive_message(connection: socket.socket) -> tuple[int, bytes]:
    """Wait for one message. Raises EOFError if the other side is gone."""
    kind, size = HEADER.unpack(_receive(connection, HEADER.size))
    return kind, _receive(connection, size)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


# ------------------------------------------------------------------------------------------------- in a worker


def _own_bytes() -> tuple[int, int]:
    """This process's address space, and what of it is in memory; zeros if the system does not say."""
    try:
        reserved, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    except OSError:  # not Linux
        return 0, 0
    return int(reserved) * resource.getpagesize(), int(resident) * resource.getpagesize()


def _limit_memory() -> None:
    """Let the kernel refuse memory beyond the limit; a refusal ends the process, in native code and in Python."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reserved, _ = _own_bytes()
    if reserved:  # elsewhere time alone is limited
        resource.setrlimit(resource.RLIMIT_AS, (reserved + LIMITS.memory_bytes,) * 2)


@contextmanager
def _limit_compiling(is_first_attempt: bool) -> Iterator[None]:
    """The limits of time and memory to compile a grammar; those of memory are lifted again to the worker's own."""
    _, largest = resource.getrlimit(resource.RLIMIT_AS)
    if is_first_attempt and largest != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (min(largest, _own_bytes()[0] + LIMITS.quick_bytes), largest))
    _limit_time(LIMITS.quick_seconds if is_first_attempt else LIMITS.compile_seconds)
    try:
        yield
    finally:
        _limit_time(0)
        resource.setrlimit(resource.RLIMIT_AS, (largest, largest))


def _limit_time(cpu_seconds: float) -> None:
    """Have the kernel end this process after so much processor time, or the wall time; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, LIMITS.wall_seconds if cpu_seconds else 0)


def _answer(connection: socket.socket, ll_tokenizer: LLTokenizer) -> None:
    """Compile the grammar that is asked for, then step it until the client is gone."""
    _, content = _receive_message(connection)
    total = 1 + round(sum(os.times()[:2]) + LIMITS.total_seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (total, resource.RLIM_INFINITY))
    request = json.loads(content)
    if request["is_costly"]:
        os.nice(_NICE)
    try:
        with _limit_compiling(request["is_first_attempt"]):
            grammar, value = (request["grammar"], None) if "grammar" in request else compile_grammar(request)
            matcher = make_matcher(ll_tokenizer, grammar)
            first = matcher.compute_bitmask()
            if matcher.is_error():
                raise GrammarError(tr("no text fits it") if _NO_TEXT in matcher.get_error() else matcher.get_error())
    except (GrammarError, RecursionError) as error:
        send_message(connection, ERROR, str(error).encode("utf-8", "replace"))
        return
    send_message(connection, COMPILED, json.dumps([grammar, value]).encode())
    send_message(connection, MASK, first)
    while True:
        _, content = _receive_message(connection)
        (token_id,) = _TOKEN_ID.unpack(content)
        _limit_time(LIMITS.step_seconds)
        matcher.consume_token(token_id)
        mask = matcher.compute_bitmask()
        _limit_time(0)
        if matcher.is_error():
            send_message(connection, FAILED, matcher.get_error().encode("utf-8", "replace"))
            return
        send_message(connection, MASK, mask)


def pack_token(token_id: int) -> bytes:
    """The content of a TOKEN message."""
    return _TOKEN_ID.pack(token_id)


def _work(listener: socket.socket, control: int, states: int, ll_tokenizer: LLTokenizer) -> None:
    """The life of a worker: wait for a client, tell the grammar process, answer; again as long as it stays small and
    has not stood back.
    """
    listener.setblocking(False)
    _, base_bytes = _own_bytes()
    priority = os.nice(0)
    _limit_memory()
    idle_seconds = None
    while True:
        readable, _, _ = select.select([listener.fileno(), control], [], [], idle_seconds)
        if control in readable or not readable:  # the server is gone, or there are workers enough
            return
        try:
            connection, _ = listener.accept()
        except BlockingIOError:  # another worker was faster
            continue
        os.write(states, _STATE.pack(os.getpid(), _TAKEN))
        connection.setblocking(True)
        with suppress(EOFError, OSError), connection:  # the client is gone
            _answer(connection, ll_tokenizer)  # out of memory in Python, the worker ends as it does in native code
        if _own_bytes()[1] - base_bytes > _MAX_REUSED_BYTES or os.nice(0) > priority:
            return
        os.write(states, _STATE.pack(os.getpid(), _FREE))
        idle_seconds = _IDLE_SECONDS


# ---------------------------------------------------------------------------------------- in the grammar process


def _fork_worker(listener: socket.socket, control: int, states: tuple[int, int], ll_tokenizer: LLTokenizer) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.close(states[0])
        _work(listener, control, states[1], ll_tokenizer)
    except BaseException:  # nobody reads a traceback here; whoever asked sees the connection end
        pass
    finally:
        os._exit(0)


def _reap() -> set[int]:
    """The workers that have ended since the last call."""
    ended: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.add(pid)


def main(listener_descriptor: int, control: int, folder: str, stop_ids: Sequence[int]) -> None:
    """Keep spare workers waiting until the server is gone.

    Args:
        listener_descriptor: The listening socket.
        control: A pipe that ends with the server.
        folder: Folder of the tokenizer's files.
        stop_ids: Ids that end an answer.
    """
    listener = socket.socket(fileno=listener_descriptor)
    ll_tokenizer = make_ll_tokenizer(Tokenizer.load(Path(folder)), stop_ids)
    gc.collect()
    gc.freeze()  # else a collection in a worker would copy all that it shares
    states = os.pipe()
    spare: set[int] = set()
    started = time.monotonic()
    while True:
        while len(spare) < _SPARE_WORKERS:
            spare.add(_fork_worker(listener, control, states, ll_tokenizer))
        readable, _, _ = select.select([states[0], control], [], [], _REAP_SECONDS)
        if control in readable:
            break
        if states[0] in readable:
            for pid, state in _STATE.iter_unpack(os.read(states[0], 512 * _STATE.size)):
                if state == _TAKEN:
                    spare.discard(pid)
                else:
                    spare.add(pid)
        lost = _reap() & spare
        spare -= lost
        if lost and time.monotonic() - started < _REAP_SECONDS:
            time.sleep(_REAP_SECONDS)  # something ends every worker: do not fork in a circle
        started = time.monotonic()
    socket_file = Path(listener.getsockname())
    shutil.rmtree(socket_file.parent, ignore_errors=True)  # a server that was killed could not
    sys.exit(0)
