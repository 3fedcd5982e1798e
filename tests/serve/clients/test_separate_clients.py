"""instructor and llama-index, in an environment of their own, get structured output that fits every way they ask."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from live_server import LiveServer
from structured_order import Order

SUPPORT = Path(__file__).parents[2] / "support" / "serving"
ASKED = {
    "instructor": [
        *("tool_call", "tool_call, partial", "tools_strict", "tools_strict, partial"),
        *("json_schema_mode", "json_schema_mode, partial", "async", "anthropic"),
    ],
    "llama-index": [
        *("chat", "achat", "structured_predict", "chat_with_tools, False", "chat_with_tools, True"),
        *("stream_chat_with_tools", "ollama"),
    ],
}


@pytest.mark.clients
@pytest.mark.parametrize("library", ASKED)
def test_a_library_gets_what_fits_its_schema(tool_server: LiveServer, library: str) -> None:
    python = os.environ.get("HANLIN_CLIENTS", "")
    if not python:
        pytest.skip("needs instructor and llama-index in an environment of their own (make test-clients)")
    script = Path(__file__).with_name("separate_clients.py")
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [python, str(script), library, tool_server.address], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [name for name, _ in answers] == ASKED[library]
    assert all(Order.model_validate(order).items for _, order in answers)
