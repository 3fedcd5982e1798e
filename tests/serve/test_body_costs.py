"""What a request body costs: linear in its bytes, whatever it holds, and nothing once the client has gone."""

from __future__ import annotations

import json
import socket
import time
import tracemalloc
from collections.abc import Callable

import httpx
import pytest

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import BodyBudget, Limits
from hanlin.serve.api.anthropic.requests import MessagesRequest
from hanlin.serve.api.body import RequestBody
from hanlin.serve.api.ollama import schemas as ollama
from hanlin.serve.api.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from hanlin.serve.api.responses.schemas import ResponseRequest
from hanlin.serve.errors import ApiError
from live_server import LiveServer, run_server

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
    start_time = time.process_time()
    with pytest.raises(ApiError) as refusal:
        body_class.parse(body)
    seconds, (_, peak) = time.process_time() - start_time, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal.value.status in (400, 413)
    assert len(refusal.value.message) < 300
    assert seconds < 6 and peak < 100 * len(body), (seconds, peak)  # a list of errors takes 1 kB for each entry


def test_ten_kilobytes_of_wrong_messages_are_refused_at_once() -> None:
    body = b'{"model":"m","messages":[' + b",".join([b"1"] * 5000) + b"]}"
    start_time = time.thread_time()
    with pytest.raises(ApiError, match="messages\\.0"):
        ChatRequest.parse(body)
    assert time.thread_time() - start_time < 1  # 4.4 s when each error read the body again


def test_a_body_of_more_values_than_any_request_has_is_refused_before_it_is_parsed() -> None:
    for body in (b"[" * 200_000, b'{"a":' * 200_000, b"1," * 1_200_000):
        with pytest.raises(ApiError) as refusal:
            ChatRequest.parse(body)
        assert refusal.value.status == 413


def test_more_turns_than_the_context_has_tokens_are_refused_before_they_are_rendered(server: LiveServer) -> None:
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}] * 5000
    answer = httpx.post(f"{server.address}/v1/chat/completions", json={"model": "tiny", "messages": turns}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_all_bodies_together_are_bounded_and_a_body_is_let_go_when_its_client_leaves(opened: LoadedEngine) -> None:
    with run_server(opened, limits=Limits(max_bodies_bytes=300_000)) as server:
        host, port = server.address.removeprefix("http://").split(":")
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as unfinished:
            unfinished.sendall(f"{head}Content-Length: 400000\r\n\r\n".encode() + b" " * 250_000)
            deadline = time.monotonic() + 10
            status = 200
            while status != 503 and time.monotonic() < deadline:
                content = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode() + b" " * 100_000
                headers = {"content-type": "application/json"}
                answer = httpx.post(f"{server.address}/v1/completions", content=content, headers=headers, timeout=30)
                status = answer.status_code
            assert (status, answer.json()["error"]["code"]) == (503, "bodies_too_large")
        while status != 200 and time.monotonic() < deadline:
            answer = httpx.post(f"{server.address}/v1/completions", content=content, headers=headers, timeout=30)
            status = answer.status_code
        assert status == 200


def test_the_budget_of_bodies_is_given_back_whatever_happens() -> None:
    budget = BodyBudget(10)
    with budget.open() as first:
        first.grow(8)
        with pytest.raises(ApiError), budget.open() as second:
            second.grow(3)
        assert budget.held_bytes == 8
    assert budget.held_bytes == 0
