"""An engine that is gone for a moment is no fault of the request: 503, which clients send again."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import EngineUnavailableError
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.registry import ServedModel


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
def test_embeddings_of_an_engine_that_has_crashed_may_be_asked_for_again(
    path: str, untaught: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(*_: Any) -> Any:
        raise EngineUnavailableError("the engine has crashed")

    client = TestClient(create_app([ServedModel("tiny", untaught, Limits())]), base_url="http://127.0.0.1")
    body = {"model": "tiny", "prompt" if path == "/api/embeddings" else "input": "春天"}
    monkeypatch.setattr(untaught.engine, "embed", embed)
    lost = client.post(path, json=body)
    assert (lost.status_code, lost.headers.get("retry-after")) == (503, "2"), lost.text


def test_a_text_that_is_too_long_to_embed_is_refused_by_the_code_that_clients_know(untaught: LoadedEngine) -> None:
    client = TestClient(create_app([ServedModel("tiny", untaught, Limits())]), base_url="http://127.0.0.1")
    refused = client.post("/v1/embeddings", json={"model": "tiny", "input": "春天来了。" * 30_000})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "input", "context_length_exceeded")
