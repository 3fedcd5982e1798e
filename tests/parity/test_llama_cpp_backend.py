"""The connection to llama.cpp's server."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from hanlin.parity.backends.llama_cpp import post

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def serve(listener: socket.socket, answers: list[bool]) -> None:
    """Take one connection after another; answer its first request or not, and close it without a word."""
    for answers_it in answers:
        connection, _ = listener.accept()
        with connection:
            data = b""
            while not data.endswith(b"[1]"):
                data += connection.recv(4096)
            if answers_it:
                connection.sendall(ANSWER)


@pytest.mark.parametrize(("answers", "posts"), [([True, True, True], 3), ([False, True], 1)])
def test_a_connection_that_the_server_closed_is_opened_again(answers: list[bool], posts: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener, answers))
        server.start()
        connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=10)
        for _ in range(posts):
            assert post(connection, "/tokenize", b"[1]", {}).read() == b"{}"
        connection.close()
        server.join()


def test_a_server_that_is_gone_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener, [False, False]))
        server.start()
        with pytest.raises(ConnectionError):
            post(
                http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=10), "/tokenize", b"[1]", {}
            )
        server.join()
