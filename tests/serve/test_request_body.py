"""Request bodies: a wrong field is named, too much is refused before any work on it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from hanlin.core.errors import UserError
from hanlin.serve.server import serve
from live_server import LiveServer
from taught_model import LESSONS

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "?"}]


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
        ("/v1/embeddings", {"input": "x", "dimensions": 4096}, "dimensions"),
        ("/generate", {}, "prompt"),
        ("/generate", {"prompt": "x", "use_beam_search": True}, "use_beam_search"),
        ("/generate", {"history": [{"role": "Human"}]}, "history.0.content"),
    ],
)
def test_a_wrong_field_is_named(server: LiveServer, path: str, body: dict, param: str | None) -> None:
    request = {"model": "tiny", **({"messages": MESSAGES} if path == CHAT else {}), **body}
    answer = httpx.post(
        server.address + path, content=json.dumps(request), headers={"content-type": "application/json"}, timeout=300
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_no_other_site_is_invited(server: LiveServer) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (
        httpx.options(server.address + CHAT, headers=headers, timeout=300),
        httpx.get(f"{server.address}/v1/models", headers=headers, timeout=300),
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
    server: LiveServer, path: str, body: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(server.served_models[0].tokenizer), "encode", lambda *_, **__: pytest.fail("it was tokenized")
    )
    answer = httpx.post(server.address + path, json={"model": "tiny", **body}, timeout=300)
    assert answer.status_code == 400, answer.text
    assert "6000000 bytes" in answer.text and "holds 256" in answer.text


def test_a_body_beyond_the_limit_is_refused_while_it_comes(server: LiveServer) -> None:
    answer = httpx.post(server.address + CHAT, json={"model": "x" * (9 << 20)}, timeout=300)
    assert answer.status_code == 413


def test_deep_nesting_is_refused(server: LiveServer) -> None:
    for deep in (b"[" * 100_000, b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
        headers = {"content-type": "application/json"}
        assert httpx.post(server.address + CHAT, content=deep, headers=headers, timeout=300).status_code == 400


def test_a_base_model_without_a_template_is_refused_in_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match="there is no chat template here"):
        serve([tmp_path], port=0)


def test_two_models_of_one_name_are_refused_before_either_is_loaded(
    taught_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanlin.serve.loaded_model.load_engine", pytest.fail)
    with pytest.raises(UserError, match="two models are called taught"):
        serve([taught_model, taught_model], port=0, on_ready=pytest.fail)


def test_the_server_still_answers_after_all_this(server: LiveServer) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": LESSONS[0][0]}]}
    answer = httpx.post(server.address + CHAT, json=body, timeout=300).json()
    assert answer["choices"][0]["message"]["content"] == LESSONS[0][1]
