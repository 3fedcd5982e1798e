"""The ways to reach the server that the page on serving shows: requests over a Unix socket, nginx, Docker Compose."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.inference.loading import LoadedEngine
from hanlin.serve.auth import make_access_policy
from live_server import run_server

PAGES = [Path(__file__).resolve().parents[2] / "docs" / language / "serving.md" for language in ("en", "zh")]
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 8}


def read_block(page: Path, kind: str) -> str:
    block = re.search(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    assert block is not None, page
    return block[1]


def read_texts(lines: Iterator[str]) -> list[str]:
    rows = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return [row["choices"][0]["delta"].get("content") or "" for row in rows if row["choices"]]


def test_requests_are_answered_over_a_socket_whose_file_another_server_left(
    untaught: LoadedEngine, tmp_path: Path
) -> None:
    path = tmp_path / "hanlin.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with (
        run_server(untaught, unix_socket=path) as server,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url=server.address, timeout=300) as client,
    ):
        whole = client.post("/v1/chat/completions", json=BODY)
        assert whole.status_code == 200, whole.text
        with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as stream:
            parts = read_texts(stream.iter_lines())
        assert "".join(parts) == whole.json()["choices"][0]["message"]["content"]
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_nginx_passes_requests_and_streams_below_the_path_as_the_page_shows(
    page: Path, untaught: LoadedEngine, tmp_path: Path
) -> None:
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    path = tmp_path / "hanlin.sock"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    location = read_block(page, "nginx").replace("/run/hanlin/hanlin.sock", str(path))
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", *(["proxy", "fastcgi", "uwsgi", "scgi"]))
    )
    text = f"daemon off; worker_processes 1; pid {tmp_path}/pid; error_log {tmp_path}/errors; events {{}}\n"
    text += f"http {{ access_log off; {folders} server {{ listen 127.0.0.1:{port};\n{location} }} }}\n"
    (tmp_path / "nginx.conf").write_text(("user root;" if not path.parent.stat().st_uid else "") + text)
    address = f"http://127.0.0.1:{port}/hanlin"
    is_read = threading.Event()
    num_ids = iter(range(1000))
    with run_server(untaught, pause=lambda: next(num_ids) < 5 or is_read.wait(), unix_socket=path, base_path="/hanlin"):
        process = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors")])
        try:
            for _ in range(100):
                try:
                    assert httpx.get(f"{address}/v1/models", timeout=300).status_code == 200
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            body = {**BODY, "stream": True, "max_tokens": 20, "ignore_eos": True}
            with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=300) as stream:
                for _ in stream.iter_raw():  # the rest comes when the first has been read: not all at once
                    is_read.set()
            assert is_read.is_set()
            moved = httpx.get(f"{address}/health/?a=1", follow_redirects=False, timeout=300)
            assert moved.headers["location"] == "/hanlin/health?a=1"
            assert httpx.get(f"{address}/", timeout=300).text == "Ollama is running"
            large = {**BODY, "messages": [{"role": "user", "content": "字" * 1_000_000}]}
            refused = httpx.post(f"{address}/v1/chat/completions", json=large, timeout=300)
            assert refused.status_code == 400 and "bytes" in refused.json()["error"]["message"]  # by Hanlin, not nginx
        finally:
            is_read.set()
            process.terminate()
            process.wait(300)


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_the_compose_file_starts_a_server_that_open_webui_reaches(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be checked without Docker: the file is YAML, its command starts, and its addresses and keys fit."""
    services = yaml.safe_load(read_block(page, "yaml"))["services"]
    hanlin, page_settings = services["hanlin"], services["open-webui"]["environment"]
    assert hanlin["environment"]["HANLIN_API_KEY"] == page_settings["OPENAI_API_KEY"] == "${HANLIN_API_KEY:?}"
    command = shlex.split(shlex.split(hanlin["command"])[2].split("exec hanlin ")[1])
    started: dict[str, Any] = {}
    monkeypatch.setattr("hanlin.serve.server.serve", lambda models, **options: started.update(models=models, **options))
    result = CliRunner().invoke(app, command, env={"HANLIN_API_KEY": "k3y"})
    assert result.exit_code == 0, result.output
    assert started["models"] == ["chat=/model"] and any(volume.endswith(":/model:ro") for volume in hanlin["volumes"])
    policy = make_access_policy(started["host"], started["api_keys"], allowed_hosts=started["allowed_hosts"])
    address = httpx.URL(page_settings["OPENAI_API_BASE_URL"])
    assert (address.port, address.path) == (started["port"], "/v1")
    assert (
        policy.allows_host(address.netloc.decode()) and policy.allows_key("Bearer k3y") and not policy.allows_key(None)
    )
