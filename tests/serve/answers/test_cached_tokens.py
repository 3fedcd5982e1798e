"""How many tokens of a prompt were in the cache, as each API tells it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from hanlin.serve.registry import GenerationJob
from live_server import LiveServer

MESSAGES = [{"role": "user", "content": "一二三四五六七八九十"}]


def cached_of_chat(usage: Any) -> tuple[int, int]:
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


def cached_of_message(usage: Any) -> tuple[int, int]:
    return usage["cache_read_input_tokens"], usage["cache_read_input_tokens"] + usage["input_tokens"]


def cached_of_response(usage: Any) -> tuple[int, int]:
    return usage["input_tokens_details"]["cached_tokens"], usage["input_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2}, cached_of_chat),
        ("/v1/completions", {"prompt": "甲乙丙丁戊己", "max_tokens": 2}, cached_of_chat),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 2}, cached_of_message),
        ("/v1/responses", {"input": MESSAGES[0]["content"], "max_output_tokens": 2}, cached_of_response),
    ],
)
def test_a_prompt_that_was_just_read_is_cached_but_for_its_last_token(
    server: LiveServer, path: str, body: dict[str, Any], read: Callable[[Any], tuple[int, int]]
) -> None:
    for _ in range(2):
        usage = httpx.post(server.address + path, json={"model": "tiny", **body}, timeout=300).json()["usage"]
    cached, total = read(usage)
    assert cached == total - 1 > 3


def test_an_anthropic_stream_corrects_the_count_at_its_end(server: LiveServer) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 2}
    whole = httpx.post(f"{server.address}/v1/messages", json=body, timeout=300).json()["usage"]
    text = httpx.post(f"{server.address}/v1/messages", json={**body, "stream": True}, timeout=300).text
    cached = cached_of_message(whole)[1] - 1
    assert f'"cache_read_input_tokens": {cached}' in text.rpartition("event: message_delta")[2]


def test_of_several_choices_what_all_of_them_found_in_the_cache_counts() -> None:
    job = GenerationJob(SimpleNamespace(), (), (), 0, choices=2)  # type: ignore[arg-type]
    assert job.count_cached([5, 3, 0, 9]) == 3
    assert job.count_cached([None, None, None, None]) is None and job.count_cached([]) is None
