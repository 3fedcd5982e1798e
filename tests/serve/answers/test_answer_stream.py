"""Load and faults: clients that disconnect, a full queue, deadlines, a server that is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.serve.admission import Limits
from live_server import LiveServer, run_server
from waiting import wait_until

CHAT = "/v1/chat/completions"
ENDLESS = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "logit_bias": {}}


@pytest.fixture(scope="module", params=["transformers", "llama_cpp"])
def endless(request: pytest.FixtureRequest, tiny_model: Path, untaught_gguf: Path) -> Iterator[LoadedEngine]:
    """A model of random weights in either engine: it goes on until the context is full."""
    path = untaught_gguf if request.param == "llama_cpp" else tiny_model
    opened = load_engine(path, separate_process=True)  # as the server opens it
    yield opened
    opened.engine.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_slot(endless: LoadedEngine, stream: bool) -> None:
    """Long before its answer would have been read to the end, within 300 milliseconds on an idle machine."""
    with run_server(endless, pause=0.1, limits=Limits(parallel=1)) as server:
        queue = server.served_models[0].queue
        for count in range(1, 4):
            client = send_request(server, stream)
            wait_until(lambda: queue.running == 1 and len(server.streams) == count)  # noqa: B023
            client.close()
            wait_until(lambda: queue.running == 0)
        assert all(stream.num_read < endless.engine.context_length / 2 for stream in server.streams)  # type: ignore[attr-defined]
        # an engine that runs ahead of its slow reader may have come to the end of the context by then
        assert {stream.finish_reason for stream in server.streams} <= {"cancelled", "length"}


def send_request(server: LiveServer, stream: bool) -> socket.socket:
    """The connection of a client that has sent a request and read nothing."""
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({**ENDLESS, "stream": stream})
    client = socket.create_connection((host, int(port)))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def test_a_client_that_leaves_the_queue_frees_its_place_in_it(endless: LoadedEngine) -> None:
    may_go_on = threading.Event()
    with run_server(endless, pause=may_go_on.wait, limits=Limits(parallel=1, max_queue=1)) as server:
        queue = server.served_models[0].queue
        first = threading.Thread(target=post, args=(server, [], {"max_tokens": 6}))
        first.start()
        try:
            wait_until(lambda: queue.running == 1)
            second = send_request(server, stream=False)
            wait_until(lambda: queue.waiting == 1)
            second.close()
            wait_until(lambda: queue.waiting == 0)  # while the first is still being answered
        finally:
            may_go_on.set()
        first.join(300)
        assert len(server.streams) == 1


def post(server: LiveServer, answers: list[httpx.Response], fields: dict[str, Any]) -> None:
    answers.append(httpx.post(server.address + CHAT, json={**ENDLESS, **fields}, timeout=300))


def test_beyond_the_queue_clients_get_429_with_retry_after(endless: LoadedEngine) -> None:
    answers: list[httpx.Response] = []
    may_go_on = threading.Event()
    with run_server(endless, pause=may_go_on.wait, limits=Limits(parallel=2, max_queue=3)) as server:
        threads = [threading.Thread(target=post, args=(server, answers, {"max_tokens": 4})) for _ in range(12)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(answers) == 7)
        finally:
            may_go_on.set()
        for thread in threads:
            thread.join(300)
        wait_until(lambda: server.served_models[0].queue.running == server.served_models[0].queue.waiting == 0)
        again = httpx.post(server.address + CHAT, json={**ENDLESS, "max_tokens": 2}, timeout=300)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    assert again.status_code == 200


def test_a_deadline_ends_an_answer_and_says_so(endless: LoadedEngine) -> None:
    with run_server(endless, pause=0.05, limits=Limits(deadline_seconds=0.3)) as server:
        answer = httpx.post(server.address + CHAT, json=ENDLESS, timeout=300)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        streamed = httpx.post(server.address + CHAT, json={**ENDLESS, "stream": True}, timeout=300)
        last = json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "deadline_exceeded"
        wait_until(lambda: server.served_models[0].queue.running == 0)


def test_the_output_has_an_upper_limit(endless: LoadedEngine) -> None:
    with run_server(endless, limits=Limits(max_output_tokens=4)) as server:
        answer = httpx.post(server.address + CHAT, json={**ENDLESS, "max_tokens": 100}, timeout=300).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (4, "length")


def test_a_server_that_is_stopped_finishes_the_requests_in_progress(taught_model: Path, tiny_model: Path) -> None:
    code = (
        "import sys, time; from hanlin.inference.backends.transformers.kv_cache import TransformersKVCache\n"
        "from hanlin.serve.server import serve\n"
        "decode = TransformersKVCache.decode\n"
        # slow enough to be stopped in the middle
        "TransformersKVCache.decode = lambda *args: (time.sleep(0.02), decode(*args))[1]\n"
        "serve(sys.argv[1:], port=0, api_keys=['k3y'])"
    )
    environment = {**os.environ, "HANLIN_LANG": "en", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(taught_model), f"other={tiny_model}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving taught, other at http://127.0.0.1:")
        address = line.split()[4].removesuffix("/v1")
        body = {"model": "other", "messages": [{"role": "user", "content": "机密"}], "stream": True, "max_tokens": 60}
        headers = {"authorization": "Bearer k3y"}
        with httpx.stream("POST", address + CHAT, json=body, headers=headers, timeout=300) as answer:
            parts = answer.iter_lines()
            for _ in range(5):
                next(parts)
            process.send_signal(signal.SIGTERM)
            rest = [part for part in parts if part]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert process.wait(300) == 0
        logged = process.stdout.read() + process.stderr.read()
        assert "机密" not in logged and "k3y" not in logged and "Traceback" not in logged
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_stops_reading_does_not_block_others(endless: LoadedEngine) -> None:
    """Its answer is generated to the end all the same, and then its slot is free."""
    with run_server(endless, limits=Limits(parallel=1, max_queue=4)) as server:
        host, port = server.address.removeprefix("http://").split(":")
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.connect((host, int(port)))
        fields = {**ENDLESS, "stream": True, "logprobs": True, "top_logprobs": 20}
        body = json.dumps(fields)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: len(server.streams) == 1)
        answer = httpx.post(server.address + CHAT, json={**ENDLESS, "max_tokens": 3}, timeout=300)
        assert answer.status_code == 200
        wait_until(lambda: server.served_models[0].queue.running == 0)
        slow.close()
