"""An engine that is a server: llama.cpp's own answers with a key; one that means harm is bounded."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.inference.backends.http.client import KEY_VARIABLE
from hanlin.inference.protocol import EngineUnavailableError, GenerationRequest, PromptScoreRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hostile_server import HEAD, Answer, forever, host, whole

REQUEST = GenerationRequest((20, 30, 40), (), SamplingParams(max_new_tokens=6))


@pytest.fixture(scope="module")
def llama_server_url(spoken_gguf: Path) -> Iterator[tuple[str, str]]:
    """The address and the key of llama.cpp's own server."""
    key = secrets.token_urlsafe(16)
    command = [sys.executable, "-m", "hanlin.parity.backends.llama_cpp_server", str(spoken_gguf / "model-F32.gguf")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(key + "\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())["address"], key
        process.kill()


def test_a_server_of_llama_cpp_is_an_engine_and_its_key_is_needed(
    llama_server_url: tuple[str, str], spoken_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = llama_server_url
    file = spoken_gguf / "model-F32.gguf"
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UserError, match="no server of this model can be reached"):
        create_engine("llama_server", file, at=[url])
    monkeypatch.setenv(KEY_VARIABLE, key)
    engine = create_engine("llama_server", file, at=[url + "/v1"])
    (theirs,) = engine.generate([REQUEST])
    assert theirs.ids and theirs.finish_reason in ("stop", "length")
    stream = engine.stream(GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=200)))
    assert next(stream) >= 0
    stream.cancel()
    assert len(list(stream)) < 200 and stream.finish_reason == "cancelled"
    engine.close()


def llama_server(stream: Answer | bytes) -> Answer:
    """What calls itself llama-server, until it is asked for an answer."""
    pages = {
        b"/props": {"default_generation_settings": {"n_ctx": 64}},
        b"/v1/models": {"data": [{"id": "m", "meta": {"n_vocab": 300}}]},
        b"/health": {},
    }

    def answer(connection: socket.socket, request: bytes) -> None:
        page = next((page for path, page in pages.items() if request.startswith(b"GET " + path)), None)
        if page is not None:
            connection.sendall(whole(json.dumps(page).encode()))
        elif isinstance(stream, bytes):
            connection.sendall(stream)
        else:
            stream(connection, request)

    return answer


def event(row: object) -> bytes:
    return b"data: " + json.dumps(row).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (forever(event({"tokens": [7], "tokens_predicted": 1}), head=HEAD + b"\r\n"), "more tokens came"),
        (forever(b"x" * 65536, head=HEAD + b"\r\n"), "longer than"),
        (HEAD + b"\r\n" + event([1]), "broke off"),
        (HEAD + b"\r\n" + event({"tokens": "x", "tokens_predicted": {}}), "broke off"),
        (HEAD + b"\r\n" + b"data: " + b"[" * 100_000 + b"\n\n", "broke off"),
        (HEAD + b"\r\n", "broke off"),
        (whole(b"<html>", "Content-Type: text/html"), "no stream of events"),
        (whole(b"", "Location: http://127.0.0.1:1/", status="307 Temporary Redirect"), "sends to another address"),
    ],
    ids=str.split("endless_tokens line_without_end a_list odd_types deep_json nothing other_type redirect"),
)
def test_an_answer_of_a_server_that_means_harm_is_bounded_and_one_sentence(
    answer: Answer | bytes, told: str, spoken_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    with host(llama_server(answer)) as server:
        engine = create_engine("llama_server", spoken_gguf / "model-F32.gguf", at=[server.url])
        with pytest.raises((EngineUnavailableError, UserError), match=told) as error:
            engine.generate([REQUEST])
        engine.close()
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"data": {}}', b'{"data": ["m"]}', b"<html>", b"[" * 100_000])
def test_a_server_of_another_kind_is_refused(body: bytes, spoken_gguf: Path) -> None:
    for engine in ("llama_server", "vllm"):
        model = spoken_gguf / "model-F32.gguf"
        with host(whole(body)) as server, pytest.raises(UserError):
            create_engine(engine, model, at=[server.url])


def test_of_a_vllm_a_text_that_leaves_no_place_for_a_token_is_refused_before_it_is_sent(spoken_model: Path) -> None:
    """VLLM writes at least one token behind what it scores: a prompt as long as `max_model_len` is an error there."""
    listed = json.dumps({"data": [{"id": "m", "max_model_len": 16}]}).encode()
    with host(whole(listed)) as server:
        engine = create_engine("vllm", spoken_model, at=[server.url])
        asked_before = len(server.received)
        assert (engine.context_length, engine.max_scored_length) == (16, 15)
        with pytest.raises(UserError, match="16 tokens long, but at most 15 can be scored"):
            engine.score([((20,) * 15, (30,))])
        with pytest.raises(UserError, match="16 tokens long, but at most 15 can be scored"):
            engine.score_prompts([PromptScoreRequest((20,) * 16)])
        assert len(server.received) == asked_before
        engine.close()
