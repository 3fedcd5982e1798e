"""What an answer is split into, the same wherever its text is cut: reasoning, content and calls in every form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hanlin.serve.api.answer_splitter import AnswerSplitter, split_answer

NAMES = ("weather", "查天气")
CALL = '{"name": "weather", "parameters": {"town": "}\\"{", "day": [1, {"a": 2}]}}'
OTHER = '{"name": "查天气", "arguments": {"城市": "北京"}}'
TAGGED = "<tool_call>\n%s\n</tool_call>"
PYTHONIC = '[weather(town="a)b\\"", day=-3, deep={"x": true, "y": null}), 查天气(城市=\'北京\')]'
FIRST, SECOND = ("weather", {"town": '}"{', "day": [1, {"a": 2}]}), ("查天气", {"城市": "北京"})

ANSWERS: dict[str, tuple[str, dict[str, Any], str, str, list]] = {
    # name: text, arguments of the splitter, reasoning, content, calls
    "a call": (CALL, {}, "", "", [FIRST]),
    "two with a semicolon": (f"{CALL}; {OTHER}", {}, "", "", [FIRST, SECOND]),
    "two lines": (f"{CALL}\n{OTHER}\n", {}, "", "", [FIRST, SECOND]),
    "a list": (f"[{CALL}, {OTHER}]", {}, "", "", [FIRST, SECOND]),
    "after text": (f"好的，我来查一下。{CALL}", {}, "", "好的，我来查一下。", [FIRST]),
    "after text and white space": (f"好的。\n\n{CALL}", {}, "", "好的。", [FIRST]),
    "before text": (f"{CALL}\n请稍等", {}, "", "请稍等", [FIRST]),
    "between texts": (f"好的。\n{CALL}\n请稍等", {}, "", "好的。\n请稍等", [FIRST]),
    "after braces": (rf"\frac{{a}}{{b}} {CALL}", {}, "", r"\frac{a}{b}", [FIRST]),
    "tagged": (TAGGED % OTHER, {}, "", "", [SECOND]),
    "two tagged after text": (f"好\n{TAGGED % CALL}\n{TAGGED % OTHER}", {}, "", "好", [FIRST, SECOND]),
    "arguments before the name": (
        TAGGED % '{"arguments": {"城市": "北京"}, "name": "查天气"}',
        {},
        "",
        "",
        [SECOND],
    ),
    "arguments as text": ('{"name": "weather", "arguments": "{\\"day\\": 1}"}', {}, "", "", [("weather", {"day": 1})]),
    "no arguments": ('{"name": "weather"}', {}, "", "", [("weather", {})]),
    "an escaped name": ('{"name": "\\u67e5\\u5929\\u6c14", "arguments": {}}', {}, "", "", [("查天气", {})]),
    "with a type": ('{"type": "function", "name": "weather", "parameters": {}}', {}, "", "", [("weather", {})]),
    "with python's tag": (f"<|python_tag|>{CALL}", {}, "", "", [FIRST]),
    "without its last brace": (CALL[:-1], {}, "", "", [FIRST]),
    "pythonic": (
        f"好。\n\n{PYTHONIC}",
        {"is_pythonic": True},
        "",
        "好。",
        [("weather", {"town": 'a)b"', "day": -3, "deep": {"x": True, "y": None}}), SECOND],
    ),
    "pythonic without arguments": ("[weather()]", {"is_pythonic": True}, "", "", [("weather", {})]),
    "json under a pythonic template": (CALL, {"is_pythonic": True}, "", "", [FIRST]),
    "a thought and a call": (f"<think>\n想\n</think>\n\n好{CALL}", {}, "想", "好", [FIRST]),
    "a thought that the prompt opened": ("想一\n想\n</think>\n\n好", {"is_thinking": True}, "想一\n想", "好", []),
    "a thought that is opened twice": ("<think>\n想</think>好", {"is_thinking": True}, "想", "好", []),
    "an unfinished thought": ("<think>想", {}, "想", "", []),
    "an empty thought": ("<think>\n\n</think>\n\n好", {}, "", "好", []),
    "a call within a thought": (f"<think>{OTHER}</think>好", {}, OTHER, "好", []),
    "one call is enough": (f"{CALL}; {OTHER}", {"max_calls": 1}, "", "", [FIRST]),
    "no thought is wanted": ("<think>想</think>", {"reads_reasoning": False}, "", "<think>想</think>", []),
}
TEXTS = [
    "今天天气好",
    "{",
    '{"name": "other", "parameters": {}}',
    '{"town": 1}',
    "",
    " \n",
    '  {"name": 3}',
    "<tool",
    "a <b> [1, 2] [x](y) { c",
    f"```json\n{CALL}\n```",
    f'{{"plan": [{CALL}]}}',
    TAGGED % '{"name": "other", "arguments": {}}',
    "[weather(town)]",
    PYTHONIC,
    "好的\n\n",
]


def cuts_of(text: str) -> list[list[str]]:
    """A text whole, and in pieces of several lengths."""
    return [[text], *([text[at : at + size] for at in range(0, len(text), size)] for size in (1, 2, 3, 5, 11))]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_split_the_same_wherever_it_is_cut(name: str) -> None:
    text, arguments, reasoning, content, calls = ANSWERS[name]
    for pieces in cuts_of(text):
        answer = split_answer(AnswerSplitter(NAMES, **arguments), pieces)
        assert (answer.reasoning, answer.content, answer.cut_text) == (reasoning, content, "")
        assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == calls
        assert all(call.is_complete and call.call_id for call in answer.calls)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_of_an_offered_tool_stays_text(text: str) -> None:
    for pieces in cuts_of(text):
        splitter = AnswerSplitter(NAMES)
        answer = split_answer(splitter, pieces)
        assert (answer.content, answer.calls, splitter.finish_reason("stop")) == (text, [], "stop")


@pytest.mark.parametrize(("text", "is_pythonic"), [(f"{CALL}; {OTHER}", False), (PYTHONIC, True)])
def test_of_a_call_that_is_cut_anywhere_no_text_is_lost(text: str, is_pythonic: bool) -> None:
    for end in range(1, len(text)):
        splitter = AnswerSplitter(NAMES, is_pythonic)
        answer = split_answer(splitter, [text[:end]])
        complete = [call for call in answer.calls if call.is_complete]
        kept = answer.content + answer.cut_text
        assert len(complete) == splitter.completed_calls
        assert text[:end].endswith(kept) and bool(kept or complete)
        if kept:
            assert splitter.finish_reason("length") == "length"
        if answer.cut_text:
            assert answer.cut_text.endswith(answer.calls[-1].arguments) and not answer.calls[-1].is_complete


def test_text_that_only_looks_like_a_call_streams_at_once() -> None:
    splitter = AnswerSplitter(NAMES)
    assert [part.text for part in splitter.feed('{"city": "杭州", ')] == ["{", '"city": "杭州",']
    splitter = AnswerSplitter(NAMES)
    assert "".join(part.text for part in splitter.feed('{"name": "张')) == '{"name": "张'


def test_nothing_is_held_back_if_no_tool_was_offered() -> None:
    assert [part.text for part in AnswerSplitter().feed(CALL)] == [CALL]


def test_arguments_stream_as_they_are_written() -> None:
    splitter = AnswerSplitter(NAMES)
    assert [part.kind for part in splitter.feed(CALL[:50])] == ["call", "arguments"]
    assert [(part.kind, part.text) for part in splitter.feed(CALL[50:52])] == [("arguments", CALL[50:52])]


def test_calls_are_numbered_and_have_ids_of_their_own() -> None:
    parts = [part for part in AnswerSplitter(NAMES).feed(f"{CALL}; {OTHER}") if part.kind == "call"]
    assert [part.call_index for part in parts] == [0, 1] and len({part.call_id for part in parts}) == 2
