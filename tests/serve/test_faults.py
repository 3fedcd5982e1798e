"""Under load and faults: clients that leave, a full queue, deadlines, a server told to end, bad fields everywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import Live, live

from hanlin.core.errors import UserError
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.serve.admission import Limits
from hanlin.serve.server import serve
from taught_model import LESSONS

CHAT = "/v1/chat/completions"
ENDLESS = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "logit_bias": {}}


@pytest.fixture(scope="module", params=["transformers", "llama_cpp"])
def endless(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedEngine]:
    """A model of random weights in either engine: it goes on until the context is full."""
    path = tiny_model
    if request.param == "llama_cpp":
        from hanlin.config.settings.export import Gguf
        from hanlin.core.context import Inputs, StageContext
        from hanlin.export.gguf.export import run

        path = tmp_path_factory.mktemp("endless")
        run(Gguf(model="m", types=("F32",), compare=False), Inputs({"model": (tiny_model,)}), path, StageContext())
    opened = load_engine(path, apart=True)  # as the server opens it
    yield opened
    opened.engine.close()


def until(fact: Callable[[], bool], seconds: float = 10.0) -> float:
    """How long it takes until a fact holds."""
    begun = time.perf_counter()
    while not fact():
        assert time.perf_counter() - begun < seconds, "it never came to hold"
        time.sleep(0.002)
    return time.perf_counter() - begun


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(endless: LoadedEngine, stream: bool) -> None:
    """Within 300 milliseconds where the machine is idle; what is asserted holds on a busy one too."""
    with live(endless, pause=0.02, limits=Limits(parallel=1)) as server:
        queue = server.served[0].queue
        times = []
        for number in range(1, 4):
            client = asking_alone(server, stream)
            until(lambda: queue.running == 1 and len(server.streams) == number)  # noqa: B023
            client.close()
            times.append(until(lambda: queue.running == 0))
        print("freed after", [round(seconds, 3) for seconds in times], "s")
        assert min(times) < 3, times  # read to its end, an answer would take five seconds
        # an engine that runs ahead of its slow reader may have come to the end of the context by then
        assert {made.finish_reason for made in server.streams} <= {"cancelled", "length"}


def asking_alone(server: Live, stream: bool) -> socket.socket:
    """A client that has asked and hears nothing yet."""
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({**ENDLESS, "stream": stream})
    client = socket.create_connection((host, int(port)))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def test_a_client_that_leaves_the_queue_frees_its_place_there(endless: LoadedEngine) -> None:
    with live(endless, pause=0.02, limits=Limits(parallel=1, max_queue=1)) as server:
        queue = server.served[0].queue
        first = threading.Thread(target=post, args=(server, [], {"max_tokens": 60}))
        first.start()
        until(lambda: queue.running == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.address + CHAT, json=ENDLESS, timeout=0.2)
        assert until(lambda: queue.waiting == 0) < 1
        first.join(20)
        assert len(server.streams) == 1


def post(server: Live, answers: list[httpx.Response], more: dict[str, Any]) -> None:
    answers.append(httpx.post(server.address + CHAT, json={**ENDLESS, **more}, timeout=30))


def test_beyond_the_queue_clients_are_told_when_to_come_again(endless: LoadedEngine) -> None:
    answers: list[httpx.Response] = []
    with live(endless, pause=0.01, limits=Limits(parallel=2, max_queue=3)) as server:
        threads = [threading.Thread(target=post, args=(server, answers, {"max_tokens": 40})) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        until(lambda: server.served[0].queue.running == server.served[0].queue.waiting == 0)
        again = httpx.post(server.address + CHAT, json={**ENDLESS, "max_tokens": 2}, timeout=20)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    assert again.status_code == 200


def test_a_deadline_ends_an_answer_and_says_so(endless: LoadedEngine) -> None:
    with live(endless, pause=0.05, limits=Limits(deadline_seconds=0.3)) as server:
        whole = httpx.post(server.address + CHAT, json=ENDLESS, timeout=20)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
        streamed = httpx.post(server.address + CHAT, json={**ENDLESS, "stream": True}, timeout=20)
        last = json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "deadline_exceeded"
        until(lambda: server.served[0].queue.running == 0)


def test_the_output_has_an_upper_limit(endless: LoadedEngine) -> None:
    with live(endless, limits=Limits(max_output_tokens=4)) as server:
        answer = httpx.post(server.address + CHAT, json={**ENDLESS, "max_tokens": 100}, timeout=20).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (4, "length")


def test_a_server_told_to_end_finishes_what_it_began(taught_model: Path, tiny_model: Path) -> None:
    code = (
        "import sys, time; from hanlin.inference.backends.transformers.kv_cache import Context\n"
        "from hanlin.serve.server import serve\n"
        "decode = Context.decode\n"
        # slow enough to be told in the middle
        "Context.decode = lambda *given: (time.sleep(0.02), decode(*given))[1]\n"
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
        with httpx.stream("POST", address + CHAT, json=body, headers=headers, timeout=30) as answer:
            parts = answer.iter_lines()
            for _ in range(5):
                next(parts)
            process.send_signal(signal.SIGTERM)
            rest = [part for part in parts if part]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert process.wait(20) == 0
        logged = process.stdout.read() + process.stderr.read()
        assert "机密" not in logged and "k3y" not in logged and "Traceback" not in logged
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_stops_reading_keeps_nobody_from_an_answer(endless: LoadedEngine) -> None:
    """Its answer is written to the end all the same, and its place is free then."""
    with live(endless, limits=Limits(parallel=1, max_queue=4)) as server:
        host, port = server.address.removeprefix("http://").split(":")
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.connect((host, int(port)))
        asked = {**ENDLESS, "stream": True, "logprobs": True, "top_logprobs": 20}
        body = json.dumps(asked)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        until(lambda: len(server.streams) == 1)
        answer = httpx.post(server.address + CHAT, json={**ENDLESS, "max_tokens": 3}, timeout=20)
        assert answer.status_code == 200
        until(lambda: server.served[0].queue.running == 0)
        slow.close()


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"stop": [1]}, "stop.0"),
        (CHAT, {"temperature": "0.5"}, "temperature"),
        (CHAT, {"logit_bias": {"a": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"100000": 1}}, "logit_bias"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, "prompt.0"),
        ("/v1/completions", {"prompt": [100_000]}, None),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/v1/completions", {"prompt": ["x"] * 100, "n": 2}, "n"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "长" * 300}, "prompt"),
        ("/v1/embeddings", {"input": [[]]}, "input.0"),
        ("/v1/embeddings", {"input": "长" * 300}, "input"),
        ("/v1/embeddings", {"input": [7] * 300}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 4}, "dimensions"),
        ("/generate", {}, "prompt"),
        ("/generate", {"prompt": "x", "use_beam_search": True}, "use_beam_search"),
        ("/generate", {"history": [{"role": "Assistant", "content": "x"}]}, "history"),
    ],
)
def test_a_wrong_field_is_named(server: Live, path: str, body: dict, param: str | None) -> None:
    whole = {"model": "tiny", **({"messages": ENDLESS["messages"]} if path == CHAT else {}), **body}
    answer = httpx.post(
        server.address + path, content=json.dumps(whole), headers={"content-type": "application/json"}, timeout=20
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_no_other_site_is_invited(server: Live) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (
        httpx.options(server.address + CHAT, headers=asked),
        httpx.get(f"{server.address}/v1/models", headers=asked),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "长" * 2_000_000}]}),
        ("/v1/completions", {"prompt": "长" * 2_000_000}),
        ("/v1/embeddings", {"input": "长" * 2_000_000}),
        ("/api/chat", {"messages": [{"role": "user", "content": "长" * 2_000_000}]}),
        ("/generate", {"prompt": "长" * 2_000_000}),
    ],
)
def test_a_prompt_that_cannot_fit_is_refused_before_any_work_on_it(
    server: Live, path: str, body: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(server.served[0].tokenizer), "encode", lambda *_, **__: pytest.fail("it was tokenized"))
    answer = httpx.post(server.address + path, json={"model": "tiny", **body}, timeout=20)
    assert answer.status_code == 400, answer.text
    assert "6000000 bytes" in answer.text and "holds 256" in answer.text


def test_a_body_beyond_the_limit_is_refused_while_it_comes(server: Live) -> None:
    answer = httpx.post(server.address + CHAT, json={"model": "x" * (9 << 20)}, timeout=20)
    assert answer.status_code == 413


def test_deep_nesting_is_refused(server: Live) -> None:
    for deep in (b"[" * 100_000, b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
        headers = {"content-type": "application/json"}
        assert httpx.post(server.address + CHAT, content=deep, headers=headers, timeout=20).status_code == 400


def test_a_base_model_without_a_template_is_told_of_in_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match="there is no chat template here"):
        serve([tmp_path], port=0)


def test_two_models_of_one_name_are_refused(taught_model: Path) -> None:
    with pytest.raises(UserError, match="two models are called taught"):
        serve([taught_model, taught_model], port=0, on_ready=pytest.fail)


def test_a_lesson_is_still_known_after_all_this(server: Live) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": LESSONS[0][0]}]}
    answer = httpx.post(server.address + CHAT, json=body, timeout=20).json()
    assert answer["choices"][0]["message"]["content"] == LESSONS[0][1]
