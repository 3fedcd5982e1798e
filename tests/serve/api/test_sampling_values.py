"""What the values at the edge of each sampling field mean, in every API: `max_tokens: -1`, `top_p: 0`, `top_k: -1`, ...

Sources: the references of OpenAI, Anthropic and Ollama, and the servers whose fields are taken too (vLLM, llama.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import GenerationRequest, SamplingParams, Stream
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.registry import ServedModel

CHAT = {"messages": [{"role": "user", "content": "?"}]}
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
    "/api/chat": "num_predict",
    "/api/generate": "num_predict",
    "/generate": "max_new_tokens",
}
ALL = tuple(LIMITS)
OLLAMA, OTHERS = ALL[4:6], (*ALL[:4], ALL[6])
GREEDY = {"top_p": 1e-6}

MEANINGS: list[tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = [
    # APIs, fields of a request, what the engine is asked for (`None` for a limit: what the context leaves)
    ((*ALL[:3], *ALL[4:]), {"LIMIT": -1}, {"max_new_tokens": None}),
    ((*ALL[:3], *ALL[4:]), {"LIMIT": None}, {"max_new_tokens": None}),
    (ALL, {"LIMIT": 10**9}, {"max_new_tokens": None}),
    (OLLAMA, {"LIMIT": -2}, {"max_new_tokens": None}),
    (OLLAMA, {"LIMIT": 0}, {"max_new_tokens": None}),
    (ALL[:1], {"max_completion_tokens": -1}, {"max_new_tokens": None}),
    (ALL[:2], {"n_predict": -1}, {"max_new_tokens": None}),
    (ALL, {"top_p": 0}, GREEDY),
    (ALL, {"top_p": 1}, {"top_p": 1.0}),
    (ALL, {"top_k": -1}, {"top_k": 0}),
    (ALL, {"top_k": 0}, {"top_k": 0}),
    (ALL, {"min_p": 0}, {"min_p": 0.0}),
    (ALL, {"min_p": 1}, {"min_p": 1 - 1e-6}),
    (ALL, {"typical_p": 0}, {"typical_p": 1e-6}),
    (ALL, {"temperature": 0}, {"temperature": 0.0}),
    (ALL, {"seed": -1}, {"seed": None}),
    (ALL, {"seed": 2**32 + 7}, {"seed": 7}),
    (ALL, {"repeat_last_n": -1}, {"repeat_last_n": -1}),
    (ALL, {"repeat_last_n": 0}, {"repeat_last_n": 0}),
    (ALL, {"repeat_penalty": 1}, {"repetition_penalty": 1.0}),
    (ALL, {"stop": []}, {}),
]
REFUSED: list[tuple[tuple[str, ...], str, Any]] = [
    (OTHERS, "LIMIT", 0),
    (OTHERS, "LIMIT", -2),
    (ALL[3:4], "LIMIT", -1),  # Anthropic's clients always name a number
    *((ALL, name, value) for name, value in (("top_p", -0.1), ("top_p", 1.1), ("top_k", -2), ("min_p", -1))),
    *((ALL, name, value) for name, value in (("temperature", -1), ("repeat_penalty", 0), ("repeat_last_n", -2))),
    *((ALL, name, 3) for name in ("max_length", "max_gen_len", "max_tokens_to_sample", "maxOutputTokens")),
    (ALL[:6], "max_new_tokens", 3),
    (ALL[1:], "max_completion_tokens", 3),
    ((*ALL[:2], *ALL[3:]), "max_output_tokens", 3),
    (ALL, "min_new_tokens", 3),
    ((*ALL[:3], *ALL[4:]), "stop_sequences", ["。"]),
]


@pytest.fixture(scope="module")
def asked(untaught: LoadedEngine) -> Iterator[tuple[TestClient, list[SamplingParams], int]]:
    """A client, the sampling of each request that reaches the engine, and its context length."""
    sampling: list[SamplingParams] = []
    stream = untaught.engine.stream

    def stream_one(request: GenerationRequest) -> Stream:
        sampling.append(request.sampling)
        return stream(replace(request, sampling=replace(request.sampling, max_new_tokens=1)))

    untaught.engine.stream = stream_one  # type: ignore[method-assign]
    app = create_app([ServedModel("tiny", untaught, Limits())])
    yield TestClient(app, base_url="http://127.0.0.1:8000"), sampling, untaught.engine.context_length
    untaught.engine.stream = stream  # type: ignore[method-assign]


def make_body(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    named = {LIMITS[path] if name == "LIMIT" else name: value for name, value in fields.items()}
    if not named.keys() & {*LIMITS.values(), "max_completion_tokens", "n_predict"}:
        named[LIMITS[path]] = 1
    if path == "/v1/messages":
        named.setdefault("max_tokens", 1)
    content = (
        {"input": "?"} if path == "/v1/responses" else CHAT if path in (ALL[0], ALL[3], ALL[4]) else {"prompt": "?"}
    )
    options = {"options": named, "stream": False} if path in OLLAMA else named
    return {"model": "tiny", **content, **options}


@pytest.mark.parametrize(
    ("fields", "paths", "meaning"),
    [(fields, paths, meaning) for paths, fields, meaning in MEANINGS],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_value_at_the_edge_means_what_its_clients_mean(
    fields: dict[str, Any],
    paths: tuple[str, ...],
    meaning: dict[str, Any],
    asked: tuple[TestClient, list[SamplingParams], int],
) -> None:
    client, sampling, context_length = asked
    for path in paths:
        sampling.clear()
        answer = client.post(path, json=make_body(path, fields))
        assert answer.status_code == 200, (path, answer.text)
        (seen,) = sampling
        for name, value in meaning.items():
            if name == "max_new_tokens":
                assert context_length // 2 < seen.max_new_tokens < context_length, path
            else:
                assert getattr(seen, name) == (pytest.approx(value) if isinstance(value, float) else value), path


@pytest.mark.parametrize(("paths", "name", "value"), REFUSED)
def test_a_value_without_a_meaning_is_refused_by_the_name_of_its_field(
    paths: tuple[str, ...], name: str, value: Any, asked: tuple[TestClient, list[SamplingParams], int]
) -> None:
    client, sampling, _ = asked
    for path in paths:
        sampling.clear()
        answer = client.post(path, json=make_body(path, {name: value}))
        assert answer.status_code == 400 and not sampling, path
        assert (LIMITS[path] if name == "LIMIT" else name) in answer.text, answer.text


def test_a_response_without_a_limit_says_so(asked: tuple[TestClient, list[SamplingParams], int]) -> None:
    answer = asked[0].post("/v1/responses", json={"model": "tiny", "input": "?", "max_output_tokens": -1}).json()
    assert answer["max_output_tokens"] is None
