"""The Responses API, through the official client and with the bodies of agents."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from hanlin.core.records import Message, ToolCall
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.admission import Limits
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.responses.events import ResponseBuilder
from hanlin.serve.api.responses.items import open_reasoning, read_items, seal_reasoning, to_messages
from hanlin.serve.api.responses.schemas import ResponseRequest
from hanlin.serve.api.truncation import render_fitting
from hanlin.serve.registry import ServedModel
from live_server import LiveServer, run_server
from taught_model import LESSONS

NAME, COUNT = LESSONS[0], LESSONS[4]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "how it is outside",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"town": {"enum": ["东", "西"]}, "day": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["town", "day"],
        "additionalProperties": False,
    },
}


def post(server: LiveServer, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.address}/v1/responses", json={"model": "tiny", **fields}, timeout=300)


def refused(server: LiveServer, **fields: Any) -> str | None:
    """The field that a 400 names."""
    answer = post(server, **fields)
    assert answer.status_code == 400, answer.text
    param: str | None = answer.json()["error"]["param"]
    return param


def read_events(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


# ------------------------------------------------------------------------------------------------- whole answers


@pytest.mark.parametrize(
    "asked",
    [
        NAME[0],
        [{"role": "user", "content": NAME[0]}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": NAME[0]}]}],
    ],
)
def test_text_and_items_are_answered(server: LiveServer, asked: Any) -> None:
    response = server.client().responses.create(model="tiny", input=asked)
    assert (response.output_text, response.status, response.object) == (NAME[1], "completed", "response")
    assert response.id.startswith("resp_") and response.output[0].type == "message"
    assert response.usage is not None and response.usage.input_tokens_details.cached_tokens >= 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0


def test_an_answer_at_its_limit_is_incomplete(server: LiveServer) -> None:
    response = server.client().responses.create(model="tiny", input=COUNT[0], max_output_tokens=3)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None and response.usage.output_tokens == 3
    (message,) = response.output
    assert message.type == "message" and message.status == "incomplete"


def test_the_request_is_repeated_in_the_response(server: LiveServer) -> None:
    response = server.client().responses.create(
        model="tiny", input=NAME[0], metadata={"a": "b"}, temperature=0.0, top_p=0.5, user="u", truncation="auto"
    )
    assert (response.metadata, response.temperature, response.top_p) == ({"a": "b"}, 0.0, 0.5)
    assert (response.user, response.truncation, response.error) == ("u", "auto", None)


def test_log_probabilities_come_if_they_are_included(server: LiveServer) -> None:
    response: Any = server.client().responses.create(
        model="tiny", input=NAME[0], include=["message.output_text.logprobs"], top_logprobs=2
    )
    logprobs = response.output[0].content[0].logprobs
    assert b"".join(bytes(token.bytes) for token in logprobs).decode() == NAME[1]
    assert all(len(token.top_logprobs) == 2 for token in logprobs)


def test_the_asynchronous_client_is_answered_too(server: LiveServer) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none") as client:
            response = await client.responses.create(model="tiny", input=NAME[0])
            stream = await client.responses.create(model="tiny", input=NAME[0], stream=True)
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return [response.output_text, "".join(deltas)]

    assert asyncio.run(ask()) == [NAME[1], NAME[1]]


# ---------------------------------------------------------------------------------------------------- streaming


def test_a_streamed_text_has_the_vendors_events_in_order(server: LiveServer) -> None:
    answer = post(server, input=NAME[0], stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read_events(answer.text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if "delta" in event]
    assert "".join(deltas) == NAME[1] and len(deltas) > 1
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * len(deltas),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    assert events[-1]["response"]["usage"]["output_tokens"] > 0


def test_the_clients_stream_helper_gives_the_whole_response(server: LiveServer) -> None:
    with server.client().responses.stream(model="tiny", input=NAME[0]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert response.output_text == "".join(deltas) == NAME[1]


def test_a_stream_at_its_limit_ends_with_incomplete(server: LiveServer) -> None:
    events = list(server.client().responses.create(model="tiny", input=COUNT[0], max_output_tokens=3, stream=True))
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.status == "incomplete"


def test_a_stream_that_breaks_off_ends_with_failed(opened: LoadedEngine) -> None:
    with run_server(opened, pause=0.2, limits=Limits(deadline_seconds=0.5)) as server:
        events = read_events(post(server, input=COUNT[0], stream=True).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def write_answer(opened: LoadedEngine, answer: str, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events that an answer makes, and the response at its end."""
    body = ResponseRequest.model_validate({"model": "tiny", "input": "?", "tools": [WEATHER], **fields})
    model = ServedModel("tiny", opened, Limits())
    job = model.make_job([(1, 2, 3)], body.to_params(), "input")
    builder = ResponseBuilder(body, model, {"weather"})
    events = builder.open(job)
    for char in answer:
        events += builder.add(job, TextDelta(char))
    events += builder.add(job, AnswerEnd("stop", 9))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events, builder.response


