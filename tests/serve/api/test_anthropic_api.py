"""The Anthropic API through the vendor's own client: messages whole and streamed, tools, counts, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.api.anthropic.requests import MessagesRequest
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.errors import ApiError
from live_server import LiveServer, run_server
from taught_model import LESSONS

NAME, COUNT = LESSONS[0], LESSONS[4]
SCHEMA: Any = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"town": {"enum": ["东", "西"]}},
    "required": ["town"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "how it is outside", "input_schema": SCHEMA}
QUESTION: Any = [{"role": "user", "content": "?"}]


def user_messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture()
def client(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with connect(server) as opened:
        yield opened


def connect(server: LiveServer, key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.address, api_key=key, max_retries=0, timeout=300)


def count_prompt(usage: Any) -> int:
    return int(usage.input_tokens + usage.cache_read_input_tokens)


# ------------------------------------------------------------------------------------------------------- answers


def test_a_message_is_the_models_answer(client: anthropic.Anthropic, opened: LoadedEngine) -> None:
    answer = client.messages.create(model="tiny", max_tokens=30, messages=user_messages(NAME[0]))
    (block,) = answer.content
    assert (block.type, getattr(block, "text", "")) == ("text", NAME[1])
    assert (answer.type, answer.role, answer.model, answer.id[:4]) == ("message", "assistant", "tiny", "msg_")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.output_tokens == len(opened.tokenizer.encode(NAME[1]))
    count = client.messages.count_tokens(model="tiny", messages=user_messages(NAME[0]))
    assert count.input_tokens == count_prompt(answer.usage) > 0


def test_a_stream_adds_up_to_the_same_message(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="tiny", max_tokens=30, messages=user_messages(NAME[0])) as stream:
        kinds = [event.type for event in stream if event.type != "text"]
        message = stream.get_final_message()
    whole = client.messages.create(model="tiny", max_tokens=30, messages=user_messages(NAME[0]))
    assert message.model_dump(exclude={"id", "content"}) == whole.model_dump(exclude={"id", "content"})
    assert message.to_dict()["content"] == whole.to_dict()["content"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"} and len(kinds) > 6


def test_an_asynchronous_client_gets_the_same(server: LiveServer) -> None:
    fields: Any = {"model": "tiny", "max_tokens": 30, "messages": user_messages(NAME[0])}

    async def ask() -> tuple[str, str]:
        async with anthropic.AsyncAnthropic(base_url=server.address, api_key="none", max_retries=0) as client:
            whole: Any = await client.messages.create(**fields)
            async with client.messages.stream(**fields) as stream:
                return whole.content[0].text, "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()) == (NAME[1], NAME[1])


def test_every_event_is_named_and_a_ping_follows_the_start(server: LiveServer) -> None:
    body = {"model": "tiny", "max_tokens": 30, "messages": user_messages(NAME[0]), "stream": True}
    answer = httpx.post(f"{server.address}/v1/messages?beta=true", json=body, timeout=300)
    events = [dict(line.split(": ", 1) for line in event.split("\n")) for event in answer.text.strip().split("\n\n")]
    assert all(event["event"] == json.loads(event["data"])["type"] for event in events)
    assert [event["event"] for event in events[:2]] == ["message_start", "ping"]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({"stop_sequences": ["never", " four"]}, "stop_sequence", " four"),
        ({"stop_sequences": ["never"]}, "end_turn", None),
        ({"max_tokens": 2}, "max_tokens", None),
    ],
)
def test_the_stop_reason_says_what_ended_the_answer(
    client: anthropic.Anthropic, fields: Any, reason: str, sequence: str | None, is_streamed: bool
) -> None:
    given: Any = {"model": "tiny", "max_tokens": 30, "messages": user_messages(COUNT[0]), **fields}
    if is_streamed:
        with client.messages.stream(**given) as stream:
            answer: Any = stream.get_final_message()
    else:
        answer = client.messages.create(**given)
    assert (answer.stop_reason, answer.stop_sequence) == (reason, sequence)
    assert COUNT[1].startswith(answer.content[0].text)
    assert " four" not in answer.content[0].text or sequence is None


def test_sampling_fields_are_honored(client: anthropic.Anthropic) -> None:
    given: Any = {"model": "tiny", "max_tokens": 9, "messages": QUESTION}
    greedy = [client.messages.create(**given, extra_body={"temperature": 0}).to_dict()["content"] for _ in range(2)]
    narrow = client.messages.create(**given, extra_body={"temperature": 1.0, "top_k": 1, "top_p": 0.5})
    assert greedy[0] == greedy[1] == narrow.to_dict()["content"]


# --------------------------------------------------------------------------------------------------- conversations


def parse(**fields: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 8, "messages": QUESTION, **fields}
    return MessagesRequest.parse(json.dumps(body).encode())


def test_blocks_become_turns() -> None:
    turns = parse(
        system=[{"type": "text", "text": "甲", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "乙"}],
        messages=[
            *QUESTION,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "想", "signature": "s"},
                    {"type": "redacted_thinking", "data": "AAAA"},
                    {"type": "text", "text": "查"},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"town": "东"}},
                    {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "晴"}]},
                    {"type": "tool_result", "tool_use_id": "b", "content": "no town", "is_error": True},
                    {"type": "text", "text": "然后"},
                    {"type": "text", "text": "呢"},
                ],
            },
        ],
    ).to_messages()
    assert [(turn.role, turn.text) for turn in turns] == [
        ("system", "甲\n\n乙"),
        ("user", "?"),
        ("assistant", "查"),
        ("tool", "晴"),
        ("tool", "Error: no town"),
        ("user", "然后\n\n呢"),
    ]
    assert turns[2].reasoning == "想"
    assert [(call.id, dict(call.arguments)) for call in turns[2].tool_calls] == [("a", {"town": "东"}), ("b", {})]
    assert [turn.tool_call_id for turn in turns[3:5]] == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]},
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}],
                    }
                ]
            },
            "messages.0.content.0.content.0",
        ),
        ({"max_tokens": None}, "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "weather"}]}, "tools.0.input_schema"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "defer_loading"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits.0.type"),
        ({"stop_sequence": ["a"]}, "stop_sequence"),
        ({"n": 2}, "n"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(fields: Any, named: str) -> None:
    with pytest.raises(ApiError) as caught:
        body = parse(**fields)
        body.to_messages()
        body.get_tools()
        body.to_params()
    assert (caught.value.status, caught.value.param) == (400, named)


@pytest.mark.parametrize(
    ("turn", "named"),
    [("messages.0", "system"), ("messages.1", "messages.0"), ("messages.4", "messages.2"), ("messages", "messages")],
)
def test_an_error_names_the_message_that_a_turn_was_made_of(turn: str, named: str) -> None:
    results = [{"type": "tool_result", "tool_use_id": name, "content": "晴"} for name in "ab"]
    calls = [{"type": "tool_use", "id": name, "name": "weather", "input": {}} for name in "ab"]
    turns = [*QUESTION, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    assert parse(system="甲", messages=turns).rename_param(turn) == named


# ----------------------------------------------------------------------------------------------------------- tools


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_forced_call_comes_whole_and_in_parts(tool_server: LiveServer, choice: Any) -> None:
    fields: Any = {"model": "tiny", "max_tokens": 100, "messages": QUESTION, "tools": [WEATHER], "tool_choice": choice}
    with connect(tool_server) as client:
        whole: Any = client.messages.create(**fields)
        with client.messages.stream(**fields) as stream:
            deltas = [event.delta.type for event in stream if event.type == "content_block_delta"]
            streamed: Any = stream.get_final_message()
        for answer in (whole, streamed):
            (call,) = answer.content
            assert (call.type, call.name, call.id[:6], answer.stop_reason) == (
                "tool_use",
                "weather",
                "toolu_",
                "tool_use",
            )
            assert call.input["town"] in "东西"
        assert set(deltas) == {"input_json_delta"} and len(deltas) > 1
        turns: Any = [
            *QUESTION,
            {"role": "assistant", "content": whole.to_dict()["content"]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "晴"}]},
        ]
        after = client.messages.create(model="tiny", max_tokens=2, messages=turns, tools=[WEATHER])
    assert count_prompt(after.usage) > count_prompt(whole.usage)


def test_with_tool_choice_none_the_model_is_offered_no_tool(tool_server: LiveServer) -> None:
    with connect(tool_server) as client:
        counts = [
            client.messages.count_tokens(model="tiny", messages=QUESTION, **fields).input_tokens
            for fields in ({}, {"tools": [WEATHER], "tool_choice": {"type": "none"}}, {"tools": [WEATHER]})
        ]
    assert counts[0] == counts[1] < counts[2]


def test_an_output_format_is_obeyed(tool_server: LiveServer) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    with connect(tool_server) as client:
        answer: Any = client.messages.create(model="tiny", max_tokens=200, messages=QUESTION, output_config=config)
    assert json.loads(answer.content[0].text)["town"] in "东西"


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "disabled"}, None])
def test_thinking_is_left_to_the_model_also_before_a_forced_call(tool_server: LiveServer, thinking: Any) -> None:
    given: Any = {"model": "tiny", "max_tokens": 2, "messages": QUESTION, "extra_body": {"thinking": thinking}}
    with connect(tool_server) as client:
        assert client.messages.create(**given).usage.output_tokens <= 2
        given |= {"tools": [WEATHER], "tool_choice": {"type": "any"}}
        given["extra_body"] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        assert client.messages.create(**given).usage.output_tokens <= 2


CLAUDE_CODE_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
    "anthropic-dangerous-direct-browser-access": "true",
    "user-agent": "claude-cli/2.1.69 (external, cli)",
    "x-app": "cli",
    "x-api-key": "none",
}


def claude_code_body(billing: str) -> dict[str, Any]:
    """A request in the form of Claude Code's, in the middle of its work."""
    cached = {"cache_control": {"type": "ephemeral"}}
    return {
        "model": "tiny",
        "max_tokens": 16,
        "stream": True,
        "metadata": {"user_id": "user_0_account__session_0"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.37; cch={billing};"},
            {"type": "text", "text": "You work in a terminal.", **cached},
            {"type": "text", "text": "Be brief.", **cached},
        ],
        "tools": [
            {**WEATHER, "eager_input_streaming": True},
            {"name": "mcp__files__read", "description": "", "input_schema": {"type": "object", "properties": {}}},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>\nToday is Sunday.\n</system-reminder>"},
                    {"type": "text", "text": "天气？"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "我查一下。"},
                    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "东"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "晴", "is_error": False, **cached}
                ],
            },
        ],
    }


