"""A server that is told to stop ends within its drain time, whatever runs, and leaves no process; keys stay hidden."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.core.process import descendants
from hanlin.serve.auth import KeyLimits, make_access_policy, read_key_file, read_keys
from waiting import wait_until

DRAIN_SECONDS = 3.0
MESSAGES = [{"role": "user", "content": "?"}]


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hanlin", "serve", f"m={model}", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HANLIN_LANG": "en", "PYTHONPATH": os.pathsep.join(sys.path), "HANLIN_API_KEY": ""},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving m at http://"), line
        yield process, line.split()[3].removesuffix("/v1")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_programs_are_told_in_json_where_the_server_answers(untaught_gguf: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hanlin", "serve", f"m={untaught_gguf / 'model-F32.gguf'}", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HANLIN_API_KEY": ""},
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["models"] == ["m"] and told["openai"] == f"{told['url']}/v1"
        wait_until(lambda: httpx.get(f"{told['url']}/health", timeout=60).status_code == 200)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
def test_a_server_ends_in_time_although_its_engine_hangs_and_clients_are_slow(untaught_gguf: Path) -> None:
    with (
        ExitStack() as stack,
        serving(untaught_gguf / "model-F32.gguf", "--drain", str(DRAIN_SECONDS)) as (process, address),
    ):
        host, port = address.removeprefix("http://").split(":")
        schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
        chat = {"model": "m", "messages": MESSAGES, "max_tokens": 2, "response_format": schema}
        assert httpx.post(f"{address}/v1/chat/completions", json=chat, timeout=300).status_code == 200
        children = descendants(process.pid)
        engine = next(child for child in children if b"process.child" in Path(f"/proc/{child}/cmdline").read_bytes())
        assert len(children) >= 3  # the engine, the grammar process and its workers
        os.kill(engine, signal.SIGSTOP)
        for path, body in (
            ("/v1/embeddings", {"model": "m", "input": "x"}),
            ("/v1/completions", {"model": "m", "prompt": "x", "stream": True}),
            ("/v1/chat/completions", chat),
        ):
            slow = stack.enter_context(socket.create_connection((host, int(port)), timeout=300))
            content = json.dumps(body)
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
        unfinished = stack.enter_context(socket.create_connection((host, int(port)), timeout=300))
        unfinished.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n".encode())
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0  # no answer would end by itself before its time of 600 seconds
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "a process is left")


def test_a_key_in_a_command_is_refused_and_one_in_a_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HANLIN_API_KEY", raising=False)
    for command in (["serve", str(tmp_path)], ["chat", "http://127.0.0.1:1"]):
        error = CliRunner().invoke(app, [*command, "--api-key", "secret"]).exception
        assert isinstance(error, UserError) and "secret" not in str(error) and "HANLIN_API_KEY" in str(error)
    file = tmp_path / "keys"
    file.write_text("# of the team\n\nfirst\n  second \n", encoding="utf-8")
    assert read_key_file(file) == ["first", "second"]
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(UserError, match="no API key"):
        read_key_file(file)
    with pytest.raises(UserError):
        read_key_file(tmp_path / "missing")


def test_equal_keys_are_refused_wherever_they_come_from(tmp_path: Path) -> None:
    for keys, limits in ((["a", "a"], {}), (["a"], {"a": KeyLimits(1)})):
        with pytest.raises(UserError, match="equal"):
            make_access_policy("127.0.0.1", keys, limits)
    file = tmp_path / "keys.yaml"
    file.write_text("- {key: a}\n- {key: b}\n- {key: a, requests_per_minute: 1}\n", encoding="utf-8")
    with pytest.raises(UserError, match="entry 3 repeats a key"):
        read_keys(file)


def test_what_describes_the_server_needs_the_key(untaught_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("k3y\n", encoding="utf-8")
    with serving(untaught_gguf / "model-F32.gguf", "--api-key-file", str(file)) as (process, address):
        for path in ("/metrics", "/openapi.json", "/v1/models", "/api/version", "/api/tags", "/"):
            statuses = [
                httpx.get(address + path, headers=headers, timeout=300).status_code
                for headers in ({}, {"authorization": "Bearer k3y"})
            ]
            assert statuses == [401, 200], path
        for path in ("/docs", "/redoc"):
            assert httpx.get(address + path, timeout=300).status_code == 404
        assert httpx.get(f"{address}/health", timeout=300).status_code == 200
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, *descendants(process.pid))]
        assert b"k3y" not in b"".join(commands)
        threading.Timer(0.1, process.send_signal, [signal.SIGTERM]).start()
        assert process.wait(300) == 0
