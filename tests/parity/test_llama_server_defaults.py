"""The program `llama-server`, started without any option about templates, makes the prompts of training.

It sets variables that no request names: since 2026 it asks every template to keep the reasoning of earlier answers.
HANLIN_LLAMA_CPP names the folder of llama.cpp's built tools.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.core.records import Message
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_gguf import Exported, tiny_gguf

CHATS = (
    (Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
    (Message("user", "a"), Message("assistant", "b", reasoning="想一想"), Message("user", "c")),
)


def export(name: str, folder: Path) -> Exported:
    train_tokenizer(["翰林院在城东。"], vocab_size=300, template=name, out=folder / "tokenizer")
    return tiny_gguf(ChatTemplate.from_packaged(name, Tokenizer.load(folder / "tokenizer")), folder / "model")


@pytest.fixture(params=["deepseek_r1", "qwen3", "llama3.1", "chatml"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    return export(request.param, tmp_path)


@pytest.fixture
def server(exported: Exported) -> Iterator[httpx.Client]:
    tools = os.environ.get("HANLIN_LLAMA_CPP")
    if not tools:
        pytest.skip("HANLIN_LLAMA_CPP does not name the folder of llama.cpp's built tools")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [f"{tools}/llama-server", "-m", str(exported.file), "--port", str(port), "-c", "256", "--no-warmup"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            for _ in range(300):
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.ConnectError:
                    pass
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(300)


def to_json(message: Message) -> dict[str, Any]:
    fields = {"role": message.role, "content": message.text}
    return {**fields, **({"reasoning_content": message.reasoning} if message.reasoning else {})}


@pytest.mark.llama_cpp
def test_llama_server_with_its_own_defaults_makes_the_prompts_of_training(
    exported: Exported, server: httpx.Client
) -> None:
    template = ChatTemplate.load(exported.folder)
    for chat in CHATS:
        rendered = server.post("/apply-template", json={"messages": [to_json(message) for message in chat]}).json()
        body = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
        ids = server.post("/tokenize", json=body).json()["tokens"]
        assert ids == list(template.render(chat, prompt=True).ids), rendered["prompt"]
