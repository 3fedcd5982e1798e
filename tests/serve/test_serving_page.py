"""The commands of docs/en/serving.md, run as they are printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hanlin.serve.openapi import build_openapi
from live_server import LiveServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "en" / "serving.md"
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("curl ")]


@pytest.mark.parametrize("line", LINES, ids=lambda line: shlex.split(line)[2 if "--location" in line else 1])
def test_a_printed_command_works(server: LiveServer, line: str) -> None:
    command = shlex.split(line.replace("http://127.0.0.1:8000", server.address).replace("MODEL", "tiny"))
    done = subprocess.run([command[0], "-sS", "--fail", *command[1:]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if "stream" not in line and "/metrics" not in line and "/api/chat" not in line:
        assert not json.loads(done.stdout).get("error")  # a response of `/v1/responses` always has the field


def test_the_page_shows_every_api() -> None:
    assert len(LINES) >= 8
    assert all(part in "".join(LINES) for part in ("/v1/chat", "/v1/completions", "/api/chat", "/generate"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_of_apis_lists_the_routes_of_the_openapi_description(language: str) -> None:
    text = (PAGE.parents[1] / language / "serving.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("\n## ")[1].splitlines() if line.startswith("| ")]
    listed = {re.sub(r"{\w+}", "{}", route) for row in rows for route in re.findall(r"/[\w/{}.]+", row)}
    described = {re.sub(r"{\w+}", "{}", path) for path in build_openapi()["paths"]}
    assert listed - {"/openapi.json"} == described - {"/"}
