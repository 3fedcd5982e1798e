"""Tool calls: offered to the model, written as JSON, parsed while the answer is generated, wherever it is cut."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import ollama
import openai
import pytest

from hanlin.serve.api.tool_calls import build_call_schema, get_tool_names
from live_server import LiveServer

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "how it is outside",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["东", "西"]}, "day": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["town", "day"],
            "additionalProperties": False,
        },
    },
}
MESSAGES: Any = [{"role": "user", "content": "?"}]


def test_a_calls_schema_names_each_tool() -> None:
    assert get_tool_names([WEATHER]) == {"weather"}
    assert build_call_schema([WEATHER])["anyOf"][0]["properties"]["name"] == {"const": "weather"}


# --------------------------------------------------------------------------------------------------------- in use


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_comes_and_fits_its_schema(tool_server: LiveServer, choice: Any) -> None:
    answer: Any = tool_server.client().chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        tools=[WEATHER],
        tool_choice=choice,
    )
    (call,) = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather" and arguments["town"] in "东西" and 1 <= arguments["day"] <= 7
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)


def test_a_streamed_call_comes_in_parts_name_first(tool_server: LiveServer) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "messages": MESSAGES,
        "tools": [WEATHER],
        "tool_choice": "required",
        "seed": 1,
    }
    chunks = list(tool_server.client().chat.completions.create(**fields, stream=True))
    parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert parts[0].function.name == "weather" and parts[0].id and len(parts) > 3
    assert {part.index for part in parts} == {0} and not any(part.id for part in parts[1:])
    assert json.loads("".join(part.function.arguments for part in parts))["town"] in "东西"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_that_the_model_chose_is_read_and_its_result_goes_back(tool_server: LiveServer) -> None:
    """Here the response format makes the model call."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "call", "schema": build_call_schema([WEATHER])}}
    client = tool_server.client()
    answer: Any = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        tools=[WEATHER],
        response_format=form,
    )
    (call,) = answer.choices[0].message.tool_calls
    turns = [
        *MESSAGES,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "晴"},
    ]
    after = client.chat.completions.create(model="tiny", messages=turns, tools=[WEATHER], max_tokens=4)
    assert after.usage and answer.usage and after.usage.prompt_tokens > answer.usage.prompt_tokens


def test_with_tool_choice_none_the_model_is_offered_no_tool(tool_server: LiveServer) -> None:
    fields: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 2}
    client = tool_server.client()
    none = client.chat.completions.create(**fields, tools=[WEATHER], tool_choice="none")
    plain = client.chat.completions.create(**fields)
    assert none.usage and plain.usage and none.usage.prompt_tokens == plain.usage.prompt_tokens


def test_ollamas_client_gets_a_call_as_an_object(tool_server: LiveServer) -> None:
    with ollama.Client(tool_server.address, timeout=300) as client:
        for stream in (False, True):
            parts = client.chat("tiny", MESSAGES, tools=[WEATHER], format=build_call_schema([WEATHER]), stream=stream)
            calls = [call for part in (parts if stream else [parts]) for call in part.message.tool_calls or []]
            assert [call.function.name for call in calls] == ["weather"]
            assert calls[0].function.arguments["town"] in "东西"


ORDER: dict[str, Any] = {
    "$defs": {
        "规格 Spec": {"enum": ["大", "小"], "title": "规格 Spec", "type": "string"},
        "Item": {
            "properties": {
                "编号": {"maximum": 9, "minimum": 0, "title": "编号", "type": "integer"},
                "规格": {"$ref": "#/$defs/规格 Spec"},
                "备注": {"anyOf": [{"maxLength": 2, "type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["编号", "规格"],
            "title": "Item",
            "type": "object",
        },
    },
    "properties": {"items": {"items": {"$ref": "#/$defs/Item"}, "maxItems": 2, "title": "Items", "type": "array"}},
    "required": ["items"],
    "title": "Order",
    "type": "object",
}


def order_tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "下单", "parameters": ORDER, **fields}}


NAMED = {"type": "function", "function": {"name": "Order"}}
STRICT = {"type": "json_schema", "json_schema": {"name": "Order", "schema": ORDER, "strict": True}}
STRUCTURED: dict[str, dict[str, Any]] = {
    "instructor, tools": {"tools": [order_tool("Order")], "tool_choice": NAMED},
    "instructor, json_schema": {"response_format": {"type": "json_object", "schema": ORDER}},
    "llama-index": {"tools": [order_tool("Order")], "tool_choice": "required", "parallel_tool_calls": False},
    "pydantic-ai, tools": {"tools": [WEATHER, order_tool("final_result", strict=True)], "tool_choice": "required"},
    "pydantic-ai, native": {"tools": [WEATHER], "response_format": STRICT},
    "LangChain, function_calling": {
        "tools": [order_tool("Order")],
        "tool_choice": NAMED,
        "parallel_tool_calls": False,
    },
    "LangChain, json_schema": {"response_format": STRICT, "stream": False},
    "a Chinese name": {"tools": [order_tool("下单")], "tool_choice": "required"},
}


@pytest.mark.parametrize("fields", STRUCTURED.values(), ids=STRUCTURED)
def test_structured_output_libraries_get_what_fits_their_schema(
    tool_server: LiveServer, fields: dict[str, Any]
) -> None:
    """The fields of the requests that these libraries send for a pydantic model."""
    body = {"model": "tiny", "messages": MESSAGES, "seed": 2, **fields}
    answer = httpx.post(f"{tool_server.address}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in fields.get("tools", ())}
    if message.get("tool_calls"):
        function = message["tool_calls"][0]["function"]
        jsonschema.validate(json.loads(function["arguments"]), schemas[function["name"]])
    else:
        assert "tool_choice" not in fields
        jsonschema.validate(json.loads(message["content"]), ORDER)


def test_ollamas_client_offers_a_tool_with_a_chinese_name(tool_server: LiveServer) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "tools": [order_tool("下单")], "stream": False}
    answer = httpx.post(f"{tool_server.address}/api/chat", json={**body, "options": {"num_predict": 3}}, timeout=300)
    assert answer.status_code == 200, answer.text


def test_a_template_without_tools_refuses_them_by_name(server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError, match="has no form for tools") as caught:
        server.client().chat.completions.create(model="tiny", messages=MESSAGES, tools=[WEATHER])
    assert caught.value.body["param"] == "tools"  # type: ignore[index]
