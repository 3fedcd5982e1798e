"""The chat with a server that means harm: its answer is bounded, its text is shown and not obeyed, the key stays."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.cli.chat.backends import RemoteServer
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hostile_server import HEAD, Answer, forever, host, whole

MODELS = whole(json.dumps({"data": [{"id": "m"}]}).encode())
HARM = "\x1b]52;c;cm0gLXJm\x07\x9b2J\u202e好\rX"


def event(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


def chat_server(stream: Answer | bytes) -> Answer:
    def answer(connection: object, request: bytes) -> None:
        if request.startswith(b"GET"):
            connection.sendall(MODELS)  # type: ignore[attr-defined]
        elif isinstance(stream, bytes):
            connection.sendall(stream)  # type: ignore[attr-defined]
        else:
            stream(connection, request)  # type: ignore[arg-type]

    return answer


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (forever(event(content="好" * 99), head=HEAD + b"\r\n"), "more than was asked for"),
        (forever(event(reasoning="好" * 99), head=HEAD + b"\r\n"), "more than was asked for"),
        (forever(b"data: x" * 10_000, head=HEAD + b"\r\n"), "longer than"),
        (HEAD + b"\r\ndata: [1]\n\n", "not an OpenAI-compatible server"),
        (HEAD + b"\r\ndata: " + b"[" * 100_000 + b"\n\n", "not an OpenAI-compatible server"),
        (whole(b"{}", "Content-Type: application/json"), "no stream of events"),
        (whole(b"x" * 9_000, status="500 Sorry"), r"x \(500\)"),
        (whole(b"", "Location: http://127.0.0.1:1/", status="308 Permanent"), "sends to another address"),
    ],
    ids=str.split("endless_text endless_reasoning line_without_end a_list deep_json other_type long_error redirect"),
)
def test_an_answer_is_bounded_and_a_fault_is_one_sentence(stream: Answer | bytes, told: str) -> None:
    with host(chat_server(stream)) as server:
        backend = RemoteServer(server.url, "", {"max_new_tokens": 40}, "sk-secret")
        with pytest.raises(UserError, match=told) as error:
            backend.answer([Message("user", "?")], lambda piece: None)
        backend.close()
    assert len(str(error.value)) < 1000 and "sk-secret" not in str(error.value)


def test_events_of_odd_types_are_passed_over() -> None:
    rows: list[object] = [
        {"choices": None},
        {"choices": [1, {"delta": 1}, {"delta": {"content": [1]}}]},
        {"error": None},
    ]
    body = b"".join(b"data: " + json.dumps(row).encode() + b"\n\n" for row in rows)
    body += event(content="\ud800好") + b"data: [DONE]\n\n"
    with host(chat_server(HEAD + b"\r\n" + body)) as server:
        backend = RemoteServer(server.url, "", {})
        assert backend.answer([Message("user", "?")], lambda piece: None).text == "\ufffd好"
        backend.close()


def test_a_terminal_is_shown_what_it_would_obey_and_a_pipe_gets_the_answer_as_it_is(tmp_path: Path) -> None:
    with host(chat_server(HEAD + b"\r\n" + event(content=HARM) + b"data: [DONE]\n\n")) as server:
        command = [sys.executable, "-m", "hanlin", "chat", server.url, "-m", "?"]
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
        piped = subprocess.run(command, capture_output=True, env=environment, timeout=300)
        assert piped.stdout.decode() == HARM + "\n"
        master, slave = pty.openpty()
        done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, env=environment, timeout=300)
        os.close(slave)
        shown = os.read(master, 65536).decode()
        os.close(master)
    assert done.returncode == 0
    assert r"\x1b]52;c;cm0gLXJm\x07\x9b2J\u202e好\x0dX" in shown and "\x1b" not in shown


def test_a_servers_error_is_shown_and_not_obeyed() -> None:
    with host(whole(json.dumps({"error": {"message": HARM}}).encode(), status="400 No")) as server:
        command = [sys.executable, "-m", "hanlin", "chat", server.url, "-m", "?"]
        done = subprocess.run(command, capture_output=True, timeout=300)
    told = done.stderr.decode()
    assert done.returncode == 2 and r"\x1b]52;" in told and "\x1b]" not in told and "\r" not in told


def test_an_answer_that_breaks_off_without_its_end_is_not_taken_for_whole() -> None:
    """Of a connection that the server closes nothing else tells whether all of the answer came."""
    with host(chat_server(HEAD + b"\r\n" + event(content="好"))) as server:
        backend = RemoteServer(server.url, "", {})
        with pytest.raises(UserError, match="the answer has no end"):
            backend.answer([Message("user", "?")], lambda piece: None)
        backend.close()
