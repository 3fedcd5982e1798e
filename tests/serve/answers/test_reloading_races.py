"""A model that is loaded again between two steps of a request answers it, or the old one does: none is lost."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.api.openai import routes as openai_routes
from hanlin.serve.api.responses import routes as responses_routes
from hanlin.serve.registry import ServedModel
from live_server import LiveServer
from waiting import wait_until


def test_a_completion_has_its_slot_before_its_prompt_is_echoed(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    to_texts = openai_routes.to_texts

    def watch(model: ServedModel, prompts: Any) -> list[str]:
        held.append(model.queue.running)
        return to_texts(model, prompts)

    monkeypatch.setattr(openai_routes, "to_texts", watch)
    body = {"model": "tiny", "prompt": ["春天", "花"], "n": 2, "echo": True, "max_tokens": 1}
    answer = httpx.post(f"{server.address}/v1/completions", json=body, timeout=300).json()
    assert held == [4] and [choice["text"][:1] for choice in answer["choices"]] == ["春", "春", "花", "花"]
    queue = server.registry.get("tiny").queue
    wait_until(lambda: (queue.running, queue.waiting) == (0, 0))  # freed just after the answer has been sent


def test_a_response_is_made_by_the_model_that_is_there_when_it_gets_its_slot(
    server: LiveServer, opened: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = server.registry.get("tiny"), ServedModel("tiny", opened, Limits())
    conversation = responses_routes.StoredConversation

    def reload(*arguments: Any) -> Any:
        server.registry.replace([old], [new])
        return conversation(*arguments)

    def refuse(_: int = 1) -> Any:
        raise AssertionError("the engine of the old model is closed by now")

    monkeypatch.setattr(responses_routes, "StoredConversation", reload)
    monkeypatch.setattr(old.queue, "reserve", refuse)
    body = {"model": "tiny", "input": "你叫什么名字？", "max_output_tokens": 2}
    answer = httpx.post(f"{server.address}/v1/responses", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
