"""What a request body costs: linear in its bytes, whatever it holds, and nothing once the client has gone."""

from __future__ import annotations

import json
import socket
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic_core import from_json

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import BodyBudget, Limits
from hanlin.serve.api.anthropic.requests import MessagesRequest
from hanlin.serve.api.body import RequestBody
from hanlin.serve.api.ollama import schemas as ollama
from hanlin.serve.api.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from hanlin.serve.api.responses.schemas import ResponseRequest
from hanlin.serve.errors import ApiError
from live_server import LiveServer, run_server
from waiting import count_calls, wait_until

CHAT = '{"model":"m","messages":[{"role":"user","content":"?"}],'


def repeat(head: str, make: Callable[[int], str], tail: str, size: int) -> bytes:
    entries: list[str] = []
    length = len(head) + len(tail)
    while length < size:
        entries.append(make(len(entries)))
        length += len(entries[-1]) + 1
    return (head + ",".join(entries) + tail).encode()


COSTLY: dict[str, tuple[type[RequestBody], str, Callable[[int], str], str]] = {
    "no messages": (ChatRequest, '{"model":"m","messages":[', lambda _: "1", "]}"),
    "empty messages": (ChatRequest, '{"model":"m","messages":[', lambda _: "{}", "]}"),
    "wrong parts": (ChatRequest, '{"model":"m","messages":[{"role":"user","content":[', lambda _: "1", "]}]}"),
    "unknown fields": (ChatRequest, CHAT, lambda index: f'"k{index}":1', "}"),
    "unknown fields of messages": (
        ChatRequest,
        '{"model":"m","messages":[',
        lambda index: f'{{"role":"user","content":"","f{index}":1}}',
        "]}",
    ),
    "wrong biases": (ChatRequest, CHAT + '"logit_bias":{', lambda index: f'"{index}":"x"', "}}"),
    "closed object": (ChatRequest, CHAT + '"response_format":{"type":"text",', lambda index: f'"r{index}":1', "}}"),
    "wrong tools": (ChatRequest, CHAT + '"tools":[', lambda _: "{}", "]}"),
    "nested lists": (ChatRequest, CHAT + '"x":', lambda _: "[", "}"),
    "wrong token ids": (CompletionRequest, '{"model":"m","prompt":[', lambda _: "-1", "]}"),
    "lists of token ids": (CompletionRequest, '{"model":"m","prompt":[', lambda _: "[1]", "]}"),
    "lists of texts": (EmbeddingRequest, '{"model":"m","input":[', lambda _: '["x"]', "]}"),
    "no blocks": (MessagesRequest, '{"model":"m","max_tokens":1,"messages":[', lambda _: "1", "]}"),
    "no turns": (ollama.ChatRequest, '{"model":"m","messages":[', lambda _: "1", "]}"),
    "unknown options": (ollama.ChatRequest, '{"model":"m","options":{', lambda index: f'"o{index}":1', "}}"),
    "no items": (ResponseRequest, '{"model":"m","input":[', lambda _: "{}", "]}"),
}


@pytest.mark.parametrize(("body_class", "head", "make", "tail"), COSTLY.values(), ids=COSTLY)
def test_a_wrong_body_of_any_kind_costs_little_more_than_its_bytes(
    body_class: type[RequestBody], head: str, make: Callable[[int], str], tail: str
) -> None:
    body = repeat(head, make, tail, 200_000)
    tracemalloc.start()
    error = refuse(body_class, body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.status in (400, 413)
    assert len(error.message) < 300
    assert peak < 100 * len(body)  # a list of errors takes 1 kB for each entry
    calls = [count_calls(lambda: refuse(body_class, repeat(head, make, tail, size))) for size in (50_000, 100_000)]  # noqa: B023
    assert calls[1] < 2.1 * calls[0] + 1000, calls


def refuse(body_class: type[RequestBody], body: bytes) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        body_class.parse(body)
    return refusal.value


def test_a_wrong_body_is_read_once_however_much_is_wrong_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def read_and_note(data: bytes, **options: Any) -> Any:
        read.append(len(data))
        return from_json(data, **options)

    monkeypatch.setattr("hanlin.serve.api.body.from_json", read_and_note)
    body = b'{"model":"m","messages":[' + b",".join([b"1"] * 5000) + b"]}"
    assert "messages.0" in refuse(ChatRequest, body).message
    assert read == [len(body)]  # once for each error took 4.4 s


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model":"m","messages":[1]}', "messages.0: Input should be an object"),
        (b'{"model":"m","messages":{}}', "messages: Input should be a valid array"),
        (b'{"model":"m","messages":[],"seed":"1"}', "seed: Input should be a valid integer"),
        (b"[]", "body: Input should be an object"),
        (b'{"model":', "body: Invalid JSON: EOF while parsing a value at line 1 column 9"),
        (b'{"model":"\xff"}', "body: Invalid JSON: invalid unicode code point at line 1 column 11"),
        (b'{"model":"\\ud800"}', "body: Invalid JSON: unexpected end of hex escape at line 1 column 17"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_in_the_terms_of_json(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as refusal:
        ChatRequest.parse(body)
    assert (refusal.value.status, refusal.value.message) == (400, message)


def test_a_body_of_more_values_than_any_request_has_is_refused_before_it_is_parsed() -> None:
    for body in (b"[" * 200_000, b'{"a":' * 200_000, b"1," * 1_200_000):
        with pytest.raises(ApiError) as refusal:
            ChatRequest.parse(body)
        assert refusal.value.status == 413


def test_more_turns_than_the_context_has_tokens_are_refused_before_they_are_rendered(server: LiveServer) -> None:
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}] * 5000
    answer = httpx.post(f"{server.address}/v1/chat/completions", json={"model": "tiny", "messages": turns}, timeout=300)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_all_bodies_together_are_bounded_and_a_body_is_let_go_when_its_client_leaves(opened: LoadedEngine) -> None:
    with run_server(opened, limits=Limits(max_bodies_bytes=300_000)) as server:
        host, port = server.address.removeprefix("http://").split(":")
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as unfinished:
            unfinished.sendall(f"{head}Content-Length: 400000\r\n\r\n".encode() + b" " * 250_000)
            content = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode() + b" " * 100_000

            def ask() -> httpx.Response:
                headers = {"content-type": "application/json"}
                return httpx.post(f"{server.address}/v1/completions", content=content, headers=headers, timeout=300)

            wait_until(lambda: (answer := ask()).status_code == 503 and "bodies_too_large" in answer.text)
        wait_until(lambda: ask().status_code == 200)


def test_the_budget_of_bodies_is_given_back_whatever_happens() -> None:
    budget = BodyBudget(10)
    with budget.open() as first:
        first.grow(8)
        with pytest.raises(ApiError), budget.open() as second:
            second.grow(3)
        assert budget.held_bytes == 8
    assert budget.held_bytes == 0
