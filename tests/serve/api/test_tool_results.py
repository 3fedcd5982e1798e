"""Results of tools in requests: each belongs to a call that comes before it, or the request is refused by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hanlin.serve.api.anthropic.requests import MessagesRequest
from hanlin.serve.api.openai.requests import ChatRequest
from hanlin.serve.api.responses.conversation import StoredConversation
from hanlin.serve.api.responses.schemas import ResponseRequest
from hanlin.serve.api.responses.store import ResponseStore
from hanlin.serve.errors import ApiError

QUESTION: Any = {"role": "user", "content": "?"}
ANSWER: Any = {"role": "assistant", "content": "!"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "a", "output": "晴"}
CALL: Any = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}


def calling(*ids: str | None) -> dict[str, Any]:
    calls = [{"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for call_id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": "晴", **({} if call_id is None else {"tool_call_id": call_id})}


def parse_chat(messages: list[dict[str, Any]]) -> list[str]:
    body = ChatRequest.parse(json.dumps({"model": "m", "messages": messages}).encode())
    return [message.role for message in body.to_messages()]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([result("a")], "messages.0.role"),
        ([QUESTION, result("a")], "messages.1.role"),
        ([QUESTION, ANSWER, result()], "messages.2.role"),
        ([QUESTION, calling("a"), result("a"), QUESTION, result("a")], "messages.4.role"),
        ([QUESTION, calling("a"), result("a"), ANSWER, result("a")], "messages.4.role"),
        ([QUESTION, calling("a"), result("b")], "messages.2.tool_call_id"),
        ([QUESTION, calling("a"), result("a"), calling("b"), result("a")], "messages.4.tool_call_id"),
    ],
)
def test_a_result_without_its_call_is_refused_as_by_openai(messages: list, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat([*messages, QUESTION])
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "messages",
    [
        [calling("a", "b"), result("b"), result("a")],
        [calling("a"), calling("b"), result("a"), result("b")],
        [calling(None), result()],
        [calling(None), result("a")],
        [calling("a"), result()],
        [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}, result("a")],
        [{"role": "function", "name": "f", "content": "晴"}],
    ],
    ids=["any order", "two turns", "no ids", "ids of results", "ids of calls", "older call", "older result"],
)
def test_results_are_read_however_clients_name_their_calls(messages: list) -> None:
    assert parse_chat([QUESTION, *messages])[1:] == ["tool" if m["role"] == "function" else m["role"] for m in messages]


def read_blocks(*turns: tuple[str, Any]) -> list[str]:
    messages = [{"role": role, "content": content} for role, content in turns]
    body = MessagesRequest.parse(json.dumps({"model": "m", "max_tokens": 1, "messages": messages}).encode())
    return [message.role for message in body.to_messages()]


def test_a_result_block_without_its_call_is_refused_as_by_anthropic() -> None:
    use = [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]
    done = [{"type": "text", "text": "看"}, {"type": "tool_result", "tool_use_id": "a", "content": "晴"}]
    assert (
        read_blocks(("user", "?"), ("assistant", use), ("system", "短"), ("user", "等"), ("user", done))[-1] == "tool"
    )
    for turns, param in (
        ((("user", done),), "messages.0.content.1.tool_use_id"),
        ((("user", "?"), ("assistant", "!"), ("user", done)), "messages.2.content.1.tool_use_id"),
        (
            (("user", "?"), ("assistant", use), ("user", done), ("assistant", "!"), ("user", done)),
            "messages.4.content.1.tool_use_id",
        ),
    ):
        with pytest.raises(ApiError) as caught:
            read_blocks(*turns)
        assert (caught.value.status, caught.value.param) == (400, param)


def read_items(store: ResponseStore, *items: dict[str, Any], previous: str | None = None) -> list[str]:
    fields = {"model": "m", "input": list(items), "previous_response_id": previous}
    body = ResponseRequest.parse(json.dumps(fields).encode())
    return [message.role for message in StoredConversation(body, store, "").to_messages()]


def test_an_output_without_its_call_is_refused_in_responses() -> None:
    store = ResponseStore()
    store.put("", {"id": "r", "previous_response_id": None, "output": [{**CALL, "id": "i"}]}, [{**QUESTION, "id": "q"}])
    assert read_items(store, QUESTION, CALL, ANSWER, QUESTION, OUTPUT)[-1] == "tool"
    assert read_items(store, OUTPUT, previous="r") == ["user", "assistant", "tool"]
    for items, previous in (((QUESTION, OUTPUT), None), ((OUTPUT, CALL), None)):
        with pytest.raises(ApiError) as caught:
            read_items(store, *items, previous=previous)
        assert (caught.value.status, caught.value.param) == (400, f"input.{items.index(OUTPUT)}.call_id")
