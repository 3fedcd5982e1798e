"""Requests in the form of editors, agents and chat pages: each is answered, streamed and whole, in its API's form.

Each body has the fields and headers that the client's published source sends, with texts of our own. A field that a
client sends to every server and that cannot be honored must not keep it from its answer.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from client_requests import CHAT, MESSAGES, RESPONSES, SHAPES
from live_server import LiveServer


def read_stream(path: str, text: str) -> list[dict[str, Any]]:
    """The events of a stream, which must end as its API's streams end."""
    if path.startswith("/api"):
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        return lines
    blocks = [block for block in text.strip().split("\n\n") if not block.startswith(":")]
    if path == CHAT:
        assert blocks.pop() == "data: [DONE]"
    events = [json.loads(block.split("data: ", 1)[1]) for block in blocks]
    if path == RESPONSES:
        assert events[-1]["type"] in ("response.completed", "response.incomplete")
    elif path == MESSAGES:
        assert events[-1]["type"] == "message_stop"
    return events


@pytest.mark.parametrize("name", SHAPES)
def test_a_clients_request_is_answered_streamed_and_whole(tool_server: LiveServer, name: str) -> None:
    path, headers, fields = SHAPES[name]
    body = {"model": "tiny", **fields}
    unstreamed = {name: value for name, value in body.items() if name != "stream_options"} | {"stream": False}
    whole = httpx.post(tool_server.address + path, json=unstreamed, headers=headers, timeout=300)
    assert whole.status_code == 200, whole.text
    streamed = httpx.post(tool_server.address + path, json={**body, "stream": True}, headers=headers, timeout=300)
    assert streamed.status_code == 200, streamed.text
    events = read_stream(path, streamed.text)
    assert not any("error" in event for event in events if event.get("type") != "response.created")
    # a model of random weights may end at once, which Ollama streams as one event without text
    last = events[-1]
    ended_at_once = path.startswith("/api") and not (last.get("response") or last.get("message", {}).get("content"))
    assert len(events) > 1 or ended_at_once
    answer = whole.json()
    if path == CHAT:
        (choice,) = answer["choices"]
        assert choice["finish_reason"] in ("stop", "length", "tool_calls") and answer["usage"]["prompt_tokens"] > 0
        counted = [event for event in events if event.get("usage")]
        assert bool(counted) == ("stream_options" in fields)
        assert all(event["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"] for event in counted)
    elif path.startswith("/api"):
        assert answer["done"] and answer["prompt_eval_count"] == events[-1]["prompt_eval_count"] > 0
    elif path == MESSAGES:
        usages = (answer["usage"], events[0]["message"]["usage"])
        whole_count, streamed_count = (usage["input_tokens"] + usage["cache_read_input_tokens"] for usage in usages)
        assert whole_count == streamed_count > 0
    else:
        assert answer["usage"]["input_tokens"] == events[-1]["response"]["usage"]["input_tokens"] > 0


PROBES: dict[str, list[tuple[str, str, dict[str, Any] | None]]] = {
    "Claude Code": [("HEAD", "/", None), ("GET", "/v1/models?limit=1000", None)],
    "Codex": [("GET", "/v1/models?client_version=0.98.0", None)],
    "Open WebUI": [
        *(("GET", path, None) for path in ("/api/version", "/api/tags", "/api/ps", "/v1/models")),
        ("POST", "/api/generate", {"model": "tiny", "keep_alive": 0, "prompt": ""}),
    ],
    "VS Code": [("GET", "/api/version", None), ("GET", "/api/tags", None), ("POST", "/api/show", {"model": "tiny"})],
    "Continue": [("POST", "/api/show", {"name": "tiny"}), ("GET", "/v1/models", None)],
    "LiteLLM": [("POST", "/api/show", {"name": "tiny"}), ("GET", "/v1/models/tiny", None)],
    "Dify, embeddings": [
        ("POST", "/v1/embeddings", {"model": "tiny", "input": ["ping"], "encoding_format": "float", "user": "u"}),
        ("POST", "/v1/embeddings", {"model": "tiny", "input": ["春", "秋"], "input_type": None}),
    ],
    "LobeChat, embeddings": [
        ("POST", "/v1/embeddings", {"model": "tiny", "input": ["春"], "dimensions": 8, "encoding_format": "float"})
    ],
    "LobeChat, Ollama embeddings": [("POST", "/api/embeddings", {"model": "tiny", "prompt": "春"})],
    "Open WebUI, embeddings": [
        (
            "POST",
            "/api/embed",
            {"model": "tiny", "input": ["春", "秋"], "truncate": True, "options": None, "keep_alive": None},
        )
    ],
    "Claude Code, count": [
        (
            "POST",
            "/v1/messages/count_tokens?beta=true",
            {"model": "tiny", "messages": [{"role": "user", "content": "foo"}]},
        )
    ],
}
HEADERS = {"x-api-key": "none", "anthropic-version": "2023-06-01"}


@pytest.mark.parametrize("name", PROBES)
def test_what_a_client_asks_before_the_first_question_is_answered(tool_server: LiveServer, name: str) -> None:
    for method, path, body in PROBES[name]:
        answer = httpx.request(method, tool_server.address + path, json=body, headers=HEADERS, timeout=300)
        assert answer.status_code == 200, (path, answer.text)
        assert method == "HEAD" or answer.json()


@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [(0, "unload"), ("0", "unload"), ("0s", "unload"), (-1, "load"), ("5m", "load"), (None, "load")],
)
def test_a_request_to_unload_is_answered_as_one(tool_server: LiveServer, keep_alive: Any, reason: str) -> None:
    body = {"model": "tiny", "keep_alive": keep_alive}
    for path in ("/api/generate", "/api/chat"):
        assert httpx.post(tool_server.address + path, json=body, timeout=300).json()["done_reason"] == reason
