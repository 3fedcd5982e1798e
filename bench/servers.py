"""Shared by the serving benchmarks: servers started for a run, and a client that costs next to no CPU time."""

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

CONTENT = re.compile(rb'"content": ?"[^"]')


@dataclass
class Server:
    """A started server: its port, the name of the model there, and its process."""

    name: str
    port: int
    model: str
    process: subprocess.Popen[bytes]

    def peak_bytes(self) -> int:
        """Sum of the peak memory of its processes, each at its own time."""
        return sum(_read_peak_bytes(pid) for pid in _list_process_tree(self.process.pid))

    def cpu_seconds(self) -> float:
        """CPU time of its processes so far."""
        return sum(_read_cpu_seconds(pid) for pid in _list_process_tree(self.process.pid))

    def current_bytes(self) -> int:
        return sum(_read_memory_bytes(pid, "VmRSS") for pid in _list_process_tree(self.process.pid))


@contextmanager
def start_server(
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
        start_time = time.monotonic()
        while not _is_healthy(port, health):
            if process.poll() is not None or time.monotonic() - start_time > 900:
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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class StreamedAnswer:
    """One streamed answer: seconds to the first text and to the end, the text, and why it ended (`finish`)."""

    first: float = 0.0
    last: float = 0.0
    text: str = ""
    finish: str = ""
    status: int = 0
    pieces: int = 0
    raw: bytearray = field(default_factory=bytearray)
    times: list[tuple[int, float]] = field(default_factory=list)


def ask_all(
    port: int, bodies: Sequence[Mapping[str, Any]], path: str = "/v1/chat/completions", headers: str = ""
) -> list[StreamedAnswer]:
    """Ask everything at once and read the streams as they come, in one thread; nothing is parsed before the end.

    `headers` are lines of further headers, each with its line end.
    """
    start_time = time.perf_counter()
    answers = [StreamedAnswer() for _ in bodies]
    with selectors.DefaultSelector() as selector:
        for answer, body in zip(answers, bodies, strict=True):
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(f"{head}{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            selector.register(client, selectors.EVENT_READ, answer)
        left = len(bodies)
        while left:
            for key, _ in selector.select():
                part = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                now = time.perf_counter() - start_time
                if part:
                    key.data.raw += part
                    key.data.times.append((len(key.data.raw), now))
                else:
                    key.data.last = now
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    left -= 1
    for answer in answers:
        _parse(answer)
    return answers


def _parse(answer: StreamedAnswer) -> None:
    answer.status = int(answer.raw[9:12] or 0)
    match = CONTENT.search(answer.raw)
    if match:
        answer.first = next(seconds for length, seconds in answer.times if length >= match.end())
    for line in answer.raw.splitlines():
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                text = choice.get("delta", {}).get("content") or ""
                answer.text += text
                answer.pieces += bool(text)
                answer.finish = choice.get("finish_reason") or answer.finish


def _is_healthy(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _list_process_tree(pid: int) -> list[int]:
    pids = [pid]
    for child in pids:
        try:
            with open(f"/proc/{child}/task/{child}/children", encoding="ascii") as file:
                pids += map(int, file.read().split())
        except OSError:
            continue
    return pids


def _read_cpu_seconds(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def _read_peak_bytes(pid: int) -> int:
    return _read_memory_bytes(pid, "VmHWM")


def _read_memory_bytes(pid: int, field_name: str) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith(field_name + ":")), 0)
    except OSError:
        return 0
