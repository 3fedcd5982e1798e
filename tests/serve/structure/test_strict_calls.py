"""Calls and formats in use: what each API's clients get of a model that would write something else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jsonschema
import pytest

from hanlin.chat.call_form import CallForm
from hanlin.serve.api.structure.output_format import CallFormat, StrictCallFormat
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.tokenizer.tokenizer import Tokenizer
from live_server import LiveServer

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"town": {"enum": ["东", "西"]}, "day": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["town", "day"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "", "parameters": PARAMETERS}
MESSAGES: Any = [{"role": "user", "content": "?"}]
WRONG = {
    "llama3.1": '好的。{"name": "weather", "parameters": {"town": "北", "hour": 3}}',
    "llama3.2": '好的。[weather(town="北", hour=3)]',
    "hermes": '好的。<tool_call>\n{"name": "weather", "arguments": {"city": "北"}}\n</tool_call>',
}
WRONG["qwen3"] = "<think>\n想\n</think>\n\n" + WRONG["hermes"]


def post(server: LiveServer, path: str, **body: Any) -> Any:
    answer = httpx.post(server.address + path, json={"model": "tiny", "stream": False, **body}, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask_chat(server: LiveServer, strict: bool, **fields: Any) -> list[tuple[str, Any]]:
    tool = {"type": "function", "function": {**FUNCTION, "strict": strict}}
    message = post(server, "/v1/chat/completions", messages=MESSAGES, tools=[tool], **fields)["choices"][0]["message"]
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def ask_responses(server: LiveServer, strict: bool, **fields: Any) -> list[tuple[str, Any]]:
    tool = {"type": "function", **FUNCTION, "strict": strict}
    response = post(server, "/v1/responses", input="?", tools=[tool], **fields)
    assert response["tools"][0]["strict"] is strict
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def ask_anthropic(server: LiveServer, strict: bool, **fields: Any) -> list[tuple[str, Any]]:
    tool = {"name": "weather", "input_schema": PARAMETERS, "strict": strict}
    content = post(server, "/v1/messages", max_tokens=500, messages=MESSAGES, tools=[tool], **fields)["content"]
    return [(block["name"], block["input"]) for block in content if block["type"] == "tool_use"]


def ask_ollama(server: LiveServer, strict: bool, **fields: Any) -> list[tuple[str, Any]]:
    tool = {"type": "function", "function": {**FUNCTION, "strict": strict}}
    message = post(server, "/api/chat", messages=MESSAGES, tools=[tool], **fields)["message"]
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]


APIS = {"chat": ask_chat, "responses": ask_responses, "anthropic": ask_anthropic, "ollama": ask_ollama}


@pytest.mark.parametrize("name", WRONG)
def test_a_strict_call_that_the_model_begins_fits_its_schema_in_every_api(serve_template: Any, name: str) -> None:
    with serve_template(name, WRONG[name]) as (script, server):
        script.obeys = True
        for ask in APIS.values():
            calls = ask(server, True)
            assert {called for called, _ in calls} == {"weather"}
            for _, arguments in calls:
                jsonschema.validate(arguments, PARAMETERS)
            ((_, arguments),) = ask(server, False)
            assert "town" not in arguments or arguments["town"] == "北"


def test_a_strict_call_ends_the_answer_if_there_may_be_one_alone(serve_template: Any) -> None:
    call = '{"name": "weather", "parameters": {"town": "东", "day": 1}}'
    with serve_template("llama3.1", f"{call}; {call}") as (script, server):
        script.obeys = True
        assert len(ask_chat(server, True)) == 2
        one = ({"parallel_tool_calls": False}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}})
        for ask, fields in ((ask_chat, one[0]), (ask_responses, one[0]), (ask_anthropic, one[1])):
            assert len(ask(server, True, **fields)) == 1
        tool = {"type": "function", "function": {**FUNCTION, "strict": True}}
        body = {"messages": MESSAGES, "tools": [tool], "parallel_tool_calls": False}
        usage = post(server, "/v1/chat/completions", **body)["usage"]
        assert usage["completion_tokens"] == len(script.tokenizer.encode(call))


@pytest.mark.parametrize("name", WRONG)
def test_demanded_calls_come_in_the_form_of_the_template_and_may_be_several(serve_template: Any, name: str) -> None:
    calls = {
        "llama3.1": '{"name": "weather", "parameters": {"town": "东", "day": 1}}; '
        '{"name": "weather", "parameters": {"town": "西", "day": 2}}',
        "llama3.2": '[weather(town="东", day=1), weather(town="西", day=2)]',
        "hermes": '<tool_call>\n{"name": "weather", "arguments": {"town": "东", "day": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"town": "西", "day": 2}}\n</tool_call>',
    }
    two = [("weather", {"town": "东", "day": 1}), ("weather", {"town": "西", "day": 2})]
    with serve_template(name, calls[name if name in calls else "hermes"]) as (script, server):
        script.obeys = True
        assert ask_chat(server, False, tool_choice="required") == two
        assert ask_responses(server, False, tool_choice="required") == two
        assert ask_anthropic(server, False, tool_choice={"type": "any"}) == two
        assert ask_chat(server, False, tool_choice="required", parallel_tool_calls=False) == two[:1]
        named = {"type": "function", "function": {"name": "weather"}}
        assert ask_chat(server, False, tool_choice=named) == two[:1]
        assert ask_anthropic(server, False, tool_choice={"type": "tool", "name": "weather"}) == two[:1]


SCHEMA = {"type": "object", "properties": {"镇": {"enum": ["东", "西"]}}, "required": ["镇"]}
CHAT_FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
TEXT_FORMAT = {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}


def think_and_answer(server: LiveServer) -> dict[str, tuple[str, str]]:
    """Reasoning and text of an answer that is to think and to fit a schema, in each API."""
    chat = post(server, "/v1/chat/completions", messages=MESSAGES, reasoning_effort="high", **CHAT_FORMAT)
    message = chat["choices"][0]["message"]
    output = post(server, "/v1/responses", input="?", reasoning={"effort": "high"}, **TEXT_FORMAT)["output"]
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 200}
    config = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    blocks = post(server, "/v1/messages", messages=MESSAGES, **thinking, **config)["content"]
    ollama = post(server, "/api/chat", messages=MESSAGES, think=True, format=SCHEMA)["message"]
    generated = post(server, "/api/generate", prompt="?", think=True, format=SCHEMA)
    return {
        "chat": (message["reasoning_content"], message["content"]),
        "responses": (output[0]["content"][0]["text"], output[1]["content"][0]["text"]),
        "anthropic": (blocks[0]["thinking"], blocks[1]["text"]),
        "ollama": (ollama["thinking"], ollama["content"]),
        "ollama, generate": (generated["thinking"], generated["response"]),
    }


@pytest.mark.parametrize(
    ("name", "text"), [("deepseek_r1", '想 {\n</think>\n\n{"镇": "北"}'), ("qwen3", "<think>\n想 {\n</think>\n\n北")]
)
def test_a_thought_is_free_and_the_answer_after_it_fits(serve_template: Any, name: str, text: str) -> None:
    with serve_template(name, text) as (script, server):
        script.obeys = True
        for reasoning, answer in think_and_answer(server).values():
            assert reasoning == "想 {"
            jsonschema.validate(json.loads(answer), SCHEMA)


def test_without_being_asked_for_a_thought_does_not_come_before_a_format(serve_template: Any) -> None:
    with serve_template("qwen3", "<think>\n想\n</think>\n\n{}") as (script, server):
        script.obeys = True
        message = post(server, "/v1/chat/completions", messages=MESSAGES, **CHAT_FORMAT)["choices"][0]["message"]
        jsonschema.validate(json.loads(message["content"]), SCHEMA)
        assert "reasoning" not in message
        history = [{"role": "user", "content": "?"}]
        jsonschema.validate(
            json.loads(post(server, "/generate", history=history, guided_json=SCHEMA)["response"]), SCHEMA
        )


@pytest.mark.parametrize("name", ["llama3.1", "llama3.2", "hermes"])
def test_with_tools_a_format_of_text_is_one_of_two_ways_to_answer(serve_template: Any, name: str) -> None:
    forms = {
        "llama3.1": '{"name": "weather", "parameters": {"town": "东", "day": 1}}',
        "llama3.2": '[weather(town="东", day=1)]',
        "hermes": '<tool_call>\n{"name": "weather", "arguments": {"town": "东", "day": 1}}\n</tool_call>',
    }
    with serve_template(name, forms[name]) as (script, server):
        script.obeys = True
        for ask, fields in ((ask_chat, CHAT_FORMAT), (ask_responses, TEXT_FORMAT), (ask_ollama, {"format": SCHEMA})):
            assert ask(server, False, **fields) == [("weather", {"town": "东", "day": 1})]
        script.text = '{"镇": "西"}'
        tool = {"type": "function", **FUNCTION}
        output = post(server, "/v1/responses", input="?", tools=[tool], **TEXT_FORMAT)["output"]
        assert json.loads(output[0]["content"][0]["text"]) == {"镇": "西"}


def test_an_answer_that_has_begun_may_call_a_strict_tool(serve_template: Any) -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "好的，"}]
    tool = {"type": "function", "function": {**FUNCTION, "strict": True}}
    with serve_template("llama3.1", WRONG["llama3.1"]) as (script, server):
        script.obeys = True
        message = post(server, "/v1/chat/completions", messages=turns, tools=[tool])["choices"][0]["message"]
    jsonschema.validate(json.loads(message["tool_calls"][0]["function"]["arguments"]), PARAMETERS)


def test_a_schema_that_cannot_be_held_is_refused_by_field(tool_server: LiveServer) -> None:
    parameters = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    body = {"model": "tiny", "messages": MESSAGES, "tools": [tool]}
    refused = httpx.post(f"{tool_server.address}/v1/chat/completions", json=body, timeout=300)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools.0.function.parameters")


def test_a_real_model_obeys_and_its_engine_gets_the_grammar(tool_server: LiveServer) -> None:
    tool = {"type": "function", "function": {**FUNCTION, "strict": True}}
    for fields in ({}, {"tool_choice": "required"}):
        body = {"messages": MESSAGES, "tools": [tool], "max_tokens": 12, "temperature": 1.0, "seed": 3, **fields}
        assert post(tool_server, "/v1/chat/completions", **body)["usage"]["completion_tokens"] <= 12


def test_a_grammar_of_calls_travels_to_another_process(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    compiler = GrammarCompiler((tokenizer.eos_id or 0,), tiny_tokenizer)
    model: Any = SimpleNamespace(
        grammar_compiler=compiler, tokenizer=tokenizer, call_form=CallForm(), has_own_grammars=False
    )
    tools = [{"type": "function", "function": FUNCTION}]
    formats: list[tuple[Any, str]] = [
        (StrictCallFormat(tools, {"weather"}, None), "open"),
        (CallFormat(tools, 1), "free"),
    ]
    for answer_format, thought in formats:
        made = answer_format(model, thought)
        allowed = made.allowed_tokens()
        copied = pickle.loads(pickle.dumps(made))
        assert (copied.allowed_tokens() == allowed).all() and not copied.failed
    compiler.close()
