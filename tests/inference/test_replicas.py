"""Several servers of one model: which one gets a prompt, and what becomes of one that does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hanlin.core.errors import UserError
from hanlin.inference.backends.http.replicas import ReplicaPool
from hanlin.inference.protocol import EngineUnavailableError
from waiting import wait_until


class Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server(port: int = 0) -> Iterator[int]:
    made = ThreadingHTTPServer(("127.0.0.1", port), Well)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made.server_address[1]
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def addresses(count: int) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in range(9, 9 + count)]


def prompts(count: int) -> list[list[int]]:
    return [[number, *range(40)] for number in range(count)]


def test_prompts_that_begin_alike_go_to_one_server_and_others_are_spread() -> None:
    replicas = ReplicaPool(addresses(3), "/health")
    chosen = []
    for prompt in prompts(60):
        taken = [replicas.acquire([*prompt] * 8 + [end]) for end in (1, 2)]
        assert taken[0] is taken[1]
        for replica in taken:
            replicas.release(replica)
        chosen.append(taken[0].address)
    assert min(chosen.count(address) for address in addresses(3)) >= 8
    replicas.close()


def test_a_server_with_much_to_do_gets_no_more_of_its_own_prompts() -> None:
    replicas = ReplicaPool(addresses(2), "/health")
    loads = [replicas.acquire([7] * 300) for _ in range(40)]
    assert abs(loads.count(replicas.all[0]) - loads.count(replicas.all[1])) <= 10
    replicas.close()


def test_a_server_that_is_gone_is_left_out_and_comes_back() -> None:
    with server() as stays, server() as port:
        replicas = ReplicaPool([f"http://127.0.0.1:{stays}", f"http://127.0.0.1:{port}/v1"], "/health")
        gone = replicas.all[1]
        assert replicas.healthy == 2
        wanted = next(prompt for prompt in prompts(200) if _of(replicas, prompt) is gone)
        stopped = port
    # both have ended: the first is put up again at its own port
    wait_until(lambda: replicas.healthy == 0)
    with pytest.raises(EngineUnavailableError):
        replicas.acquire(wanted)
    with server(stays):
        wait_until(lambda: replicas.healthy == 1)
        assert _of(replicas, wanted) is replicas.all[0]
        with server(stopped):
            wait_until(lambda: replicas.healthy == 2)
            assert _of(replicas, wanted) is gone
    replicas.close()


def _of(replicas: ReplicaPool, prompt: list[int]) -> object:
    taken = replicas.acquire(prompt)
    replicas.release(taken)
    return taken


@pytest.mark.parametrize("address", ["ftp://x", "http://", "//"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="not the address of a server"):
        ReplicaPool([address], "/health")
