"""Ollama's API, through its official client and as people type it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator

import httpx
import ollama
import pytest

from hanlin.inference.loading import LoadedEngine
from live_server import LiveServer, run_server
from taught_model import LESSONS

NAME, COUNT, ENGLISH = LESSONS[0], LESSONS[4], LESSONS[3]
MODEL_PAGE_NAME = "Llama-3-8B-Instruct-Chinese"


@pytest.fixture()
def client(server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(server.address, timeout=300) as ollama_client:
        yield ollama_client


def user_messages(text: str) -> list:
    return [{"role": "user", "content": text}]


def test_a_chat_is_the_models_answer(client: ollama.Client) -> None:
    answer = client.chat("tiny", user_messages(NAME[0]))
    assert (answer.message.content, answer.done, answer.done_reason) == (NAME[1], True, "stop")
    assert answer.eval_count and answer.prompt_eval_count and answer.total_duration
    assert client.chat("tiny:latest", user_messages(NAME[0])).message.content == NAME[1]


def test_prompt_time_and_answer_time_add_up_to_the_total(client: ollama.Client) -> None:
    *_, last = client.generate("tiny", NAME[0], stream=True)
    for response in (client.generate("tiny", NAME[0]), last):
        assert response.prompt_eval_duration and response.eval_duration and response.total_duration
        assert response.prompt_eval_duration + response.eval_duration == response.total_duration


def test_a_streamed_chat_is_the_same(client: ollama.Client) -> None:
    parts = list(client.chat("tiny", user_messages(NAME[0]), stream=True))
    assert "".join(part.message.content or "" for part in parts) == NAME[1]
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_generate_asks_a_question_or_continues_raw_text(client: ollama.Client) -> None:
    assert client.generate("tiny", ENGLISH[0]).response == ENGLISH[1]
    assert "".join(part.response or "" for part in client.generate("tiny", NAME[0], stream=True)) == NAME[1]
    raw = client.generate("tiny", "one two", raw=True, options={"num_predict": 3})
    assert (raw.eval_count, raw.done_reason) == (3, "length")
    assert client.generate("tiny").done_reason == "load"


def test_options_are_honored_or_refused(client: ollama.Client) -> None:
    answer = client.chat(
        "tiny", user_messages(COUNT[0]), options={"stop": [" four"], "temperature": 0, "num_ctx": 4096}
    )
    assert answer.message.content == "one two three"
    answers = [
        client.chat(
            "tiny", user_messages("?"), options={"temperature": 2.0, "seed": 4, "num_predict": 9}
        ).message.content
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    with pytest.raises(ollama.ResponseError, match="mirostat=2 is not supported"):
        client.chat("tiny", user_messages("?"), options={"mirostat": 2})


def test_an_answer_obeys_the_format_of_the_request(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = client.chat("tiny", user_messages("?"), format=schema)
    assert isinstance(json.loads(answer.message.content or "")["ok"], bool)


def test_embeddings_have_length_one(client: ollama.Client) -> None:
    answer = client.embed("tiny", ["春天", "翰林院"])
    assert [sum(value * value for value in row) for row in answer.embeddings] == pytest.approx([1, 1], abs=1e-4)
    assert client.embeddings("tiny", "春天").embedding == pytest.approx(answer.embeddings[0])


def test_an_embedding_of_nothing_asks_whether_the_model_is_loaded(client: ollama.Client, server: LiveServer) -> None:
    assert client.embed("tiny", "").embeddings == client.embed("tiny", []).embeddings == []
    assert httpx.post(f"{server.address}/api/embed", json={"model": "tiny"}, timeout=300).json()["embeddings"] == []
    assert client.embeddings("tiny", "").embedding == []
    with pytest.raises(ollama.ResponseError) as error:
        client.embed("other", "")
    assert error.value.status_code == 404


def test_what_there_is_can_be_listed_and_shown(client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert (listed.model, listed.details.format if listed.details else "") == ("tiny", "safetensors")
    assert listed.size and listed.size > 10_000
    shown = client.show("tiny")
    assert shown.modelinfo and shown.modelinfo["llama.context_length"] == 256
    assert shown.template and "start_header_id" in shown.template
    assert client.ps().models[0].context_length == 256


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_clients_that_ask_whether_there_is_an_ollama_find_one(server: LiveServer, method: str, path: str) -> None:
    response = httpx.request(method, f"{server.address}{path}", timeout=300)
    assert response.status_code == 200
    assert bool(response.content) == (method == "GET")


def test_the_version_is_that_of_the_api_and_ours_is_beside_it(server: LiveServer) -> None:
    from hanlin.core.version import __version__

    version = httpx.get(f"{server.address}/api/version", timeout=300).json()
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4) and version["hanlin"] == __version__


def test_errors_have_ollamas_form(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="there is no model 'llama3', only 'tiny'") as caught:
        client.chat("llama3", user_messages("?"))
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="tokens long, but the model's context holds 256"):
        client.chat("tiny", user_messages("长" * 300))


def test_the_asynchronous_client_streams_the_same(server: LiveServer) -> None:
    async def ask() -> str:
        async with ollama.AsyncClient(server.address) as async_client:
            parts = await async_client.chat("tiny", user_messages(NAME[0]), stream=True)
            return "".join([part.message.content or "" async for part in parts])

    assert asyncio.run(ask()) == NAME[1]


def test_curl_without_a_content_type_works_but_not_from_a_web_page(server: LiveServer) -> None:
    data = json.dumps({"model": "tiny", "prompt": NAME[0], "stream": False})
    done = subprocess.run(
        ["curl", "-s", f"{server.address}/api/generate", "-d", data], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["response"] == NAME[1]
    headers = {"content-type": "text/plain", "origin": "https://evil.example"}
    assert httpx.post(f"{server.address}/api/generate", content=data, headers=headers, timeout=300).status_code == 415


def test_the_curl_that_the_models_page_prints_works_with_its_port(opened: LoadedEngine) -> None:
    with run_server(opened, names=(MODEL_PAGE_NAME,)) as server:
        body = {"model": MODEL_PAGE_NAME, "messages": user_messages(NAME[0])}
        command = [
            "curl",
            "-s",
            "--location",
            f"{server.address}/api/chat",
            "--header",
            "Content-Type: application/json",
        ]
        done = subprocess.run(
            [*command, "--data", json.dumps(body, indent=4)], capture_output=True, text=True, check=True
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == NAME[1]
    assert lines[-1]["done"] is True
