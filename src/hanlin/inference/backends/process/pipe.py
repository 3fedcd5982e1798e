"""The pipe between an engine's process and its parent: inherited if processes can inherit, else found by its address.

Windows hands no descriptors to a child, so that the child connects to an address (a named pipe) with a key that it
reads from its standard input: no other process of the machine knows it.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener, Pipe
from multiprocessing.context import AuthenticationError
from typing import Any

from hanlin.core.process import forks, python_command, start_process

_KEY_BYTES = 32
_POLL_SECONDS = 0.05
_OPTIONS: dict[str, Any] = {
    "changes": {"GGML_NO_BACKTRACE": "1"},  # ggml's traces would start a debugger
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.PIPE,
    # a session of its own: Ctrl-C in the terminal is for the server, which lets answers end
    "start_new_session": True,
}


def start_child(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that calls `main` of a module with its end of a pipe; returns it with the parent's end."""
    return _start_with_inherited_pipe(module) if forks() else _start_with_address(module)


def _start_with_inherited_pipe(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    parent_end, child_end = Pipe()
    with child_end:
        end = child_end.fileno()
        command = python_command("-c", f"from {module} import main; main({end})")
        process = start_process(command, pass_fds=[end], stdin=subprocess.DEVNULL, **_OPTIONS)
    return process, parent_end


def _start_with_address(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    key = secrets.token_bytes(_KEY_BYTES)
    with Listener(authkey=key) as listener:
        command = python_command("-c", f"from {module} import main; main({listener.address!r})")
        process = start_process(command, stdin=subprocess.PIPE, **_OPTIONS)
        assert process.stdin is not None
        with suppress(OSError), process.stdin:  # it has ended already
            process.stdin.write(key)
        return process, _accept(listener, process, key)


def _accept(listener: Listener, process: subprocess.Popen[bytes], key: bytes) -> Connection:
    """The connection of the child; one that has no other end if the child ends before it connects."""
    accepted: list[Any] = []

    def accept() -> None:
        while not accepted:
            with suppress(AuthenticationError, EOFError, ConnectionError):  # of another program, without the key
                accepted.append(listener.accept())

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if process.poll() is not None and thread.is_alive():
            with suppress(OSError):
                Client(listener.address, authkey=key).close()  # nobody else will connect
            thread.join()
    connection: Connection = accepted[0]
    return connection


def open_child_end(end: int | str) -> Connection:
    """The child's end of the pipe: a descriptor that it inherited, or an address."""
    if isinstance(end, int):
        return Connection(end)
    key = sys.stdin.buffer.read(_KEY_BYTES)
    return Client(end, authkey=key)