def test_a_request_of_claude_code_is_answered_and_its_billing_line_is_no_part_of_the_prompt(
    tool_server: LiveServer,
) -> None:
    prompts = []
    for billing in ("fa690", "0"):
        answer = httpx.post(
            f"{tool_server.address}/v1/messages?beta=true",
            json=claude_code_body(billing),
            headers=CLAUDE_CODE_HEADERS,
            timeout=300,
        )
        assert (answer.status_code, "event: message_stop" in answer.text) == (200, True), answer.text
        start = json.loads(answer.text.split("data: ", 1)[1].split("\n")[0])
        prompts.append(start["message"]["usage"]["input_tokens"])
    assert prompts[0] == prompts[1] > 0


# ---------------------------------------------------------------------------------------------------------- errors


def test_errors_have_the_vendors_form(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="other", max_tokens=1, messages=QUESTION)
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0: blocks of type image") as refused:
        image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
        client.messages.create(model="tiny", max_tokens=1, messages=[{"role": "user", "content": [image]}])
    assert refused.value.type == "invalid_request_error"


def test_the_models_are_listed_for_the_client(client: anthropic.Anthropic) -> None:
    (model,) = client.models.list()
    assert (model.id, model.type, model.display_name, model.created_at.year >= 2024) == ("tiny", "model", "tiny", True)
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_key_is_accepted_in_either_header(opened: LoadedEngine) -> None:
    with run_server(opened, policy=AccessPolicy(("secret",))) as server:
        given: Any = {"model": "tiny", "max_tokens": 1, "messages": QUESTION}
        with connect(server, "secret") as client:
            assert client.messages.create(**given).stop_reason == "max_tokens"
        with anthropic.Anthropic(base_url=server.address, auth_token="secret", api_key=None, max_retries=0) as client:
            assert client.messages.create(**given).stop_reason == "max_tokens"
        with connect(server, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as caught:
            client.messages.create(**given)
    assert caught.value.type == "authentication_error"


def test_an_error_within_a_stream_is_an_event(opened: LoadedEngine) -> None:
    with (
        run_server(opened, pause=0.2, limits=Limits(deadline_seconds=0.5)) as server,
        connect(server) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(model="tiny", max_tokens=30, messages=user_messages(COUNT[0])) as stream,
    ):
        stream.until_done()
    assert caught.value.type == "timeout_error"
