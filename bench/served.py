"""What the benchmarks of serving share: servers for the time of a run, and a client that costs next to nothing."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_CONTENT = re.compile(rb'"content": ?"[^"]')


@dataclass
class Server:
    """A server that was started: its port, the model's name there, and its process."""

    name: str
    port: int
    model: str
    process: subprocess.Popen[bytes]

    def peak_bytes(self) -> int:
        """The most memory that it and what it started have held, each at its own time."""
        return sum(_peak(number) for number in _family(self.process.pid))

    def cpu_seconds(self) -> float:
        """What it and what it started have computed so far."""
        return sum(_computed(number) for number in _family(self.process.pid))

    def bytes_now(self) -> int:
        return sum(_memory(number, "VmRSS") for number in _family(self.process.pid))


@contextmanager
def running(
    name: str, command: Sequence[str], port: int, model: str, health: str = "/v1/models", **environment: str
) -> Iterator[Server]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        begun = time.monotonic()
        while not _well(port, health):
            if process.poll() is not None or time.monotonic() - begun > 900:
                raise SystemExit(f"{name} does not start: {' '.join(command)}")
            time.sleep(0.2)
        yield Server(name, port, model, process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass
class Heard:
    """One streamed answer: seconds to the first text and to the end, the text, and why it ended."""

    first: float = 0.0
    last: float = 0.0
    text: str = ""
    finish: str = ""
    status: int = 0
    pieces: int = 0
    raw: bytearray = field(default_factory=bytearray)
    times: list[tuple[int, float]] = field(default_factory=list)


def ask_all(port: int, bodies: Sequence[Mapping[str, Any]], path: str = "/v1/chat/completions") -> list[Heard]:
    """Ask everything at once and read the streams as they come, in one thread; nothing is parsed before the end."""
    begun = time.perf_counter()
    heard = [Heard() for _ in bodies]
    with selectors.DefaultSelector() as selector:
        for one, body in zip(heard, bodies, strict=True):
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            selector.register(client, selectors.EVENT_READ, one)
        left = len(bodies)
        while left:
            for key, _ in selector.select():
                part = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                now = time.perf_counter() - begun
                if part:
                    key.data.raw += part
                    key.data.times.append((len(key.data.raw), now))
                else:
                    key.data.last = now
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    left -= 1
    for one in heard:
        _read(one)
    return heard


def _read(one: Heard) -> None:
    one.status = int(one.raw[9:12] or 0)
    found = _CONTENT.search(one.raw)
    if found:
        one.first = next(seconds for length, seconds in one.times if length >= found.end())
    for line in one.raw.splitlines():
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                text = choice.get("delta", {}).get("content") or ""
                one.text += text
                one.pieces += bool(text)
                one.finish = choice.get("finish_reason") or one.finish


def _well(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _family(number: int) -> list[int]:
    found = [number]
    for one in found:
        try:
            with open(f"/proc/{one}/task/{one}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def _computed(number: int) -> float:
    try:
        with open(f"/proc/{number}/stat", encoding="ascii") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def _peak(number: int) -> int:
    return _memory(number, "VmHWM")


def _memory(number: int, what: str) -> int:
    try:
        with open(f"/proc/{number}/status", encoding="ascii") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith(what + ":")), 0)
    except OSError:
        return 0
