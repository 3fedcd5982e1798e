"""What becomes of the parts of an answer in Anthropic's form: blocks, their events, and the stop reason."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from hanlin.chat.call_form import CallForm
from hanlin.inference.protocol import FinishReason
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.anthropic.events import MessageFormatter
from hanlin.serve.api.anthropic.requests import MessagesRequest
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer

TOOLS = ("weather",)
THOUGHT = "<think>\n该查\n</think>\n\n"
CALL = '{"name": "weather", "parameters": {"town": "东"}}'
SECOND = '{"name": "weather", "parameters": {}}'


def make_job(prompt: str = "") -> Any:
    """A job of one answer, whose prompt ends with `prompt`."""
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special: prompt)
    model = SimpleNamespace(tokenizer=tokenizer, call_form=CallForm())
    request: Any = SimpleNamespace(prompt_ids=(1, 2), constraint=None)
    return GenerationJob(model, (request,), (), 2)  # type: ignore[arg-type]


def answer_whole(text: str, finish_reason: FinishReason = "stop", stop: str = "", **fields: Any) -> dict[str, Any]:
    answer = Answer([TextDelta(text)], AnswerEnd(finish_reason, 5, stop))
    prompt = fields.pop("prompt", "")
    return MessageFormatter("m", TOOLS, **fields).build_response(make_job(prompt), [answer])


def stream_events(text: str, finish_reason: FinishReason = "stop", **fields: Any) -> list[dict[str, Any]]:
    """The events of an answer that comes letter by letter."""
    formatter, job = MessageFormatter("m", TOOLS, **fields), make_job()
    lines = formatter.open_stream(job)
    for letter in text:
        lines += formatter.format_event(job, TextDelta(letter))
    lines += formatter.format_event(job, AnswerEnd(finish_reason, 5))
    events = []
    for line in lines:
        name, data = line.decode().strip().split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def outline(blocks: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    fields = {"text": "text", "thinking": "thinking", "tool_use": "input"}
    return [(block["type"], block[fields[block["type"]]]) for block in blocks]


@pytest.mark.parametrize(
    ("text", "expected", "reason"),
    [
        ("晴", [("text", "晴")], "end_turn"),
        ("", [], "end_turn"),
        (THOUGHT + "晴", [("thinking", "该查"), ("text", "晴")], "end_turn"),
        (CALL, [("tool_use", {"town": "东"})], "tool_use"),
        (
            f"{THOUGHT}我查。\n\n{CALL}; {SECOND}",
            [("thinking", "该查"), ("text", "我查。"), ("tool_use", {"town": "东"}), ("tool_use", {})],
            "tool_use",
        ),
        ('{"name": "other", "parameters": {}}', [("text", '{"name": "other", "parameters": {}}')], "end_turn"),
    ],
)
def test_an_answer_is_its_blocks_whole_and_streamed(text: str, expected: Any, reason: str) -> None:
    whole = answer_whole(text)
    assert (outline(whole["content"]), whole["stop_reason"]) == (expected, reason)
    ids = [block["id"] for block in whole["content"] if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids) and all(call_id.startswith("toolu_") for call_id in ids)

    events = stream_events(text)
    inner = [event for event in events if event["type"].startswith("content_block")]
    received: list[tuple[str, Any]] = []
    for event in inner:
        if event["type"] == "content_block_start":
            assert event["index"] == len(received)
            received.append((event["content_block"]["type"], ""))
        elif event["type"] == "content_block_delta" and event["delta"]["type"] != "signature_delta":
            assert event["index"] == len(received) - 1
            delta = event["delta"]
            piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            received[-1] = (received[-1][0], received[-1][1] + piece)
    assert [(kind, json.loads(text) if kind == "tool_use" else text) for kind, text in received] == expected
    starts = [event["type"] for event in inner].count("content_block_start")
    assert starts == [event["type"] for event in inner].count("content_block_stop") == len(expected)
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"] == {"stop_reason": reason, "stop_sequence": None}


def test_a_thinking_block_ends_with_a_signature() -> None:
    (thought,) = [block for block in answer_whole(THOUGHT + "晴")["content"] if block["type"] == "thinking"]
    deltas = [event["delta"] for event in stream_events(THOUGHT + "晴") if event["type"] == "content_block_delta"]
    signatures = [delta["signature"] for delta in deltas if delta["type"] == "signature_delta"]
    assert signatures == [thought["signature"]] and thought["signature"]


def test_an_answer_to_a_prompt_that_opened_the_thinking_block_begins_with_a_thought() -> None:
    whole = answer_whole("该查\n</think>\n\n晴", prompt="<|assistant|><think>\n")
    assert outline(whole["content"]) == [("thinking", "该查"), ("text", "晴")]


def test_a_call_that_was_cut_off_is_told_by_the_stop_reason_and_its_text_is_not_lost() -> None:
    whole = answer_whole(CALL[:-4], "length")
    assert (outline(whole["content"]), whole["stop_reason"]) == ([("text", CALL[:-4])], "max_tokens")
    events = stream_events(CALL[:-4], "length")
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(pieces) == '{"town": "'
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


def test_parallel_calls_can_be_turned_off() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}], "tool_choice": choice}
    max_calls = MessagesRequest.parse(json.dumps(body).encode()).max_calls
    whole = answer_whole(f"{CALL}; {SECOND}", max_calls=max_calls)
    assert outline(whole["content"]) == [("tool_use", {"town": "东"})]


def test_usage_and_stop_sequence_are_those_of_the_answer() -> None:
    whole = answer_whole("一二", stop="三")
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "三")
    assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (2, 5)
