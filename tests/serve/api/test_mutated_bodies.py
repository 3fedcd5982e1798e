"""Bodies as clients send them, with one value replaced by another kind of value: answered or refused, never a fault."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from live_server import LiveServer

COUNT = int(os.environ.get("HANLIN_MUTATIONS", "25"))
PARAMETERS = {
    "type": "object",
    "properties": {"town": {"enum": ["东", "西"]}, "days": {"type": "array", "items": {"$ref": "#/$defs/day"}}},
    "required": ["town"],
    "$defs": {"day": {"type": "integer", "minimum": 1}},
}
FUNCTION = {"name": "weather", "description": "how it is outside", "parameters": PARAMETERS}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "东"}'}}
TURNS = [
    {"role": "system", "content": "简短。"},
    {"role": "user", "content": [{"type": "text", "text": "天气？"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "晴"},
]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": TURNS,
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_tokens": 2,
        "stop": ["。"],
        "logit_bias": {"5": 1},
        "chat_template_kwargs": {"enable_thinking": False},
        "stream_options": None,
    },
    "/v1/messages": {
        "system": [{"type": "text", "text": "简短。", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "天气？"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "要查。", "signature": "x"},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"town": "东"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "晴"}]},
        ],
        "tools": [{"name": "weather", "description": "x", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "disabled"},
        "max_tokens": 2,
    },
    "/v1/responses": {
        "instructions": "简短。",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "天气？"}]},
            {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "要查。"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"town": "东"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "晴"},
        ],
        "tools": [{"type": "function", **FUNCTION, "strict": True}],
        "tool_choice": "auto",
        "reasoning": {"effort": "none"},
        "text": {"format": {"type": "text"}},
        "max_output_tokens": 16,
        "metadata": {"a": "b"},
    },
    "/api/chat": {
        "messages": [TURNS[0], {"role": "user", "content": "天气？"}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "format": PARAMETERS,
        "options": {"num_predict": 2, "temperature": 0, "stop": ["。"]},
        "think": False,
        "stream": False,
        "keep_alive": "5m",
    },
    "/api/generate": {
        "prompt": "天气？",
        "system": "简短。",
        "format": "json",
        "options": {"num_predict": 2},
        "stream": False,
    },
}
OTHERS: list[Any] = [
    *(None, True, 0, -1, 1e9, 1.5, "", "x", "\ud800", "#/$defs/none", [], {}, [None], ["x"], [[]], [{}], {"": None}),
    *({"type": "image"}, {"type": "text"}, {"type": ["object", {}]}, "<|eot_id|>", "{" * 50, 10**30),
]


LENGTHS = frozenset(["max_tokens", "max_output_tokens", "options", "num_predict"])
"""Without these, an answer of random weights would go on until the context is full."""


def find_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from find_paths(item, (*path, key))


@pytest.mark.parametrize("route", BODIES)
def test_a_body_with_a_value_of_another_kind_is_answered_or_refused(tool_server: LiveServer, route: str) -> None:
    rng = random.Random(int(os.environ.get("HANLIN_SEED", "1")))
    paths = [path for path in find_paths(BODIES[route]) if path[-1] not in LENGTHS]
    statuses = set()
    with httpx.Client(base_url=tool_server.address, timeout=300) as client:
        assert client.post(route, json={"model": "tiny", **BODIES[route]}).status_code == 200
        for _ in range(COUNT):
            body: Any = {"model": "tiny", **copy.deepcopy(BODIES[route])}
            path = rng.choice(paths)
            holder = body
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = copy.deepcopy(rng.choice(OTHERS))
            answer = client.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
            statuses.add(answer.status_code)
            assert answer.status_code in (200, 400, 404, 422), f"{path}: {holder[path[-1]]!r}: {answer.text}"
            if answer.status_code != 200:
                assert "error" in answer.json(), path
    assert statuses >= {200, 400}
