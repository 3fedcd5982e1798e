"""Large answers hold nobody up: they are made in threads, and encoded and sent in pieces."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.api import http
from live_server import LiveServer, run_server

CONTENTS: list[Any] = [
    {"data": [{"embedding": np.arange(5, dtype=np.float32) / 3, "index": 0}], "n": None, "名": "字\n\"'"},
    {"choices": [{"logprobs": {"content": [{"token": "a", "top": [{"b": [1, [2]]}]}]}}, {}], "empty": [[], {}]},
    [],
    {},
    "字",
]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("depth", [0, 1, 2, 3, 9])
def test_json_in_pieces_is_the_json_of_the_whole(content: Any, depth: int) -> None:
    lists = json.loads(json.dumps(content, default=np.ndarray.tolist))
    whole = json.dumps(lists, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if depth > 2 or not isinstance(content, dict) or "data" not in content:  # a row of numbers is a leaf
        assert "".join(http._encode_json(content, depth)) == whole
    assert b"".join(http._join_pieces(http._encode_json(lists, depth))).decode() == whole


@pytest.fixture()
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[threading.Thread, int]]]:
    """The thread and the characters of each call that encodes a part of an answer."""
    calls: list[tuple[threading.Thread, int]] = []
    dump = http._dump_json

    def dump_and_note(value: Any) -> str:
        text = dump(value)
        calls.append((threading.current_thread(), len(text)))
        return text

    monkeypatch.setattr(http, "_dump_json", dump_and_note)
    yield calls


async def get_thread() -> threading.Thread:
    return threading.current_thread()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": ["春"] * 200}),
        ("/api/embed", {"input": ["春"] * 200}),
        ("/v1/completions", {"prompt": "春", "n": 8, "max_tokens": 40, "logprobs": 20, "ignore_eos": True}),
    ],
)
def test_an_answer_is_encoded_in_a_thread_and_in_pieces(
    untaught: LoadedEngine, encoded: list[tuple[threading.Thread, int]], path: str, fields: dict[str, Any]
) -> None:
    with run_server(untaught) as server:
        answer = httpx.post(server.address + path, json={"model": "tiny", **fields}, timeout=300)
        loop_thread = asyncio.run_coroutine_threadsafe(get_thread(), server.loop).result(300)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 100_000 and answer.headers["content-length"] == str(len(answer.content))
    answer.json()
    assert encoded and all(thread is not loop_thread for thread, _ in encoded)
    assert max(size for _, size in encoded) < len(answer.content) / 4


def test_a_large_answer_is_sent_in_pieces(server: LiveServer) -> None:
    body = {"model": "tiny", "input": ["春"] * 500}
    with httpx.stream("POST", f"{server.address}/v1/embeddings", json=body, timeout=300) as answer:
        whole = b"".join(answer.iter_raw())
    rows = json.loads(whole)["data"]
    assert len(rows) == 500 and rows[0]["embedding"] == rows[-1]["embedding"]
