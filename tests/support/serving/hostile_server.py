"""Servers that mean harm, on a loopback port for the time of a test."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
Answer = Callable[[socket.socket, bytes], None]
"""Answers a request on a connection."""


class Host:
    """A server on a loopback port that answers each connection as it is told, and keeps what it was sent."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._closed = threading.Event()
        self.received: list[bytes] = []
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(1)
                try:
                    if self._tls is not None:
                        connection = self._tls.wrap_socket(connection, server_side=True)
                    self.received.append(connection.recv(65536))
                    self._answer(connection, self.received[-1])
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # closed with bytes unread, it would be reset
                        pass
                except OSError:  # the client has had enough
                    pass
                finally:
                    connection.close()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._listener.close()


@contextmanager
def host(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> Iterator[Host]:
    served = Host(
        (lambda connection, request: connection.sendall(answer)) if isinstance(answer, bytes) else answer, tls
    )
    try:
        yield served
    finally:
        served.close()


def forever(piece: bytes, pause: float = 0.0, head: bytes = b"") -> Answer:
    """An answer that has no end, within ten minutes."""

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        end = time.monotonic() + 600
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(pause)

    return answer


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
