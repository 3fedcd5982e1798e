"""Bodies of many values are read in a process of their own, with the same outcome, and a lost process comes back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hanlin.serve.api.anthropic.requests import MessagesRequest
from hanlin.serve.api.body import MAX_QUICK_VALUES, RequestBody, count_values
from hanlin.serve.api.ollama import schemas as ollama
from hanlin.serve.api.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from hanlin.serve.api.responses.schemas import ResponseRequest
from hanlin.serve.errors import ApiError
from hanlin.serve.transport import body_process
from hanlin.serve.transport.body_process import BodyProcess
from live_server import LiveServer
from waiting import wait_until

MESSAGES = [{"role": "user", "content": "好"}, {"role": "user", "content": [{"type": "text", "text": "好"}]}]
BODIES: list[tuple[type[RequestBody], dict[str, Any]]] = [
    (ChatRequest, {"model": "m", "messages": MESSAGES, "tool_choice": "any", "x": {"a": 1}}),
    (ChatRequest, {"model": "m", "messages": [{"role": "nobody", "content": "好"}]}),
    (ChatRequest, {"model": "m", "messages": [], "temprature": 1}),
    (CompletionRequest, {"model": "m", "prompt": [[1, 2], [3]], "logit_bias": {"1": 101}}),
    (EmbeddingRequest, {"model": "m", "input": ["a", "b"]}),
    (MessagesRequest, {"model": "m", "max_tokens": 1, "messages": MESSAGES}),
    (ResponseRequest, {"model": "m", "input": [{"role": "user", "content": "好", "kept": 1}]}),
    (ollama.ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "好"}], "options": {"seed": "1"}}),
]


@pytest.fixture(scope="module")
def process() -> Iterator[BodyProcess]:
    process = BodyProcess()
    yield process
    process.close()


def outcome(parse: Any, body: bytes) -> Any:
    try:
        return parse(body)
    except ApiError as error:
        return (error.status, error.message, error.param, error.code, error.retry_after)


@pytest.mark.parametrize(("body_class", "fields"), BODIES)
def test_a_body_is_read_as_in_the_servers_own_process(
    process: BodyProcess, body_class: type[RequestBody], fields: dict[str, Any]
) -> None:
    body = json.dumps(fields).encode()
    assert outcome(lambda data: process.parse(body_class, data), body) == outcome(body_class.parse, body)


def test_a_process_that_is_lost_or_over_its_limits_is_started_again(
    process: BodyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"model":"m","input":"x"}'
    process.parse(EmbeddingRequest, body)
    first = process.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process._children[0].poll() is not None)
    assert process.parse(EmbeddingRequest, body).input == "x" and process.process_id != first
    for name, status in (("SECONDS_TO_READ", 413), ("SECONDS_TO_START", 503)):
        process.parse(EmbeddingRequest, body)
        with monkeypatch.context() as patch, pytest.raises(ApiError) as refusal:
            patch.setattr(body_process, name, 0.0)
            if status == 503:
                os.kill(process.process_id or 0, signal.SIGSTOP)
            process.parse(EmbeddingRequest, b" " * 50_000_000 + body)
        assert refusal.value.status == status and process.process_id is None


def test_many_values_are_not_read_in_the_servers_process(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[int] = []
    monkeypatch.setattr("hanlin.serve.api.body.from_json", lambda body, **_: values.append(count_values(body)))
    many = {"x": dict.fromkeys(map(str, range(MAX_QUICK_VALUES)))}
    for path, body in (
        ("/v1/chat/completions", {"messages": [1] * (MAX_QUICK_VALUES + 10)}),
        ("/v1/completions", {"prompt": 1, **many}),
        ("/v1/embeddings", {"input": [[]] * MAX_QUICK_VALUES}),
        ("/v1/messages", {"messages": [], **many}),
        ("/v1/responses", {"input": [{}] * MAX_QUICK_VALUES}),
        ("/api/chat", {"messages": [1] * (MAX_QUICK_VALUES + 10)}),
        ("/api/embed", {"input": 1, **many}),
        ("/generate", {"prompt": 1, **many}),
    ):
        answer = httpx.post(server.address + path, json={"model": "tiny", **body}, timeout=300)
        assert answer.status_code == 400, (path, answer.text)
    assert values == []