CALL = '{"name": "weather", "parameters": {"town": "东", "day": 1}}'


def test_an_answer_becomes_reasoning_text_and_calls(opened: LoadedEngine) -> None:
    events, response = write_answer(opened, f"<think>\n要查\n</think>\n\n我查一下。\n{CALL}\n{CALL}")
    reasoning, message, *calls = response["output"]
    assert (reasoning["summary"], reasoning["content"]) == ([], [{"type": "reasoning_text", "text": "要查"}])
    assert message["content"][0]["text"] == "我查一下。"
    assert [json.loads(call["arguments"]) for call in calls] == [{"town": "东", "day": 1}] * 2
    assert len({item["id"] for item in response["output"]}) == 4 and calls[0]["call_id"] != calls[1]["call_id"]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.done"] == [0, 1, 2, 3]
    assert {"response.reasoning_text.delta", "response.reasoning_text.done"} <= {event["type"] for event in events}
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    turn = to_messages(read_items.validate_python(response["output"]))
    assert [(item.reasoning, item.text, len(item.tool_calls)) for item in turn] == [("要查", "我查一下。", 2)]


def test_one_call_is_read_if_parallel_calls_are_refused(opened: LoadedEngine) -> None:
    _, response = write_answer(opened, f"{CALL}\n{CALL}", parallel_tool_calls=False)
    assert [item["type"] for item in response["output"]] == ["function_call"]


def test_reasoning_is_the_summary_if_one_is_asked_for(opened: LoadedEngine) -> None:
    events, response = write_answer(
        opened, "<think>想</think>答", reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"]
    )
    reasoning = response["output"][0]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "想"}] and "content" not in reasoning
    assert open_reasoning(reasoning["encrypted_content"]) == "想"
    kinds = [
        event["type"].removeprefix("response.reasoning_summary_") for event in events if "summary" in event["type"]
    ]
    assert kinds == ["part.added", "text.delta", "text.done", "part.done"]


# -------------------------------------------------------------------------------------------------- input items


def messages_of(*items: dict[str, Any]) -> list[Message]:
    return to_messages(read_items.validate_python(list(items)))


def test_what_is_not_stored_cannot_be_continued(server: LiveServer) -> None:
    response = server.client().responses.create(model="tiny", input=NAME[0], store=False)
    assert refused(server, input="?", previous_response_id=response.id) == "previous_response_id"
    assert refused(server, input=[{"type": "item_reference", "id": "msg_x"}]) == "input.0.id"


def test_what_the_model_wrote_in_one_go_is_one_turn() -> None:
    call = {"type": "function_call", "name": "weather", "arguments": '{"day": 1}'}
    output = {"type": "function_call_output", "output": "晴"}
    messages = messages_of(
        {"role": "developer", "content": "简短"},
        {"role": "user", "content": [{"type": "input_text", "text": "天"}, {"type": "input_text", "text": "气？"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "要查"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "我查一下。"}]},
        {**call, "call_id": "a"},
        {**call, "call_id": "b", "arguments": ""},
        {**output, "call_id": "a"},
        {**output, "call_id": "b", "output": [{"type": "input_text", "text": "雨"}]},
    )
    calls = (ToolCall("weather", {"day": 1}, "a"), ToolCall("weather", {}, "b"))
    assert messages == [
        Message("system", "简短"),
        Message("user", "天气？"),
        Message("assistant", "我查一下。", calls, reasoning="要查"),
        Message("tool", "晴", tool_call_id="a"),
        Message("tool", "雨", tool_call_id="b"),
    ]


