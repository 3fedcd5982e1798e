"""What the backend says when something else than a willing vLLM answers at the address that it was given."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.parity.backends import vllm
from hanlin.parity.backends.base import ChatPrompt, openai_messages
from hanlin.parity.backends.vllm import VllmBackend

PROMPT = ChatPrompt((Message("user", "你好"),))
MODELS = json.dumps({"object": "list", "data": [{"id": "big"}, {"id": "small"}]})


@contextmanager
def answering(answers: dict[str, tuple[int, str]], bodies: list[bytes] | None = None) -> Iterator[str]:
    """A server whose paths answer as they are told; all others are not found. What it is sent is added to `bodies`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if bodies is not None:
                bodies.append(body)
            status, text = answers.get(self.path, (404, '{"detail":"Not Found"}'))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def refusal(answers: dict[str, tuple[int, str]], model: str = "") -> str:
    with answering(answers) as url, pytest.raises(UserError) as told:
        VllmBackend(url, model=model).render_prompts([PROMPT])
    return str(told.value)


def test_nobody_listening_is_told_with_how_to_start_vllm() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be reached: .*vllm serve"):
        VllmBackend(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "file:///etc/hosts", "http://"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="not the address of a server"):
        VllmBackend(url)


def test_a_server_that_never_answers_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="no answer"):
        VllmBackend(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_another_server_is_told_from_vllm() -> None:
    assert "not vLLM" in refusal({})
    assert "not vLLM" in refusal({"/v1/models": (200, "<html>")})
    assert "not vLLM" in refusal({"/v1/models": (200, "[]")})
    assert "not vLLM" in refusal({"/v1/models": (200, '{"data": []}')})
    assert "has no /tokenize" in refusal({"/v1/models": (200, MODELS)})


@pytest.mark.parametrize("answer", ["", "[1]", "{}", '{"tokens": null}', '{"tokens": ["1"]}', '{"tokens": [true]}'])
def test_an_answer_without_ids_is_no_answer(answer: str) -> None:
    assert "not vLLM" in refusal({"/v1/models": (200, MODELS), "/tokenize": (200, answer)})


def test_a_refused_key_is_told() -> None:
    assert "refuses the key (401)" in refusal({"/v1/models": (401, '{"error":"Unauthorized"}')})


def test_a_redirection_is_not_followed_with_the_key() -> None:
    assert "sends to another address" in refusal({"/v1/models": (302, "http://127.0.0.1:1/v1/models")})


def test_a_model_that_is_not_served_is_told_with_the_nearest_that_is() -> None:
    assert "did you mean small?" in refusal({"/v1/models": (200, MODELS)}, model="smal")


def test_what_vllm_says_of_a_refusal_is_told() -> None:
    told = json.dumps({"error": {"message": "roles must alternate", "code": 400}})
    with answering({"/v1/models": (200, MODELS), "/tokenize": (400, told)}) as url:
        assert VllmBackend(url).render_prompts([PROMPT]) == ["vLLM answers 400: roles must alternate"]
    assert "answers 500: Internal" in refusal({"/v1/models": (200, MODELS), "/tokenize": (500, "Internal\nerror")})


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_ids_come_from_the_model_that_was_asked_for_however_the_address_ends(ending: str) -> None:
    with answering({"/v1/models": (200, MODELS), "/tokenize": (200, '{"tokens": [1, 2]}')}) as url:
        assert VllmBackend(url + ending).model == "big"
        backend = VllmBackend(url + ending, model="small")
        assert backend.model == "small"
        assert backend.render_prompts([PROMPT] * 9) == [[1, 2]] * 9
        assert backend.render_prompts([]) == []
        backend.close()


def test_reasoning_is_sent_in_the_field_that_tokenize_reads() -> None:
    """`/tokenize` of vLLM 0.32 leaves `reasoning_content` out of the prompt without a word."""
    thinking = Message("assistant", "", (ToolCall("a", {}),), reasoning="想")
    prompt = ChatPrompt((Message("user", "?"), thinking, Message("tool", "1", name="a")))
    bodies: list[bytes] = []
    with answering({"/v1/models": (200, MODELS), "/tokenize": (200, '{"tokens": [1]}')}, bodies) as url:
        VllmBackend(url).render_prompts([prompt])
    sent = json.loads(bodies[-1])["messages"][1]
    assert sent["reasoning"] == "想" and "reasoning_content" not in sent


def test_a_call_has_an_id_that_its_result_names_and_its_arguments_as_text() -> None:
    calls = (ToolCall("a", {"城": [1.0, None]}), ToolCall("b", {}))
    messages = [
        Message("user", "?"),
        Message("assistant", "", calls),
        Message("tool", "one", name="a"),
        Message("tool", "two"),
    ]
    _, calling, first, second = openai_messages(messages)
    assert [call["id"] for call in calling["tool_calls"]] == [first["tool_call_id"], second["tool_call_id"]]
    assert [call["function"]["arguments"] for call in calling["tool_calls"]] == ['{"城": [1.0, null]}', "{}"]
    assert (first["name"], first["content"]) == ("a", "one")
    assert dict(calls[0].arguments) == {"城": [1.0, None]}
