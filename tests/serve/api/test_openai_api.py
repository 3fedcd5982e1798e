"""The server, through the official client, against a real model over loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hanlin.core.errors import UserError
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.inference.protocol import FinishReason, GenerationRequest, Stream, TokenLogprobs
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.server import serve
from live_server import LiveServer, run_server
from taught_model import LESSONS, RARE
from waiting import wait_until

NAME, RARE_ASKED, COUNT = LESSONS[0], LESSONS[2][0], LESSONS[4]


def user_messages(text: str) -> list:
    return [{"role": "user", "content": text}]


def status_of(error: openai.APIStatusError) -> tuple[int, str | None, str | None]:
    assert isinstance(error.body, dict)
    return error.status_code, error.body["param"], error.body["code"]


# ------------------------------------------------------------------------------------------------- whole answers


def test_the_first_choice_is_the_models_answer(server: LiveServer) -> None:
    answer = server.client().chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", NAME[1])
    assert choice.finish_reason == "stop"
    assert (answer.object, answer.model, answer.id.startswith("chatcmpl-")) == ("chat.completion", "tiny", True)
    assert abs(answer.created - time.time()) < 60


def test_usage_counts_the_rendered_prompt_and_the_generated_ids(server: LiveServer, opened: LoadedEngine) -> None:
    from hanlin.core.records import Message

    answer = server.client().chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
    prompt = len(opened.load_template().render([Message("user", NAME[0])], prompt=True).ids)
    written = len(opened.tokenizer.encode(NAME[1]))
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, written)
    assert answer.usage.total_tokens == prompt + written


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_at_its_limit_says_so(server: LiveServer, name: str) -> None:
    limit: dict[str, Any] = {name: 3}
    answer = server.client().chat.completions.create(model="tiny", messages=user_messages(COUNT[0]), **limit)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 3


def test_a_stop_text_ends_the_answer_and_is_not_in_it(server: LiveServer) -> None:
    answer = server.client().chat.completions.create(
        model="tiny", messages=user_messages(COUNT[0]), stop=[" four", "zzz"]
    )
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"


def test_text_parts_are_one_text(server: LiveServer) -> None:
    parts: Any = [{"type": "text", "text": NAME[0][:2]}, {"type": "text", "text": NAME[0][2:]}]
    answer = server.client().chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == NAME[1]


def test_equal_seeds_draw_equal_answers_and_other_seeds_others(untaught: LoadedEngine) -> None:
    with run_server(untaught) as server:

        def sample(seed: int) -> str | None:
            answer = server.client().chat.completions.create(
                model="tiny", messages=user_messages("?"), temperature=1.0, seed=seed, max_tokens=20
            )
            return answer.choices[0].message.content

        assert sample(1) == sample(1) != sample(2)


# ---------------------------------------------------------------------------------------------------- streaming


def test_a_streamed_answer_is_the_whole_answer_in_openais_order(server: LiveServer) -> None:
    chunks = list(server.client().chat.completions.create(model="tiny", messages=user_messages(NAME[0]), stream=True))
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == NAME[1]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_rare_characters_are_streamed_whole(server: LiveServer) -> None:
    chunks = server.client().chat.completions.create(model="tiny", messages=user_messages(RARE_ASKED), stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert pieces == list(RARE)


def test_a_gguf_file_is_served_alike(taught_gguf: Path) -> None:
    opened = load_engine(taught_gguf, "Q8_0")
    with run_server(opened) as server:
        chunks = server.client().chat.completions.create(model="tiny", messages=user_messages(RARE_ASKED), stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
        answer = server.client().chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
    opened.engine.close()
    assert (pieces, answer.choices[0].message.content) == (list(RARE), NAME[1])


def test_usage_comes_last_if_it_is_requested(server: LiveServer) -> None:
    chunks = list(
        server.client().chat.completions.create(
            model="tiny", messages=user_messages(NAME[0]), stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_stream_ends_with_done_and_is_plain_utf8(server: LiveServer) -> None:
    body = {"model": "tiny", "messages": user_messages(NAME[0]), "stream": True}
    answer = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=300)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "小" in answer.text


def test_no_part_of_a_stop_text_is_streamed(server: LiveServer) -> None:
    chunks = server.client().chat.completions.create(
        model="tiny", messages=user_messages(COUNT[0]), stream=True, stop="three f"
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two "


def test_a_client_that_leaves_a_stream_cancels_the_generation(untaught: LoadedEngine) -> None:
    with run_server(untaught) as server:
        stream = server.client().chat.completions.create(model="tiny", messages=user_messages("?"), stream=True)
        assert [next(iter(stream)).choices[0].delta.role, bool(next(iter(stream)).choices)] == ["assistant", True]
        stream.close()
        assert finish_of(server) == "cancelled"


def test_a_client_that_leaves_a_whole_answer_cancels_the_generation(untaught: LoadedEngine) -> None:
    with run_server(untaught, pause=0.02) as server:
        body = json.dumps({"model": "tiny", "messages": user_messages("?")}).encode()
        address = httpx.URL(server.address)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((address.host, address.port or 80)) as client:
            client.sendall(head.encode() + body)
            wait_until(lambda: server.streams)
        assert finish_of(server) == "cancelled"


def finish_of(server: LiveServer) -> str | None:
    """Why the last generation ended, once it has."""
    wait_until(lambda: server.streams and server.streams[-1].finish_reason is not None)
    return server.streams[-1].finish_reason


def test_the_server_answers_others_while_it_generates(untaught: LoadedEngine) -> None:
    may_go_on = threading.Event()
    with run_server(untaught, pause=may_go_on.wait) as server:
        answer = server.client().chat.completions.create(
            model="tiny", messages=user_messages("?"), stream=True, max_tokens=5
        )
        try:
            wait_until(lambda: server.streams)
            assert httpx.get(f"{server.address}/health", timeout=300).json() == {"status": "ok"}
        finally:
            may_go_on.set()
        assert list(answer)[-1].choices[0].finish_reason == "length"


def test_parallel_clients_get_each_their_own_answer(server: LiveServer) -> None:
    answers: dict[int, str | None] = {}

    def ask(index: int) -> None:
        text = LESSONS[index % len(LESSONS)][0]
        answer = server.client().chat.completions.create(model="tiny", messages=user_messages(text))
        answers[index] = answer.choices[0].message.content

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert answers == {index: LESSONS[index % len(LESSONS)][1] for index in range(10)}


# ------------------------------------------------------------------------------------------------------- errors


def refused(server: LiveServer, **body: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(openai.APIStatusError) as caught:
        server.client().chat.completions.create(**{"model": "tiny", "messages": user_messages("?"), **body})
    return status_of(caught.value)


def test_an_unknown_model_is_not_found(server: LiveServer) -> None:
    with pytest.raises(openai.NotFoundError, match="only 'tiny'") as caught:
        server.client().chat.completions.create(model="gpt-4", messages=user_messages("?"))
    assert status_of(caught.value) == (404, "model", "model_not_found")


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError, match=r"is \d{3} tokens long, but .* holds 256") as caught:
        server.client().chat.completions.create(model="tiny", messages=user_messages("长" * 200))
    assert status_of(caught.value) == (400, "messages", "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 17}, "n"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"extra_body": {"web_search_options": {}}}, "web_search_options"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "?"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"extra_body": {"temprature": 0.5}}, "temprature"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(server: LiveServer, body: dict, param: str) -> None:
    status, named, _ = refused(server, **body)
    assert (status, named) == (400, param)


@pytest.mark.parametrize(
    "body", [{"n": 1}, {"user": "u1"}, {"presence_penalty": 0.0}, {"response_format": {"type": "text"}}, {"tools": []}]
)
def test_what_changes_nothing_is_taken(server: LiveServer, body: dict) -> None:
    answer = server.client().chat.completions.create(**{"model": "tiny", "messages": user_messages(NAME[0]), **body})
    assert answer.choices[0].message.content == NAME[1]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": "tiny"}'])
def test_a_broken_body_is_refused_in_openais_form(server: LiveServer, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.address}/v1/chat/completions", content=body, headers=headers, timeout=300)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_a_web_page_could_send_across_sites_is_refused(server: LiveServer) -> None:
    body = json.dumps({"model": "tiny", "messages": user_messages("?")})
    headers = {"content-type": "text/plain"}
    assert (
        httpx.post(f"{server.address}/v1/chat/completions", content=body, headers=headers, timeout=300).status_code
        == 415
    )


def test_a_huge_body_is_refused_while_it_is_read(server: LiveServer) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(
        f"{server.address}/v1/chat/completions", content=b" " * (33 * 2**20), headers=headers, timeout=300
    )
    assert answer.status_code == 413


def test_an_unknown_path_is_a_404_in_openais_form(server: LiveServer) -> None:
    answer = httpx.get(f"{server.address}/v1/nowhere", timeout=300)
    assert (answer.status_code, set(answer.json()["error"])) == (404, {"message", "type", "param", "code"})


def test_a_failure_in_the_engine_is_reported_without_details(
    opened: LoadedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with run_server(opened) as server:

        def broken(request: GenerationRequest) -> Stream:
            raise RuntimeError("secret path")

        server.engine.stream = broken  # type: ignore[method-assign]
        status, body = 0, ""
        answer = httpx.post(
            f"{server.address}/v1/chat/completions", json={"model": "tiny", "messages": user_messages("?")}, timeout=300
        )
        status, body = answer.status_code, answer.text
    assert (status, "secret" in body) == (500, False)
    assert answer.json()["error"]["type"] == "server_error"


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(opened: LoadedEngine) -> None:
    with run_server(opened) as server:
        begin = server.engine.stream

        def breaking(request: GenerationRequest) -> Stream:
            stream = begin(request)
            ids = iter([next(stream), next(stream)])
            return BreakingStream(stream, ids)

        server.engine.stream = breaking  # type: ignore[method-assign]
        body = {"model": "tiny", "messages": user_messages(COUNT[0]), "stream": True}
        answer = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=300)
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"


class BreakingStream:
    """A real stream that breaks after its first ids, as one does when memory runs out."""

    def __init__(self, stream: Stream, ids: Iterator[int]) -> None:
        self._stream, self._ids = stream, ids

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._stream.finish_reason

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        return self._stream.logprobs

    @property
    def cached_tokens(self) -> int | None:
        return self._stream.cached_tokens

    def __iter__(self) -> Iterator[int]:
        yield from self._ids
        raise MemoryError

    def __next__(self) -> int:
        raise NotImplementedError

    def cancel(self) -> None:
        self._stream.cancel()

    def close(self) -> None:
        self._stream.close()


# ------------------------------------------------------------------------------------------- models, keys, hosts


def test_the_model_is_listed_and_found(server: LiveServer) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    card = client.models.retrieve("tiny")
    assert card.object == "model"
    assert card.model_extra and card.model_extra["max_model_len"] == server.engine.context_length
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_without_the_key_nothing_is_answered_but_health(opened: LoadedEngine) -> None:
    with run_server(opened, AccessPolicy(("k3y",))) as server:
        with pytest.raises(openai.AuthenticationError) as caught:
            server.client("wrong").models.list()
        assert status_of(caught.value) == (401, None, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
        answer = server.client("k3y").chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
        assert answer.choices[0].message.content == NAME[1]
        assert httpx.get(f"{server.address}/health", timeout=300).status_code == 200


def test_a_foreign_host_name_is_refused(server: LiveServer) -> None:
    assert httpx.get(f"{server.address}/v1/models", headers={"host": "evil.example"}, timeout=300).status_code == 403


# -------------------------------------------------------------------------------------------------------- serve


def test_serve_opens_a_model_and_ends_on_interrupt(taught_model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hanlin.serve.server import serve; "
        "serve([Path(sys.argv[1])], port=0)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HANLIN_LANG": "en", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(taught_model)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving taught at http://127.0.0.1:")
        with openai.OpenAI(base_url=line.split()[3], api_key="none", max_retries=0, timeout=300) as client:
            answer = client.chat.completions.create(model="taught", messages=user_messages(NAME[0]))
        assert answer.choices[0].message.content == NAME[1]
        process.send_signal(signal.SIGINT)
        process.wait(300)
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: cannot listen here.*choose another port"):
            serve([tmp_path / "nowhere"], port=port)


def test_the_network_is_not_served_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no API key"):
        serve([tmp_path], host="0.0.0.0")