@pytest.mark.parametrize(
    "reasoning",
    [
        {"content": [{"type": "reasoning_text", "text": "想"}], "summary": []},
        {"summary": [{"type": "summary_text", "text": "想"}]},
        {"summary": [], "encrypted_content": seal_reasoning("想")},
    ],
)
def test_reasoning_comes_back_in_every_form(reasoning: dict[str, Any]) -> None:
    messages = messages_of({"type": "reasoning", **reasoning}, {"role": "assistant", "content": "答"})
    assert messages == [Message("assistant", "答", reasoning="想")]
    assert open_reasoning("gAAAAABfremd") is None


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}, "input.0.content.0.type"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input.0.content.0.type"),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "input.0.type"),
        ({"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "x"}, "input.0.type"),
        ({"type": "function_call", "call_id": "c", "name": "n", "arguments": "[1]"}, "input.0.arguments"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}, "input.0.encrypted_content"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "想"}]}, "input.0"),
        ({"type": "reasoning", "id": "rs_1", "summary": "想"}, "input.0.summary"),
        ({"role": "robot", "content": "?"}, "input.0.role"),
        ({"type": "function_call_output", "call_id": "c"}, "input.0.output"),
    ],
)
def test_an_item_that_cannot_be_used_is_rejected_by_name(server: LiveServer, item: Any, field: str) -> None:
    assert refused(server, input=[item]) == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [WEATHER, {"type": "custom", "name": "apply_patch"}]}, "tools.1.type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"mirostat": 2}, "mirostat"),
        ({"guided_regex": "a", "text": {"format": {"type": "json_object"}}}, "guided_regex"),
        ({"include": ["nothing"]}, "include.0"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ],
)
def test_a_field_that_is_not_supported_is_rejected_by_name(
    server: LiveServer, fields: dict[str, Any], field: str
) -> None:
    named = refused(server, input=NAME[0], **fields)
    assert named is not None and named.startswith(field)


def test_truncation_drops_the_oldest_turns_only_if_it_is_asked_for(opened: LoadedEngine) -> None:
    model = ServedModel("tiny", opened, Limits())
    turn = [Message("user", "你好" * 20), Message("assistant", "好")]
    messages = [Message("system", "简短"), *(turn * 60), Message("user", NAME[0])]
    prompt = render_fitting(model, messages, (), None, 16)
    assert len(prompt) <= model.engine.context_length - 16
    assert NAME[0] in model.tokenizer.decode(prompt) and "简短" in model.tokenizer.decode(prompt)
    with run_server(opened) as server:
        items = [{"role": turn.role, "content": turn.text} for turn in messages]
        assert refused(server, input=items) == "input"
        answer = post(server, input=items, truncation="auto", max_output_tokens=16).json()
        assert answer["usage"]["input_tokens"] == len(prompt)


def test_truncation_drops_no_more_turns_than_it_has_to(opened: LoadedEngine) -> None:
    """A limit of the answer is no length that it will have: clients set one as long as the context."""
    model = ServedModel("tiny", opened, Limits())
    context_length = model.engine.context_length
    turn = [Message("user", "你好" * 20), Message("assistant", "好")]
    last = [Message("user", NAME[0])]
    count = next(
        count for count in range(1, 999) if len(model.render_chat([*turn * (count + 1), *last])) >= context_length
    )
    whole = model.render_chat([*turn * count, *last])
    assert context_length * 3 / 4 < len(whole) < context_length
    for limit in (None, 16, context_length, 10 * context_length):
        assert render_fitting(model, [*turn * count, *last], (), None, limit) == whole
        shortened = render_fitting(model, [*turn * 60, *last], (), None, limit)
        assert context_length / 3 < len(shortened) <= context_length - min(limit or 16, 16)
    with run_server(opened) as server:
        items = [{"role": turn.role, "content": turn.text} for turn in [*turn * count, *last]]
        answer = post(server, input=items, truncation="auto", max_output_tokens=context_length).json()
        assert answer["usage"]["input_tokens"] == len(whole)


# -------------------------------------------------------------------------------------------- tools and structure


