"""What clients get of answers in the form of each template, from an engine that says what it is told."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import ollama
import pytest

from live_server import LiveServer

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询城市天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
MESSAGES: Any = [{"role": "user", "content": "查两个城市"}]
CALLS = [("get_weather", {"city": "杭州"}), ("get_weather", {"city": "北京"})]
TEXTS = {
    "llama3.1": '好的。\n\n{"name": "get_weather", "parameters": {"city": "杭州"}}; '
    '{"name": "get_weather", "parameters": {"city": "北京"}}',
    "llama3.2": '好的。\n\n[get_weather(city="杭州"), get_weather(city="北京")]',
    "hermes": '好的。\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "杭州"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>',
}
TEXTS["qwen3"] = "<think>\n要查两个\n</think>\n\n" + TEXTS["hermes"]


def ask(server: LiveServer, **fields: Any) -> Any:
    body = {"model": "tiny", "messages": MESSAGES, **fields}
    return httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=300)


@pytest.mark.parametrize("name", TEXTS)
def test_two_calls_after_text_come_in_the_form_of_each_template(serve_template: Any, name: str) -> None:
    with serve_template(name, TEXTS[name]) as (_, server):
        client = server.client()
        answer: Any = client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[WEATHER])
        message = answer.choices[0].message
        called = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
        assert (message.content, called, answer.choices[0].finish_reason) == ("好的。", CALLS, "tool_calls")
        thought = "要查两个" if name == "qwen3" else None
        assert getattr(message, "reasoning_content", None) == getattr(message, "reasoning", None) == thought

        chunks: Any = list(
            client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[WEATHER], stream=True)
        )
        parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
        arguments = ["".join(part.function.arguments for part in parts if part.index == index) for index in (0, 1)]
        assert [json.loads(text) for text in arguments] == [arguments for _, arguments in CALLS]
        assert len({part.id for part in parts if part.id}) == 2
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "好的。"
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

        with ollama.Client(server.address, timeout=300) as ollama_client:
            whole = ollama_client.chat("tiny", MESSAGES, tools=[WEATHER])
            streamed = list(ollama_client.chat("tiny", MESSAGES, tools=[WEATHER], stream=True))
        for responses in ([whole], streamed):
            calls = [call.function for response in responses for call in response.message.tool_calls or []]
            assert [(call.name, dict(call.arguments)) for call in calls] == CALLS
            assert "".join(response.message.content or "" for response in responses) == "好的。"
            assert "".join(response.message.thinking or "" for response in responses) == (thought or "")


def test_a_call_that_is_cut_keeps_its_text(serve_template: Any) -> None:
    cut = '{"name": "get_weather", "parameters": {"city": "杭'
    with serve_template("llama3.1", cut, "length") as (_, server):
        choice = ask(server, tools=[WEATHER]).json()["choices"][0]
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "杭'
        assert choice["finish_reason"] == "length"
        with ollama.Client(server.address, timeout=300) as client:
            assert client.chat("tiny", MESSAGES, tools=[WEATHER]).message.content == cut
            parts = list(client.chat("tiny", MESSAGES, tools=[WEATHER], stream=True))
        assert "".join(part.message.content or "" for part in parts) == cut
        assert parts[-1].done_reason == "length"


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
def test_a_call_with_a_number_that_json_cannot_hold_is_no_error(serve_template: Any, number: str) -> None:
    written = f'{{"name": "weather", "parameters": {{"city": {number}}}}}'
    fields = {"model": "tiny", "messages": MESSAGES, "max_tokens": 99}
    with serve_template("llama3.1", written) as (_, server):
        for path, tool in (
            ("/v1/chat/completions", WEATHER),
            ("/api/chat", WEATHER),
            ("/v1/messages", {"name": "weather", "input_schema": {"type": "object"}}),
        ):
            body = (
                {**fields, "tools": [tool]} if path != "/api/chat" else {**fields, "tools": [tool], "max_tokens": None}
            )
            for stream in (False, True):
                answer = httpx.post(server.address + path, json={**body, "stream": stream}, timeout=300)
                assert answer.status_code == 200, (path, answer.text)
                for line in answer.text.splitlines():
                    if "{" in line:
                        json.loads(line.removeprefix("data: "), parse_constant=pytest.fail, parse_float=_parse_finite)


def _parse_finite(text: str) -> float:
    assert math.isfinite(float(text))
    return float(text)


def test_without_parallel_calls_the_first_one_is_all(serve_template: Any) -> None:
    with serve_template("llama3.1", TEXTS["llama3.1"]) as (_, server):
        choice = ask(server, tools=[WEATHER], parallel_tool_calls=False).json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1 and choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": {"reasoning_effort": "none"}},
        {"reasoning_effort": "none"},
        {"enable_thinking": False, "thinking": {"type": "disabled"}},
        {"thinking": False},
        {"thinking_budget": 0},
        {"reasoning": {"enabled": False}},
        {"reasoning": {"effort": "none", "exclude": True}},
    ],
)
def test_a_request_turns_thinking_off(serve_template: Any, fields: dict[str, Any]) -> None:
    with serve_template("deepseek_r1", "想\n</think>\n\n好") as (script, server):
        message = ask(server).json()["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("想", "好")
        assert script.prompt().endswith("<think>\n")
        script.text = "好"
        message = ask(server, **fields).json()["choices"][0]["message"]
        assert "reasoning_content" not in message and message["content"] == "好"
        assert script.prompt().endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}, {"reasoning_format": "hidden"}]
)
def test_reasoning_that_a_client_does_not_want_is_left_out(serve_template: Any, fields: dict[str, Any]) -> None:
    with serve_template("deepseek_r1", "想\n</think>\n\n好") as (_, server):
        message = ask(server, **fields).json()["choices"][0]["message"]
        assert (message["content"], "reasoning" in message, "reasoning_content" in message) == ("好", False, False)
        streamed = ask(server, stream=True, **fields).text
    assert "reasoning" not in streamed and "好" in streamed and "想" not in streamed


def test_thinking_blocks_without_text_are_signed(serve_template: Any) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    body = {"model": "tiny", "max_tokens": 99, "messages": MESSAGES, "thinking": thinking}
    with serve_template("deepseek_r1", "想\n</think>\n\n好") as (_, server):
        thought, text = httpx.post(f"{server.address}/v1/messages", json=body, timeout=300).json()["content"]
        streamed = httpx.post(f"{server.address}/v1/messages", json={**body, "stream": True}, timeout=300).text
    assert (thought["type"], thought["thinking"], bool(thought["signature"]), text["text"]) == (
        "thinking",
        "",
        True,
        "好",
    )
    assert "signature_delta" in streamed and "thinking_delta" not in streamed


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking"),
        ({"thinking": {"type": "enabled"}, "thinking_budget": 0}, "thinking_budget"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"reasoning_format": "none"}, "reasoning_format"),
    ],
)
def test_fields_about_thinking_that_contradict_are_refused_by_name(
    serve_template: Any, fields: dict[str, Any], named: str
) -> None:
    with serve_template("deepseek_r1", "好") as (_, server):
        refused = ask(server, **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, named)


def test_an_effort_asks_nothing_of_a_model_that_cannot_think(serve_template: Any) -> None:
    budget = {"type": "enabled", "budget_tokens": 1024}
    with serve_template("no reasoning", "好") as (_, server):
        assert ask(server, reasoning_effort="high").json()["choices"][0]["message"]["content"] == "好"
        body = {"model": "tiny", "max_tokens": 9, "messages": MESSAGES, "thinking": budget}
        (block,) = httpx.post(f"{server.address}/v1/messages", json=body, timeout=300).json()["content"]
        assert block["text"] == "好"
        response = {"model": "tiny", "input": "?", "reasoning": {"effort": "high"}}
        assert (
            httpx.post(f"{server.address}/v1/responses", json=response, timeout=300).json()["output"][0]["type"]
            == "message"
        )
        for field in ("enable_thinking", "thinking"):
            assert ask(server, **{field: True}).json()["error"]["param"] == field
        think = {"model": "tiny", "messages": MESSAGES, "think": "high"}
        assert httpx.post(f"{server.address}/api/chat", json=think, timeout=300).status_code == 400


def test_ollamas_think_turns_it_on_and_off(serve_template: Any) -> None:
    with (
        serve_template("deepseek_r1", "想\n</think>\n\n好") as (script, server),
        ollama.Client(server.address, timeout=300) as client,
    ):
        for think in (True, "high", None):
            answer = client.chat("tiny", MESSAGES, think=think)  # type: ignore[arg-type]
            assert (answer.message.thinking, answer.message.content) == ("想", "好")
        generated = client.generate("tiny", "?", think=True)
        assert (generated.thinking, generated.response) == ("想", "好")
        script.text = "好"
        assert client.chat("tiny", MESSAGES, think=False).message.content == "好"
        assert script.prompt().endswith("</think>\n\n")
        assert set(client.show("tiny").capabilities or ()) == {"completion", "embedding", "thinking"}


def test_anthropics_clients_get_thinking_blocks_and_turn_them_off(serve_template: Any) -> None:
    body = {"model": "tiny", "max_tokens": 99, "messages": [{"role": "user", "content": "?"}]}
    with serve_template("deepseek_r1", "想\n</think>\n\n好") as (script, server):
        for thinking in ({}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}):
            content = httpx.post(f"{server.address}/v1/messages", json={**body, **thinking}, timeout=300).json()[
                "content"
            ]
            assert [(block["type"], block[block["type"]]) for block in content] == [("thinking", "想"), ("text", "好")]
        script.text = "好"
        off = {**body, "thinking": {"type": "disabled"}}
        (block,) = httpx.post(f"{server.address}/v1/messages", json=off, timeout=300).json()["content"]
    assert block["text"] == "好" and script.prompt().endswith("</think>\n\n")


def test_what_a_template_cannot_do_is_refused_by_name(serve_template: Any) -> None:
    with serve_template("no reasoning", "好") as (_, server):
        refused = ask(server, chat_template_kwargs={"enable_thinking": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template_kwargs.enable_thinking")
        unknown = ask(server, chat_template_kwargs={"date_string": "1"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "chat_template_kwargs.date_string")
        assert ask(server, reasoning_effort="none").status_code == 200
        body = {"model": "tiny", "prompt": "a", "suffix": "b", "stream": False}
        for path in ("/api/generate", "/v1/completions"):
            answer = httpx.post(server.address + path, json=body, timeout=300)
            assert answer.status_code == 400 and "suffix" in answer.text
        images = {"model": "tiny", "messages": [{"role": "user", "content": "?", "images": ["aGk="]}]}
        answer = httpx.post(f"{server.address}/api/chat", json=images, timeout=300)
        assert answer.status_code == 400 and "images" in answer.text


def test_a_response_format_leaves_no_thought(serve_template: Any) -> None:
    with serve_template("deepseek_r1", '{"a": 1}') as (script, server):
        message = ask(server, response_format={"type": "json_object"}).json()["choices"][0]["message"]
        assert message["content"] == '{"a": 1}' and "reasoning" not in message
        assert script.prompt().endswith("</think>\n\n")


def test_raw_text_is_not_split(serve_template: Any) -> None:
    with (
        serve_template("deepseek_r1", "<think>想</think>好") as (script, server),
        ollama.Client(server.address, timeout=300) as client,
    ):
        assert client.generate("tiny", "one", raw=True).response == "<think>想</think>好"
        assert "<" not in script.prompt().replace("<|begin_of_text|>", "")
        with pytest.raises(ollama.ResponseError, match="system has no place beside raw"):
            client.generate("tiny", "one", raw=True, system="?")


def test_ollamas_answers_have_log_probabilities(serve_template: Any) -> None:
    with (
        serve_template("llama3.1", "<think>\n想\n</think>\n\n好的") as (script, server),
        ollama.Client(server.address, timeout=300) as client,
    ):
        whole = client.chat("tiny", MESSAGES, logprobs=True, top_logprobs=1)
        streamed = list(client.chat("tiny", MESSAGES, logprobs=True, top_logprobs=1, stream=True))
        plain = client.generate("tiny", "?", logprobs=True)
    for responses in ([whole], streamed, [plain]):
        logprobs = [entry for response in responses for entry in response.logprobs or ()]
        assert "".join(entry.token for entry in logprobs if "\ufffd" not in entry.token).startswith("<think>")
        assert len(logprobs) == len(script.tokenizer.encode(script.text))
        assert all(entry.logprob == -0.5 for entry in logprobs)


def test_show_has_what_open_webui_and_vs_code_read(serve_template: Any) -> None:
    with serve_template("llama3.1", "") as (_, server):
        shown = httpx.post(f"{server.address}/api/show", json={"model": "tiny"}, timeout=300).json()
    info = shown["model_info"]
    assert info[f"{info['general.architecture']}.context_length"] == 8192
    assert info["general.basename"] == "tiny" and info["general.parameter_count"] > 0
    assert "tools" in shown["capabilities"] and "stop" in shown["parameters"]
    assert shown["details"]["families"] == ["llama"] and shown["details"]["parameter_size"]
    assert shown["template"].startswith("{#")
