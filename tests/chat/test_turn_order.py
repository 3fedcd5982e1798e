"""The order that turns may stand in."""

from __future__ import annotations

import json

import pytest

from hanlin.chat.template_data import to_template_messages, to_template_tools
from hanlin.chat.turn_order import check_order
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall

SYSTEM, USER, ANSWER = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
CALL = Message("assistant", "", tool_calls=(ToolCall("f", {"x": 1}),))
RESULT = Message("tool", "r", name="f")

RIGHT = {
    "one exchange": [USER, ANSWER],
    "a system text first": [SYSTEM, USER, ANSWER, USER, ANSWER],
    "a tool": [USER, CALL, RESULT, ANSWER, USER, ANSWER],
    "two results and a second call": [USER, CALL, RESULT, RESULT, CALL, RESULT, ANSWER],
    "a call at the end": [USER, CALL],
    "a greeting first": [ANSWER, USER, ANSWER],
    "a greeting after the system text": [SYSTEM, ANSWER, USER, ANSWER],
}
WRONG = {
    "nothing": ([], "no turns"),
    "ends with the user": ([USER, ANSWER, USER], "ends with user"),
    "ends with a result": ([USER, CALL, RESULT], "ends with tool"),
    "two answers": ([USER, ANSWER, ANSWER], "assistant after assistant"),
    "two users": ([USER, USER, ANSWER], "user after user"),
    "two systems": ([SYSTEM, SYSTEM, USER, ANSWER], "second or late system"),
    "a late system": ([USER, SYSTEM, ANSWER], "second or late system"),
    "a call without result": ([USER, CALL, ANSWER], "assistant after calling assistant"),
    "a result without a call": ([USER, RESULT, ANSWER], "tool after user"),
    "an unknown role": ([Message("bot", "?")], "no role 'bot'"),  # type: ignore[arg-type]
    "a list for a text": ([USER, Message("assistant", ["a"])], "must be text, not list"),  # type: ignore[arg-type]
    "half a surrogate": ([Message("user", "\ud83d"), ANSWER], "surrogate"),
}


@pytest.mark.parametrize("messages", RIGHT.values(), ids=RIGHT.keys())
def test_turns_in_order_pass(messages: list[Message]) -> None:
    check_order(messages, prompt=False)


@pytest.mark.parametrize(("messages", "said"), WRONG.values(), ids=WRONG.keys())
def test_turns_out_of_order_are_named_with_their_place(messages: list[Message], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        check_order(messages, prompt=False, where="chats.jsonl:3")
    assert (caught.value.where or "").startswith("chats.jsonl:3: message")


def test_errors_are_in_chinese_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANLIN_LANG", "zh")
    with pytest.raises(UserError, match="对话以 user 结尾"):
        check_order([USER], prompt=False)


def test_a_prompt_ends_with_the_user_or_a_result() -> None:
    check_order([SYSTEM, USER], prompt=True)
    check_order([USER, CALL, RESULT], prompt=True)
    with pytest.raises(UserError, match="a prompt ends with assistant"):
        check_order([USER, ANSWER], prompt=True)


def test_in_a_prompt_the_user_may_speak_twice() -> None:
    check_order([USER, USER], prompt=True)


def test_absent_fields_are_left_out_as_transformers_does() -> None:
    assert to_template_messages([ANSWER, RESULT]) == [
        {"role": "assistant", "content": "a"},
        {"role": "tool", "content": "r", "name": "f"},
    ]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert to_template_messages([CALL]) == [{"role": "assistant", "content": "", "tool_calls": [call]}]


def test_functions_get_one_form_whatever_form_they_came_in() -> None:
    """Fields in the order of OpenAI's form: vLLM recasts tools so, and a template may write a tool as JSON."""
    whole = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
    bare, wrapped = {"name": "f"}, {"type": "function", "function": dict(reversed(whole.items()))}
    tools = to_template_tools([bare, wrapped])
    assert json.dumps(tools) == json.dumps([{"type": "function", "function": whole}] * 2)
    assert to_template_tools([]) is None