def test_a_demanded_call_comes_and_its_output_goes_back(tool_server: LiveServer) -> None:
    client = tool_server.client()
    response = client.responses.create(model="tiny", input="?", tools=[WEATHER], tool_choice="required")
    (call,) = response.output
    assert call.type == "function_call" and call.name == "weather" and call.status == "completed"
    assert json.loads(call.arguments)["town"] in "东西"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "晴"}]
    second = client.responses.create(
        model="tiny", input=output, tools=[WEATHER], previous_response_id=response.id, max_output_tokens=4
    )
    assert second.status in ("completed", "incomplete")


def test_a_streamed_call_has_the_vendors_events_in_order(tool_server: LiveServer) -> None:
    choice = {"type": "function", "name": "weather"}
    events = read_events(post(tool_server, input="?", tools=[WEATHER], tool_choice=choice, stream=True).text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if "delta" in event]
    assert kinds == [
        *("created", "in_progress", "output_item.added"),
        *["function_call_arguments.delta"] * len(deltas),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    item = events[-2]["item"]
    assert events[2]["item"] == {**item, "arguments": "", "status": "in_progress"}
    assert item["arguments"] == "".join(deltas) == events[-3]["arguments"]
    assert events[-1]["response"]["output"] == [item]


def test_a_cut_call_is_incomplete(tool_server: LiveServer) -> None:
    answer = post(tool_server, input="?", tools=[WEATHER], tool_choice="required", max_output_tokens=12).json()
    assert (answer["status"], answer["output"][-1]["status"]) == ("incomplete", "incomplete")


def test_allowed_tools_are_the_only_ones_that_are_called(tool_server: LiveServer) -> None:
    other: Any = {**WEATHER, "name": "other"}
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    response = tool_server.client().responses.create(
        model="tiny", input="?", tools=[other, WEATHER], tool_choice=allowed
    )
    (call,) = response.output
    assert call.type == "function_call" and call.name == "weather"


class Place(BaseModel):
    town: str
    day: bool


def test_structured_text_is_parsed_by_the_client(tool_server: LiveServer) -> None:
    response = tool_server.client().responses.parse(
        model="tiny", input="?", text_format=Place, temperature=0.0, max_output_tokens=2000
    )
    assert response.status == "incomplete" or response.output_parsed is not None
    answer = post(tool_server, input="?", text={"format": {"type": "json_object"}}, max_output_tokens=50).json()
    assert answer["output"][0]["content"][0]["text"].lstrip().startswith("{")


# ------------------------------------------------------------------------------------------------------- agents


def test_a_body_as_codex_sends_it_is_answered(tool_server: LiveServer) -> None:
    """The shape of Codex's requests: instructions, a developer's and several users' messages, a turn with a call."""
    shell = {
        "type": "function",
        "name": "shell",
        "description": "Runs a shell command and returns its output.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {
                "command": {"type": "array", "items": {"type": "string"}, "description": "The command to execute"},
                "workdir": {"type": "string"},
                "timeout_ms": {"type": "number"},
            },
            "required": ["command"],
            "additionalProperties": False,
        },
    }
    body = {
        "model": "tiny",
        "instructions": "You are a coding agent running in a terminal.",
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "<environment_context>\n</environment_context>"}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "列出文件"}]},
            {
                "type": "function_call",
                "name": "shell",
                "arguments": '{"command": ["ls"]}',
                "call_id": "call_1",
            },
            {"type": "function_call_output", "call_id": "call_1", "output": '{"output": "a.py\\n"}'},
        ],
        "tools": [shell],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": None,
        "store": False,
        "stream": True,
        "include": [],
        "prompt_cache_key": "019a0000-0000-7000-8000-000000000000",
    }
    answer = httpx.post(
        f"{tool_server.address}/v1/responses",
        json={**body, "max_output_tokens": 8},
        headers={"session_id": "019a", "originator": "codex_cli_rs", "accept": "text/event-stream"},
        timeout=300,
    )
    events = read_events(answer.text)
    assert events[0]["type"] == "response.created" and events[-1]["type"] in (
        "response.completed",
        "response.incomplete",
    )
    assert any(event["type"] == "response.output_item.done" for event in events)
