"""A stream that has nothing to send says that it is alive, in a form that each API's clients pass over."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import ollama
import pytest

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.api import streaming
from live_server import run_server

QUESTION: Any = [{"role": "user", "content": "你叫什么名字？"}]
ANSWER = "我叫小翰。"
PAUSE = 0.12


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.03)


@pytest.mark.parametrize(
    ("path", "body", "sign"),
    [
        ("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 3}, ": keep-alive"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 3}, ": keep-alive"),
        ("/v1/responses", {"input": "a", "max_output_tokens": 3}, ": keep-alive"),
        ("/v1/messages", {"messages": QUESTION, "max_tokens": 3}, "event: ping"),
        ("/api/chat", {"messages": QUESTION, "options": {"num_predict": 3}}, '"content": ""}, "done": false'),
        ("/api/generate", {"prompt": "a", "options": {"num_predict": 3}}, '"response": "", "done": false'),
        ("/generate", {"prompt": "a", "max_new_tokens": 3}, '{"text": ["a"]}'),
    ],
)
def test_a_stream_that_waits_says_so(opened: LoadedEngine, path: str, body: dict[str, Any], sign: str) -> None:
    with run_server(opened, pause=PAUSE) as server:
        text = httpx.post(server.address + path, json={"model": "tiny", "stream": True, **body}, timeout=300).text
    assert text.count(sign) >= 3


def test_clients_of_each_api_read_the_same_answer(opened: LoadedEngine) -> None:
    with run_server(opened, pause=PAUSE) as server:
        chunks: Any = server.client().chat.completions.create(model="tiny", messages=QUESTION, stream=True)
        texts = ["".join(chunk.choices[0].delta.content or "" for chunk in chunks)]
        events: Any = server.client().responses.create(model="tiny", input=QUESTION[0]["content"], stream=True)
        texts.append("".join(event.delta for event in events if event.type == "response.output_text.delta"))
        with ollama.Client(server.address, timeout=300) as client:
            texts.append("".join(part.message.content or "" for part in client.chat("tiny", QUESTION, stream=True)))
        with (
            anthropic.Anthropic(base_url=server.address, api_key="x", timeout=300) as anthropic_client,
            anthropic_client.messages.stream(model="tiny", max_tokens=30, messages=QUESTION) as stream,
        ):
            texts.append(stream.get_final_text())
    assert texts == [ANSWER] * 4


def test_a_request_that_waits_for_its_turn_says_so(opened: LoadedEngine) -> None:
    with run_server(opened, pause=PAUSE, limits=Limits(parallel=1)) as server:
        body = {"model": "tiny", "prompt": "a", "raw": True, "options": {"num_predict": 6}}
        with httpx.stream("POST", f"{server.address}/api/generate", json=body, timeout=300) as first:
            lines = first.iter_lines()
            next(lines)
            with httpx.stream("POST", f"{server.address}/api/generate", json=body, timeout=300) as second:
                waiting = json.loads(next(second.iter_lines()))
                assert (waiting["response"], waiting["done"]) == ("", False)
                assert not any(json.loads(line).get("done") for line in [next(lines)])


def test_nothing_is_said_between_texts_that_come_in_time(opened: LoadedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 30.0)
    body = {"model": "tiny", "stream": True, "messages": QUESTION}
    with run_server(opened) as server:
        text = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=300).text
    assert "keep-alive" not in text and text.endswith("data: [DONE]\n\n")
