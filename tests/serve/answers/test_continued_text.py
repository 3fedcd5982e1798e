"""Prompts of plain text: a SentencePiece tokenizer's leading space, and Ollama's `truncate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.inference.loading import load_engine
from hanlin.tokenizer.tokenizer import Tokenizer
from live_server import LiveServer, run_server
from scripted_model import ScriptedModel
from tiny_llama import tiny_llama
from tokenizer_folders import tiny_sentencepiece

__all__ = ["tiny_sentencepiece"]


@pytest.fixture(scope="module")
def sentencepiece_server(
    tiny_sentencepiece: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ScriptedModel, LiveServer]]:
    folder = tmp_path_factory.mktemp("sentencepiece") / "model"
    tokenizer = Tokenizer.load(tiny_sentencepiece)
    tiny_llama(folder, tokenizer, seed=0)
    ChatTemplate.from_packaged("plain", tokenizer).save(folder)
    opened = load_engine(folder)
    script = ScriptedModel(opened, " world")
    script.continues = True
    with run_server(opened, names=("tiny",)) as server:
        yield script, server
    opened.engine.close()


def post(server: LiveServer, path: str, **body: Any) -> Any:
    answer = httpx.post(server.address + path, json={"model": "tiny", "stream": False, **body}, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_space_before_a_continued_text_stays(sentencepiece_server: tuple[ScriptedModel, LiveServer]) -> None:
    script, server = sentencepiece_server
    ids = script.tokenizer.encode("hello")
    for prompt in ("hello", ids, ["hello", "a"]):
        choices = post(server, "/v1/completions", prompt=prompt)["choices"]
        assert {choice["text"] for choice in choices} == {" world"}
    assert post(server, "/v1/completions", prompt="hello", echo=True)["choices"][0]["text"] == "hello world"
    assert post(server, "/api/generate", prompt="hello", raw=True)["response"] == " world"
    assert post(server, "/generate", prompt="hello")["text"] == ["hello world"]
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "hello"}]
    assert post(server, "/api/chat", messages=turns)["message"]["content"] == " world"


def test_an_answer_of_its_own_begins_without_a_space(sentencepiece_server: tuple[ScriptedModel, LiveServer]) -> None:
    _, server = sentencepiece_server
    turns = [{"role": "user", "content": "?"}]
    assert post(server, "/v1/chat/completions", messages=turns)["choices"][0]["message"]["content"] == "world"
    assert post(server, "/v1/completions", prompt="")["choices"][0]["text"] == "world"


# ------------------------------------------------------------------------------------------------------- truncation

LONG = "春天的院子里开满了花" * 60
TURNS = [{"role": "user", "content": "春天"}, {"role": "assistant", "content": "花" * 40}] * 12


def test_ollama_drops_the_oldest_turns_of_a_conversation_that_does_not_fit(server: LiveServer) -> None:
    asked = [{"role": "system", "content": "你是小翰。"}, *TURNS, {"role": "user", "content": "你叫什么名字？"}]
    for fields in ({}, {"truncate": True}):
        answer = post(server, "/api/chat", messages=asked, options={"num_predict": 8}, **fields)
        assert 120 < answer["prompt_eval_count"] <= 248
    refused = {"model": "tiny", "messages": asked, "truncate": False}
    assert httpx.post(f"{server.address}/api/chat", json=refused, timeout=300).status_code == 400
    short = post(server, "/api/chat", messages=asked[-1:], truncate=False)
    assert short["message"]["content"] == post(server, "/api/chat", messages=asked[-1:])["message"]["content"]


@pytest.mark.parametrize("fields", [{}, {"raw": True}, {"system": "你是小翰。"}], ids=str)
def test_ollama_keeps_the_end_of_a_prompt_that_does_not_fit(server: LiveServer, fields: dict[str, Any]) -> None:
    answer = post(server, "/api/generate", prompt=LONG, options={"num_predict": 8}, **fields)
    assert 200 < answer["prompt_eval_count"] <= 248
    body = {"model": "tiny", "prompt": LONG, "truncate": False, **fields}
    refused = httpx.post(f"{server.address}/api/generate", json=body, timeout=300)
    assert refused.status_code == 400 and "tokens" in refused.json()["error"]
