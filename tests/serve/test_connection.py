"""Limits of a connection, before any key is looked at: heads, bodies that come slowly, open connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
import uvicorn

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.server import make_config
from live_server import LiveServer, run_server
from waiting import wait_until

LIMITS = Limits(
    max_connections=8,
    max_connections_per_client=6,
    max_header_bytes=4096,
    max_headers=20,
    head_seconds=0.6,
    body_seconds=0.6,
    min_body_rate=10_000,
)
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def bounded(opened: LoadedEngine) -> Iterator[LiveServer]:
    with run_server(opened, AccessPolicy(api_keys=("k3y",)), limits=LIMITS) as server:
        yield server


def connect(server: LiveServer) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=300)


def read_to_end(connection: socket.socket) -> bytes:
    """What is received until the server has closed the connection."""
    received = b""
    try:
        while part := connection.recv(1 << 16):
            received += part
    except ConnectionResetError:  # it was still being sent to
        pass
    return received


def read_answer(connection: socket.socket) -> tuple[int, str]:
    """The status and the code of the answer, once the server has closed the connection; 0 if there was none."""
    head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)["error"]["code"]) if head else (0, "")


def ask(server: LiveServer) -> int:
    return httpx.get(f"{server.address}/v1/models", headers={"x-api-key": "k3y"}, timeout=300).status_code


HEADS: dict[str, bytes] = {
    "one long header": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 50_000,
    "one endless header": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 2_000_000,
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: a\r\n" * 30,
    "a long name": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X" * 6000 + b": a\r\n\r\n",
    "a long path": b"GET /" + b"a" * 6000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty lines": b"\r\n" * 50_000,
    "a long trailer": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: "
    + b"a" * 50_000,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_that_is_too_large_is_refused_before_it_has_ended(bounded: LiveServer, head: bytes) -> None:
    with connect(bounded) as connection:
        try:
            connection.sendall(head)
        except OSError:  # refused while it was sent
            pass
        assert read_answer(connection) in ((431, "headers_too_large"), (401, "invalid_api_key"), (0, ""))
    assert ask(bounded) == 200


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", "request_timeout"),
        (b"G", "request_timeout"),
        (b"\r\n", "request_timeout"),
        (b"", ""),
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_ended(bounded: LiveServer, sent: bytes, code: str) -> None:
    with connect(bounded) as connection:
        connection.sendall(sent)
        assert read_answer(connection) == ((408, code) if code else (0, ""))


def test_a_body_that_comes_too_slowly_is_ended_and_one_that_comes_fast_enough_is_read(bounded: LiveServer) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: k3y\r\nContent-Type: application/json\r\n"
        "Connection: close\r\nContent-Length: {length}\r\n\r\n"
    )
    with connect(bounded) as connection:
        connection.sendall(head.format(length=1000).encode())
        dripped = threading.Thread(target=drip, args=(connection,))
        dripped.start()
        assert read_answer(connection) in ((408, "request_timeout"), (0, ""))
        dripped.join()
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode().ljust(300_000)
    with connect(bounded) as connection:
        connection.sendall(head.format(length=len(body)).encode())
        for start in range(0, len(body), 100_000):
            connection.sendall(body[start : start + 100_000])
            time.sleep(0.4)  # longer than the time without what the bytes add
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def drip(connection: socket.socket) -> None:
    for _ in range(40):
        try:
            connection.sendall(b" ")
        except OSError:
            return
        time.sleep(0.1)


def test_connections_are_bounded_for_each_client_and_come_back(bounded: LiveServer) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(bounded)) for _ in range(LIMITS.max_connections_per_client)]
        time.sleep(0.1)
        with connect(bounded) as refused:
            assert read_answer(refused) == (503, "too_many_connections")
        opened[0].close()
        wait_until(lambda: ask(bounded) == 200)
    wait_until(lambda: ask(bounded) == 200)


def test_a_client_that_goes_on_sending_after_its_answer_is_let_go(bounded: LiveServer) -> None:
    with connect(bounded) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".encode())
        assert b" 401 " in connection.recv(1 << 16).splitlines()[0]
        drip(connection)
        assert b"HTTP/1.1 2" not in read_to_end(connection)  # the rest of that answer, perhaps a 408, and no more


def test_requests_one_after_another_on_a_connection_are_as_before(bounded: LiveServer) -> None:
    with httpx.Client(base_url=bounded.address, headers={"x-api-key": "k3y"}, timeout=300) as client:
        for _ in range(5):
            body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
            assert client.post(PATH, json=body).status_code == 200
            time.sleep(0.2)


@pytest.mark.parametrize("is_reading", [True, False])
def test_a_client_that_reads_nothing_is_let_go_and_one_that_reads_slowly_is_not(is_reading: bool) -> None:
    size = 12_000_000  # more than the buffers of both ends hold

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        limits = Limits(write_seconds=3.0 if is_reading else 0.6, drain_seconds=3)
        server = uvicorn.Server(make_config(answer, limits))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), timeout=300) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if not is_reading:
                    wait_until(lambda: server.server_state.total_requests)
                    wait_until(lambda: not server.server_state.connections)
                assert (read_slowly(client, size) >= size) == is_reading
        finally:
            server.should_exit = True
            thread.join(300)


def read_slowly(connection: socket.socket, size: int) -> int:
    """Read with pauses; how many bytes came before the server closed the connection."""
    count = 0
    with suppress(ConnectionResetError):
        while count < size and (part := connection.recv(1 << 18)):
            count += len(part)
            time.sleep(0.08)  # together longer than the time without progress
    return count
